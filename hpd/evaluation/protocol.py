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
from hpd.data import Dataset
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
        name: ``distilled``, ``initial`` (the source before its first step), ``random_real`` or
            ``full`` (the whole training set).
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
class _Contender:
    """A set to train on; `draw` gives normalised images and labels for a seed."""

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
    """
    contenders = _contenders(distilled, initial, dataset, settings, streams)
    test_images = dataset.test.normalised().to(device)
    test_labels = dataset.test.labels.to(device)
    total = len(contenders) * len(settings.students) * settings.seeds
    rows, done = [], 0
    for student_settings in settings.students:
        network = STUDENTS.kind_of(student_settings)
        for contender in contenders:
            scores = []
            for seed in range(settings.seeds):
                own = streams.fork("student", network, seed)
                student = student_settings.build(
                    dataset.train.image_shape, dataset.train.num_classes, own.generator("weights")
                ).to(device)
                images, labels = (part.to(device) for part in contender.draw(seed))
                train_student(student, images, labels, contender.training, own)
                scores.append(100 * accuracy(student, test_images, test_labels))
                done += 1
                report(contender.name, done, total)
            rows.append(_row(contender, network, scores))
    return Evaluation(rows)


def _contenders(
    distilled: DistilledSet, initial: DistilledSet, dataset: Dataset,
    settings: EvaluationSettings, streams: Streams,
) -> list[_Contender]:  # fmt: skip
    train, per_class = dataset.train, distilled.images_per_class
    floats_per_image = train.images[0].numel()

    def of(part: DistilledSet) -> Callable[[int], tuple[Tensor, Tensor]]:
        images = part.normalised()
        return lambda seed: (images, part.labels)

    def random_real(seed: int) -> tuple[Tensor, Tensor]:
        rng = streams.generator("random real", seed)
        chosen = train.draw_per_class(round(per_class), rng)
        return train.normalised(chosen), train.labels[chosen]

    small = settings.training
    contenders = [
        _Contender("distilled", of(distilled), small, per_class, distilled.stored_floats),
        _Contender("initial", of(initial), small, initial.images_per_class, initial.stored_floats),
        _Contender("random_real", random_real, small, per_class, len(distilled) * floats_per_image),
    ]
    if settings.full_training is not None:
        everything = train.normalised()
        contenders.append(
            _Contender(
                "full",
                lambda seed: (everything, train.labels),
                settings.full_training,
                len(train) / train.num_classes,
                train.images.numel(),
            )
        )
    return contenders


def _row(contender: _Contender, network: str, scores: Sequence[float]) -> Row:
    return Row(
        name=contender.name,
        network=network,
        images_per_class=contender.images_per_class,
        stored_floats=contender.stored_floats,
        accuracy_mean=round(statistics.fmean(scores), 4),
        accuracy_std=round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
        seeds=list(range(len(scores))),
    )
