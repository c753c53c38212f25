"""Double-end pruning: which images of a set that is too large to drop, the hardest or the easiest.

Source: Zheng et al., Leveraging Hierarchical Feature Sharing for Efficient Dataset Condensation,
ECCV 2024 (HMN), after Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin
Ranking, NeurIPS 2020. Beta is chosen on held-out training images here, never on the test set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.data import ImageSet
from hpd.errors import RunError
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Student,
    StudentSettings,
    Taught,
    TrainingSettings,
    accuracy,
    in_batches,
    train_epoch,
    train_student,
)
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import HardTraining


class PruningSettings(Settings):
    """How a set is pruned."""

    betas: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.0, 0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="shares of the hardest among the images to drop; the rest are the easiest",
    )
    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(), description="tells hard images from easy ones"
    )
    training: HardTraining = Field(
        TrainingSettings(epochs=60, batch_size=64),
        description="of the student whose margins count, and of those that compare betas",
    )
    students: int = Field(1, ge=1, description="students for each beta; accuracies are averaged")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="share of the training images that betas are compared on"
    )


@dataclass(frozen=True)
class Trial:
    """One way to prune.

    Args:
        beta: share of the hardest among the dropped images.
        hardest: images of the lowest margin dropped in each class.
        easiest: images of the highest margin dropped in each class.
        accuracy: percent of the held-out images, mean over students; None where a single way was
            left and no student was trained.
    """

    beta: float
    hardest: int
    easiest: int
    accuracy: float | None


@dataclass(frozen=True)
class Pruning:
    """What to keep of a set.

    Args:
        kept: indices of the images that stay, ascending.
        margins: area under the margin of every image [N].
        best: the trial that was chosen.
        trials: all of them, by beta.
    """

    kept: Tensor
    margins: Tensor
    best: Trial
    trials: tuple[Trial, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest tells."""
        dropped = len(self.margins) - len(self.kept)
        rows = [vars(trial) for trial in self.trials]
        return {"beta": self.best.beta, "kept": len(self.kept), "dropped": dropped, "trials": rows}


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``z_y - max over k != y of z_k`` for each image.

    Args:
        logits: z [N, K], K at least 2.
        labels: y [N].

    Returns:
        [N].

    >>> margins_of(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 2]))
    tensor([ 1., -1.])
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -math.inf)
    return (own - others.amax(dim=1, keepdim=True))[:, 0]


def area_under_margin(
    student: Student,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    streams: Streams,
) -> Tensor:
    """Train a student and return the mean margin of each image over the epochs.

    ``AUM(i) = 1/T sum over t of ( z_t(i)_y - max over k != y of z_t(i)_k )``, the logits taken
    after each epoch, without augmentation.

    Args:
        student: fresh, on the device of `images`; it is trained in place.
        images: normalised [N, C, H, W].
        labels: [N].
        settings: T and how to train.
        streams: order of the images, augmentation and dropout.

    Returns:
        [N]: low for images that speak for another class, high for those that add nothing.

    Source: Pleiss et al., NeurIPS 2020, equations 1 and 2.
    """
    optimizer = settings.optimizer(student)
    total = torch.zeros(len(images), device=images.device)
    taught, epochs = Taught(images, labels), settings.pace(len(images)).epochs
    for epoch in range(epochs):
        rng = streams.generator("epoch", epoch)
        train_epoch(student, optimizer, taught, settings, rng, epoch)
        total += margins_of(in_batches(student.eval(), images), labels)
    return total / epochs


def double_end(scores: Tensor, labels: Tensor, hardest: int, easiest: int) -> Tensor:
    """Return the indices that stay when each class loses both ends of its scores.

    Args:
        scores: [N], low for hard images; of equal ones, the first counts as the harder.
        labels: [N].
        hardest: images of the lowest scores to drop in each class.
        easiest: images of the highest scores to drop in each class.

    Returns:
        indices, ascending.

    >>> scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    >>> double_end(scores, torch.zeros(4, dtype=torch.int64), 1, 2)
    tensor([2])
    """
    kept = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        order = own[scores[own].argsort(stable=True)]
        kept.append(order[hardest : len(order) - easiest])
    return torch.cat(kept).sort().values


