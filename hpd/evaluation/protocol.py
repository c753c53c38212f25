"""The host protocol: train fresh students on a set, test them on real images nobody has seen."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.data import Dataset, ImageSet
from hpd.evaluation.ledger import Ledger
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students import STUDENTS, StudentSettings, TrainingSettings, accuracy, train_student
from hpd.students.convnet import ConvNetSettings


class EvaluationSettings(Settings):
    """How sets are compared."""

    students: list[Annotated[StudentSettings, STUDENTS]] = Field(
        [ConvNetSettings()], description="architectures to train, each from fresh weights"
    )
    seeds: int = Field(5, ge=1, description="students of each architecture")
    training: TrainingSettings = Field(TrainingSettings(), description="on small sets")
    full_training: TrainingSettings | None = Field(
        TrainingSettings(epochs=30), description="on the whole training set; null: leave it out"
    )


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: ``distilled``, ``initial`` (the source before its first step), ``random_real`` (as
            many images), ``random_real_floats`` (as many floats, where that is another number of
            images) or ``full`` (the whole training set).
        network: kind of student.
        images_per_class: mean number of images in a class.
        stored_floats: floats that the set counts for.
        accuracy_mean: percent of the test images, mean over students.
        accuracy_std: sample standard deviation over students, in points.
        seeds: seed of each student.
    """

    name: str
    network: str
    images_per_class: float
    stored_floats: int
    accuracy_mean: float
    accuracy_std: float
    seeds: list[int]


@dataclass(frozen=True)
class Evaluation:
    """A table of accuracies."""

    rows: list[Row]

    def row(self, name: str, network: str | None = None) -> Row:
        """Return the row of a set (for one kind of student, if there are several)."""
        return next(r for r in self.rows if r.name == name and network in (None, r.network))

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluation.json` holds."""
        return {"rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class Contender:
    """A set to train on.

    Args:
        name: of its row.
        draw: gives normalised images [N, C, H, W] and labels [N] for a student's seed.
        training: how students are trained on it.
        images_per_class: mean number of images in a class.
        stored_floats: floats that it counts for.
    """

    name: str
    draw: Callable[[int], tuple[Tensor, Tensor]]
    training: TrainingSettings
    images_per_class: float
    stored_floats: int


def evaluate_sets(
    distilled: DistilledSet,
    initial: DistilledSet,
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on a distilled set and on its baselines, and test them on real images.

    The students of all rows start from the same weights, so that rows differ by their data. The
    random real images are drawn anew for each student.

    Args:
        distilled: the set to judge.
        initial: what its source gave before the first step.
        dataset: real images; the test part is used here and nowhere else.
        settings: the protocol.
        device: where to train.
        streams: randomness of students, order, augmentation and of the random real images.
        report: hears (row name, students done, students in all) after each student.
        ledger: knows the students that were tested before, and hears of each; None: of none.
    """
    contenders = _contenders(distilled, initial, dataset, settings, streams)
    return compare(
        contenders, dataset, settings, device=device, streams=streams, report=report, ledger=ledger
    )


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on any sets, and test them; see `evaluate_sets`.

    A set gets the same row whatever it is compared with.
    """
    ledger = ledger or Ledger()
    bench = _Bench(dataset, device, streams)
    total = len(contenders) * len(settings.students) * settings.seeds
    rows, done = [], 0
    for number, student_settings in enumerate(settings.students):
        network = STUDENTS.kind_of(student_settings)
        for contender in contenders:
            scores = []
            for seed in range(settings.seeds):
                name = f"{number} {network} {contender.name} {seed}"
                score = ledger.get(name)
                if score is None:
                    score = bench.score(student_settings, contender, seed)
                    ledger.put(name, score)
                scores.append(score)
                done += 1
                report(contender.name, done, total)
            rows.append(_row(contender, network, scores))
    return Evaluation(rows)


class _Bench:
    """Trains one student on a set, and tests it."""

    def __init__(self, dataset: Dataset, device: torch.device, streams: Streams) -> None:
        self._train, self._device, self._streams = dataset.train, device, streams
        self._images = dataset.test.normalised().to(device)
        self._labels = dataset.test.labels.to(device)

    def score(self, settings: StudentSettings, contender: Contender, seed: int) -> float:
        """Return the accuracy in percent."""
        own = self._streams.fork("student", STUDENTS.kind_of(settings), seed)
        student = settings.build(
            self._train.image_shape, self._train.num_classes, own.generator("weights")
        ).to(self._device)
        images, labels = (part.to(self._device) for part in contender.draw(seed))
        train_student(student, images, labels, contender.training, own)
        return 100 * accuracy(student, self._images, self._labels)


def _contenders(
    distilled: DistilledSet, initial: DistilledSet, dataset: Dataset,
    settings: EvaluationSettings, streams: Streams,
) -> list[Contender]:  # fmt: skip
    train, per_class = dataset.train, round(distilled.images_per_class)
    floats_per_class = distilled.stored_floats / train.num_classes
    affordable = int(floats_per_class // train.images[0].numel())
    small = settings.training
    contenders = [
        of_set("distilled", distilled, small),
        of_set("initial", initial, small),
        of_random_real("random_real", per_class, train, small, streams),
    ]
    if affordable not in (0, per_class):
        name = "random_real_floats"
        contenders.append(of_random_real(name, affordable, train, small, streams))
    if settings.full_training is not None:
        everything = train.normalised()
        contenders.append(
            Contender(
                "full",
                lambda seed: (everything, train.labels),
                settings.full_training,
                len(train) / train.num_classes,
                train.images.numel(),
            )
        )
    return contenders


def of_set(name: str, part: DistilledSet, training: TrainingSettings) -> Contender:
    """Return a synthetic set as a contender."""
    images = part.normalised()
    per_class, floats = part.images_per_class, part.stored_floats
    return Contender(name, lambda seed: (images, part.labels), training, per_class, floats)


def of_random_real(
    name: str, per_class: int, train: ImageSet, training: TrainingSettings, streams: Streams
) -> Contender:
    """Return random real images as a contender, drawn anew for each student.

    As many of each class as `per_class` says, or as the smallest class has.
    """
    per_class = min(per_class, *(len(own) for own in train.by_class))

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        chosen = train.draw_per_class(per_class, streams.generator("random real", seed))
        return train.normalised(chosen), train.labels[chosen]

    floats = per_class * train.num_classes * train.images[0].numel()
    return Contender(name, draw, training, float(per_class), floats)


def _row(contender: Contender, network: str, scores: Sequence[float]) -> Row:
    return Row(
        name=contender.name,
        network=network,
        images_per_class=contender.images_per_class,
        stored_floats=contender.stored_floats,
        accuracy_mean=round(statistics.fmean(scores), 4),
        accuracy_std=round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
        seeds=list(range(len(scores))),
    )
