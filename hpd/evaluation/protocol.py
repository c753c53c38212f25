"""The host protocol: train fresh students on a set, test them on real images nobody has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from generators import Prior
from hpd.artifacts import DistilledSet
from hpd.artifacts.ledger import Ledger
from hpd.data import Dataset, Images
from hpd.evaluation.bench import Bench
from hpd.evaluation.card.measuring import Card, measure_card
from hpd.evaluation.contenders import (
    Contender,
    Materials,
    contenders,
    random_of_counts,
    references,
)
from hpd.evaluation.forecast import EstimateHook, Forecast
from hpd.evaluation.rows import Evaluation, Row, scored
from hpd.evaluation.settings import EvaluationSettings
from hpd.evaluation.whole_sets import WholeSet, accuracy_of, whole_sets
from hpd.machine.device import Processes
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
    on_estimate: EstimateHook = lambda estimate: None,
    ledger: Ledger | None = None,
    processes: Processes | None = None,
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
        on_estimate: hears how long it goes on, once the first students were tested.
        ledger: knows the students that were tested before, and hears of each; None: of none. Of
            several processes that of the first counts.
        processes: that share the students out, and call this at once; each tests some, and all get
            the same. None: this one tests all.

    Raises:
        ConfigError: if a class has fewer distilled images than one of `counts`, the soft labels to
            take are not there, the teacher is of other images, or a baseline needs a generator.
        RunError: if there is no such teacher.
    """
    bench, processes = Bench(dataset, settings, device, streams), processes or Processes()
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
    ledger = ledger or Ledger()
    found = _measure([*table, *others], bench, settings, report, ledger, processes, on_estimate)
    keys = {contender.key for contender in table}
    rows, rest = ([row for key, row in found.rows if (key in keys) == own] for own in (True, False))
    known = whole_sets(dataset)
    about = {**found.about, "whole_sets": [own.as_json() for own in known]}
    if settings.card is not None:
        asked = [contender for contender in table if contender.name in _CARDED]
        about["card"] = {
            "settings": settings.card.model_dump(mode="json"),
            "sets": _cards(asked, bench, settings, dataset, report, processes),
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
    found = _measure(contenders, bench, settings, report, ledger or Ledger(), Processes())
    marks = _marks(whole_sets(dataset), settings)
    return Evaluation(scored([row for _, row in found.rows], [], marks), about=found.about)


def _cards(
    contenders: Sequence[Contender], bench: Bench, settings: EvaluationSettings,
    dataset: Dataset, report: Report, processes: Processes,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train students on each set once more, at its own resolution and at the other."""
    assert settings.card is not None, "asked for"
    card, side = settings.card, settings.card.side_for(dataset.train.image_shape)

    def measured(student: StudentSettings, contender: Contender) -> Card:
        seeds = range(settings.seeds)
        # a teacher that is asked online knows images of its own size only
        other = [] if contender.labels == "online" else seeds
        return measure_card(
            contender.name,
            settings.name_of(student),
            bench.trained(student, contender, seeds),
            bench.trained(student, contender, other, side),
            data=dataset,
            settings=card,
            streams=bench.streams,
            device=bench.device,
        )

    works = [(student, contender) for student in settings.students for contender in contenders]
    found: list[dict[str, Any]] = []
    for some in _rounds(works, processes.count):
        found += _share(some, lambda work: measured(*work).as_json(), processes)
        report(f"card of {some[-1][1].name}", len(found), len(works))
    return found


@dataclass(frozen=True)
class _Measured:
    """Rows by the keys of their contenders, and what made them."""

    rows: list[tuple[str, Row]]
    about: dict[str, Any]


@dataclass(frozen=True)
class _Work:
    """Students that learn at once: of one kind, on one set.

    Args:
        network: kind of student, after its number among them.
        student: its options.
        contender: the set.
        seeds: of the students.
    """

    network: str
    student: StudentSettings
    contender: Contender
    seeds: Sequence[int]

    @property
    def names(self) -> list[str]:
        """Names of the students in the ledger."""
        return [f"{self.network} {self.contender.key} {seed}" for seed in self.seeds]

    def found(self, bench: Bench, known: Sequence[float | None]) -> list[float]:
        """Return the accuracies of all of them; those that are not known are tested."""
        missing = [seed for seed, score in zip(self.seeds, known, strict=True) if score is None]
        tested = iter(bench.scores(self.student, self.contender, missing))
        return [next(tested) if score is None else score for score in known]


def _measure(
    contenders: Sequence[Contender], bench: Bench, settings: EvaluationSettings, report: Report,
    ledger: Ledger, processes: Processes, on_estimate: EstimateHook = lambda estimate: None,
) -> _Measured:  # fmt: skip
    every, started = range(settings.seeds), time.perf_counter()
    # students learn once of what is the same in two rows
    unique: dict[str, Contender] = {}
    for contender in contenders:
        unique.setdefault(contender.learnt, contender)
    works = [
        _Work(_network(number, student), student, contender, every[i : i + _TOGETHER])
        for number, student in enumerate(settings.students)
        for contender in unique.values()
        for i in range(0, len(every), _TOGETHER)
    ]
    forecast = Forecast(bench, on_estimate, [
        (work.student, work.contender, sum(ledger.get(name) is None for name in work.names))
        for work in works
    ])  # fmt: skip
    scores, done = dict[tuple[str, str], list[float]](), 0
    total = len(unique) * len(settings.students) * settings.seeds
    for some in _rounds(works, processes.count):
        found = _tested(some, bench, ledger, processes)
        for work, own in zip(some, found, strict=True):
            scores.setdefault((work.network, work.contender.learnt), []).extend(own)
            for _ in own:
                done += 1
                report(work.contender.name, done, total)
        if processes.is_first:
            forecast.hear(len(some))
    rows = processes.first(
        lambda: [
            (
                contender.key,
                bench.row(contender, student, scores[_network(number, student), contender.learnt]),
            )
            for number, student in enumerate(settings.students)
            for contender in contenders
        ]
    )
    seconds = round(time.perf_counter() - started, 3)
    return _Measured(
        rows, {"settings": settings.model_dump(mode="json"), "students_seconds": seconds}
    )


def _network(number: int, student: StudentSettings) -> str:
    return f"{number} {STUDENTS.kind_of(student)}"


def _tested(
    works: Sequence[_Work], bench: Bench, ledger: Ledger, processes: Processes
) -> list[list[float]]:
    """Return the accuracies of some students, one work a process; those that are known as they are.

    The ledger hears of all students that learned at once: a part of them trained again would have
    other companions.
    """
    names = [work.names for work in works]
    known = processes.first(lambda: [[ledger.get(name) for name in own] for own in names])
    pairs = list(zip(works, known, strict=True))
    found = _share(pairs, lambda pair: pair[0].found(bench, pair[1]), processes)

    def keep() -> None:
        for own, before, scores in zip(names, known, found, strict=True):
            new = zip(own, before, scores, strict=True)
            ledger.put_all({name: score for name, old, score in new if old is None})

    processes.first(keep)
    return found


_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


def _rounds(works: Sequence[_Given], count: int) -> Iterator[Sequence[_Given]]:
    """Yield works, as many at a time as there are processes."""
    for start in range(0, len(works), count):
        yield works[start : start + count]


def _share(
    works: Sequence[_Given], do: Callable[[_Given], _Found], processes: Processes
) -> list[_Found]:
    """Do one work in each process, and return what came of all of them in each, in their order."""
    own: list[_Found] = []
    with processes.together():
        if processes.rank < len(works):
            own = [do(works[processes.rank])]
    return [found for theirs in processes.objects(own) for found in theirs]


def _marks(known: list[WholeSet], settings: EvaluationSettings) -> dict[str, float]:
    """Return what is known of the students on the whole set, by name."""
    found = {settings.name_of(own): accuracy_of(known, own) for own in settings.students}
    return {name: accuracy for name, accuracy in found.items() if accuracy is not None}
