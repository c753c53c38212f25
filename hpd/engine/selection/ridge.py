"""Selection by ridge regressions on features of random networks: an error without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import Images, ImageSet
from hpd.engine.selection.base import SELECTORS, SelectorSettings, some_of
from hpd.rng import Streams
from hpd.students import STUDENTS, Student, StudentSettings, in_batches
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.ridge import centred_targets, ridge_predictions
from hpd.typing import Objective, Score, Selector

_BATCH = 128


@SELECTORS.register("ridge")
class RidgeSettings(SelectorSettings):
    """The error on real training images of ridge regressions from the synthetic set.

    Each regression is on the embedding by a network of random weights, so that nothing is trained.
    Networks and real images are the same for every score.
    """

    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(width=32), description="the networks' architecture"
    )
    networks: int = Field(5, ge=1, description="networks, each with fresh weights")
    images: int = Field(
        2000, ge=1, description="real images that are predicted, as many of each class, at least 1"
    )
    margin: float = Field(
        2.0,
        ge=0,
        description="standard errors by which a score must differ to mean anything: of the states"
        " within it of the lowest the last is kept; 0: the lowest alone",
    )
    # with less, rounding could leave the kernel without an inverse
    ridge: float = Field(
        1e-3, ge=1e-9, description="weight of the penalty, as a share of the kernel's mean diagonal"
    )
    criterion: Literal["vote", "squared"] = Field(
        "vote",
        description="vote: share of images that the sum over networks gets wrong, ties by the"
        " squared error; squared: the mean squared error of a network",
    )

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector; see `SelectorSettings.build`."""
        per_class = max(1, self.images // train.num_classes)
        real = some_of(train, per_class, streams.generator("real images"))
        students = [
            self.student.build(
                train.image_shape, train.num_classes, streams.generator("network", i)
            )
            for i in range(self.networks)
        ]
        frozen = [student.to(device).eval().requires_grad_(False) for student in students]
        return RidgeError(
            frozen, real, device,
            ridge=self.ridge, criterion=self.criterion, margin=self.margin,
        )  # fmt: skip


def squared_error(predictions: Tensor, labels: Tensor) -> float:
    """Return the mean of ``|| P - y ||^2`` over networks and images.

    Args:
        predictions: of each of T networks, [T, M, K].
        labels: [M].

    Returns:
        0 or more; 1 - 1/K if all predictions are zero.
    """
    gaps = predictions - centred_targets(labels, predictions.shape[2])
    return float(gaps.square().sum(dim=2).mean())


def vote_error(predictions: Tensor, labels: Tensor) -> float:
    """Return the share of images for which the class of the highest sum of P is not the label.

    Shares are multiples of 1/M, and sets often have the same. So there is less than one image
    more: ``(wrong + e / (1 + e)) / M`` with e the `squared_error`, which tells apart sets of as
    many wrong images, and no others.

    Args:
        predictions: of each of T networks, [T, M, K].
        labels: [M].
    """
    wrong = int((predictions.sum(dim=0).argmax(dim=1) != labels).sum())
    error = squared_error(predictions, labels)
    return (wrong + error / (1 + error)) / len(labels)


def vote_spread(predictions: Tensor, labels: Tensor) -> float:
    """Return the standard error of `vote_error`: ``sqrt(p (1 - p) / M)`` of a share p of M images.

    >>> vote_spread(torch.eye(4)[None, [0, 1, 2, 2]], torch.tensor([0, 1, 2, 3]))
    0.21650635094610965
    """
    wrong = float((predictions.sum(dim=0).argmax(dim=1) != labels).double().mean())
    return math.sqrt(wrong * (1 - wrong) / len(labels))


def squared_spread(predictions: Tensor, labels: Tensor) -> float:
    """Return the standard error of `squared_error` over images; 0 for a single one."""
    gaps = predictions - centred_targets(labels, predictions.shape[2])
    each = gaps.square().sum(dim=2).mean(dim=0)
    return float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else 0.0


Criterion = Callable[[Tensor, Tensor], float]
CRITERIA: Mapping[str, tuple[Criterion, Criterion]] = {
    "vote": (vote_error, vote_spread),
    "squared": (squared_error, squared_spread),
}
"""What errors are, and their standard errors: both of predictions [T, M, K] and labels [M]."""


class RidgeError:
    """The error of regressions from the synthetic set on real images; see `RidgeSettings`.

    The real embeddings are computed once. Regressions are solved in float64 on the CPU, as not
    every device knows it.

    Args:
        students: frozen networks, on the device.
        real: the images to predict.
        device: where to embed.
        ridge: see `ridge_predictions`.
        criterion: one of `CRITERIA`.
        margin: of its scores, in standard errors over the real images.
    """

    def __init__(
        self, students: Sequence[Student], real: ImageSet, device: torch.device, *,
        ridge: float, criterion: str, margin: float = 0.0,
    ) -> None:  # fmt: skip
        self._students, self._device, self._ridge = students, device, ridge
        (self._error, self._spread), self._margin = CRITERIA[criterion], margin
        self._normalisation, self._num_classes = real.normalisation, real.num_classes
        self._labels, seen = real.labels, real.seen_on(device)
        self._real = [self._embed(student, seen) for student in students]

    def _embed(self, student: Student, images: Images) -> Tensor:
        """Return the embedding of normalised images, float64 [N, E] on the CPU."""
        rows = in_batches(lambda part: student.embed(part.to(self._device)), images, _BATCH)
        return rows.cpu().double()

    def __call__(self, images: Tensor, labels: Tensor) -> Score:
        """Score images [N, C, H, W] in [0, 1] with labels [N]."""
        normalised = self._normalisation.apply(images.detach())
        targets = centred_targets(labels.cpu(), self._num_classes)
        every = [
            ridge_predictions(real, self._embed(student, normalised), targets, self._ridge)
            for student, real in zip(self._students, self._real, strict=True)
        ]
        found = torch.stack(every), self._labels
        return Score(self._error(*found), self._margin * self._spread(*found))
