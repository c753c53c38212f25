"""The host protocol: train fresh students on a set, test them on real images nobody has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators import Prior
from hpd.artifacts import DistilledSet
from hpd.artifacts.ledger import Ledger
from hpd.data import Dataset, Images
from hpd.evaluation.bench import Bench
from hpd.evaluation.card import Card, measure_card
from hpd.evaluation.contenders import (
    Contender,
    Materials,
    contenders,
    random_of_counts,
    references,
)
from hpd.evaluation.rows import Evaluation, Row, scored
from hpd.evaluation.settings import EvaluationSettings
from hpd.evaluation.whole_sets import WholeSet, accuracy_of, whole_sets
from hpd.rng import Streams
from hpd.students import STUDENTS, StudentSettings, in_batches

# students that learn at once: more take more memory, and no less time
_TOGETHER = 5
# the sets whose robustness is measured
_CARDED = ("distilled", "prior_samples", "random_real")

Report = Callable[[str, int, int], None]
"""Hears (row name, students done, students in all) after each student."""


def evaluate_sets(
    distilled: DistilledSet,
    initial: DistilledSet | None,
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    prior: Prior | None = None,
    report: Report = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on a distilled set and on its baselines, and test them on real images.

    The students of all rows start from the same weights, so that rows differ by their data. Random
    real images and samples of the generator are drawn anew for each student.

    Args:
        distilled: the set to judge.
        initial: what its source gave before the first step; None: nobody knows.
        dataset: real images; the test part is used here and nowhere else.
        settings: the protocol.
        device: where to train.
        streams: randomness of students, order, augmentation and of what is drawn.
        prior: the generator behind the source; None without one.
        report: hears of each student.
        ledger: knows the students that were tested before, and hears of each; None: of none.

    Raises:
        ConfigError: if a class has fewer distilled images than one of `counts`, the soft labels to
            take are not there, the teacher is of other images, or a baseline needs a generator.
        RunError: if there is no such teacher.
    """
    bench = Bench(dataset, settings, device, streams)
    seen = dataset.train.normalisation
    distilled = distilled.seen_as(seen)
    initial = None if initial is None else initial.seen_as(seen)

    def embed(images: Images) -> Tensor:
        teacher = bench.teacher(settings.students[0])
        return in_batches(lambda part: teacher.embed(part.to(device)).cpu(), images)

    given = Materials(distilled, initial, dataset, prior, embed, streams)
    table, others = contenders(given, settings), list[Contender]()
    if settings.scores:
        counted = random_of_counts(table, dataset.train, settings, streams)
        others = [*counted, *references([*table, *counted], settings)]
    found = _measure([*table, *others], bench, settings, report, ledger or Ledger())
    keys = {contender.key for contender in table}
    rows, rest = ([row for key, row in found.rows if (key in keys) == own] for own in (True, False))
    known = whole_sets(dataset)
    about = {**found.about, "whole_sets": [own.as_json() for own in known]}
    if settings.card is not None:
        asked = [contender for contender in table if contender.name in _CARDED]
        about["card"] = {
            "settings": settings.card.model_dump(mode="json"),
            "sets": [card.as_json() for card in _cards(asked, bench, settings, dataset, report)],
        }
    return Evaluation(scored(rows, rest, _marks(known, settings)), rest, about=about)


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Report = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on any sets, and test them; see `evaluate_sets`.

    A set gets the same row whatever it is compared with, but for its scores, which rest on other
    rows.
    """
    bench = Bench(dataset, settings, device, streams)
    found = _measure(contenders, bench, settings, report, ledger or Ledger())
    marks = _marks(whole_sets(dataset), settings)
    return Evaluation(scored([row for _, row in found.rows], [], marks), about=found.about)


def _cards(
    contenders: Sequence[Contender], bench: Bench, settings: EvaluationSettings,
    dataset: Dataset, report: Report,
) -> Iterator[Card]:  # fmt: skip
    """Train students on each set once more, at its own resolution and at the other."""
    assert settings.card is not None, "asked for"
    side = settings.card.side_for(dataset.train.image_shape)
    seeds, done = range(settings.seeds), 0
    total = len(contenders) * len(settings.students)
    for student in settings.students:
        for contender in contenders:
            # a teacher that is asked online knows images of its own size only
            other = [] if contender.labels == "online" else seeds
            yield measure_card(
                contender.name,
                settings.name_of(student),
                bench.trained(student, contender, seeds),
                bench.trained(student, contender, other, side),
                data=dataset,
                settings=settings.card,
                streams=bench.streams,
                device=bench.device,
            )
            done += 1
            report(f"card of {contender.name}", done, total)


@dataclass(frozen=True)
class _Measured:
    """Rows by the keys of their contenders, and what made them."""

    rows: list[tuple[str, Row]]
    about: dict[str, Any]


def _measure(
    contenders: Sequence[Contender], bench: Bench, settings: EvaluationSettings, report: Report,
    ledger: Ledger,
) -> _Measured:  # fmt: skip
    total = len(contenders) * len(settings.students) * settings.seeds
    rows, done, started = list[tuple[str, Row]](), 0, time.perf_counter()
    for number, student in enumerate(settings.students):
        network = STUDENTS.kind_of(student)
        for contender in contenders:
            scores: list[float] = []
            while len(scores) < settings.seeds:
                seeds = range(len(scores), min(len(scores) + _TOGETHER, settings.seeds))
                names = {s: f"{number} {network} {contender.key} {s}" for s in seeds}
                scores += _known_or_found(names, bench, student, contender, ledger)
                for _ in seeds:
                    done += 1
                    report(contender.name, done, total)
            rows.append((contender.key, bench.row(contender, student, scores)))
    seconds = round(time.perf_counter() - started, 3)
    return _Measured(
        rows, {"settings": settings.model_dump(mode="json"), "students_seconds": seconds}
    )


def _marks(known: list[WholeSet], settings: EvaluationSettings) -> dict[str, float]:
    """Return what is known of the students on the whole set, by name."""
    found = {settings.name_of(own): accuracy_of(known, own) for own in settings.students}
    return {name: accuracy for name, accuracy in found.items() if accuracy is not None}


def _known_or_found(
    names: Mapping[int, str],
    bench: Bench,
    student: StudentSettings,
    contender: Contender,
    ledger: Ledger,
) -> list[float]:
    """Return the accuracies of some seeds, by their names in the ledger; those missing are tested.

    The ledger hears of them all at once: a part of them trained again would have other companions.
    """
    known = {seed: ledger.get(name) for seed, name in names.items()}
    missing = [seed for seed, score in known.items() if score is None]
    found = dict(zip(missing, bench.scores(student, contender, missing), strict=True))
    ledger.put_all({names[seed]: score for seed, score in found.items()})
    return [score for score in {**known, **found}.values() if score is not None]