def prune_set(
    distilled: DistilledSet,
    per_class: int,
    held: ImageSet,
    settings: PruningSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Pruning:
    """Choose the images that stay, as many of every class.

    For each beta the ``floor(beta k)`` hardest and ``k - floor(beta k)`` easiest of the k images
    that a class must lose are left out, and a student is trained on the rest. The beta of the
    highest accuracy on the held-out images wins, of equal ones the first.

    Args:
        distilled: the set, as many images in every class.
        per_class: images that stay in each.
        held: held-out training images.
        settings: options.
        device: where to train.
        streams: randomness of the students, the same for every beta.
        report: hears (what is trained, students done, students in all).

    Raises:
        RunError: if the classes differ in size, or nothing is left of them.
    """
    drop = _surplus(distilled, per_class)
    work = _Work(distilled, held, settings, device, streams)
    counts = {math.floor(beta * drop): beta for beta in sorted(settings.betas, reverse=True)}
    ways = [(beta, hardest) for hardest, beta in sorted(counts.items())]
    total = 1 + (len(ways) * settings.students if len(ways) > 1 else 0)
    report("margins", 0, total)
    margins = work.margins()
    trials: list[Trial] = []
    for beta, hardest in ways:
        score = None
        if len(ways) > 1:
            report(f"beta {beta:g}", 1 + len(trials) * settings.students, total)
            score = work.accuracy(double_end(margins, distilled.labels, hardest, drop - hardest))
        trials.append(Trial(beta, hardest, drop - hardest, score))
    best = max(trials, key=lambda trial: trial.accuracy or 0.0)
    report("done", total, total)
    kept = double_end(margins, distilled.labels, best.hardest, best.easiest)
    return Pruning(kept, margins, best, tuple(trials))


def _surplus(distilled: DistilledSet, per_class: int) -> int:
    """Return how many images each class must lose."""
    counts = torch.bincount(distilled.labels, minlength=len(distilled.classes))
    if int(counts.min()) != int(counts.max()):
        raise RunError("classes of different sizes cannot be pruned alike", got=counts.tolist())
    if not 0 < per_class <= int(counts[0]):
        raise RunError(
            "cannot prune to this size",
            got=f"{per_class} images a class",
            expected=f"1 to {int(counts[0])}",
            fix="Give another --budget.",
        )
    return int(counts[0]) - per_class


class _Work:
    """Students on parts of a set."""

    def __init__(
        self, distilled: DistilledSet, held: ImageSet, settings: PruningSettings,
        device: torch.device, streams: Streams,
    ) -> None:  # fmt: skip
        self._settings, self._streams, self._device = settings, streams, device
        self._images = distilled.seen_as(held.normalisation).normalised().to(device)
        self._labels = distilled.labels.to(device)
        self._shape, self._num_classes = held.image_shape, held.num_classes
        self._test = held.seen_on(device), held.labels.to(device)

    def _student(self, streams: Streams) -> Student:
        rng = streams.generator("weights")
        student = self._settings.student.build(self._shape, self._num_classes, rng)
        return student.to(self._device)

    def margins(self) -> Tensor:
        """Return the area under the margin of every image [N], on the CPU."""
        own = self._streams.fork("margins")
        return area_under_margin(
            self._student(own), self._images, self._labels, self._settings.training, own
        ).cpu()

    def accuracy(self, kept: Tensor) -> float:
        """Return the accuracy on the held-out images of students trained on a part, in percent."""
        kept, scores = kept.to(self._device), []
        for i in range(self._settings.students):
            own = self._streams.fork("student", i)
            student = self._student(own)
            images, labels = self._images[kept], self._labels[kept]
            train_student(student, images, labels, self._settings.training, own)
            scores.append(100 * accuracy(student, *self._test))
        return round(fmean(scores), 4)
