"""Distribution matching (DM): class means of a random student's embedding.

Source: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, equation 5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.errors import ShapeError
from hpd.objectives.base import OBJECTIVES, Stateless
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.students import Student
from hpd.typing import Matched, Objective, Step

Augment = Callable[[Tensor], Tensor]


def distribution_halves(real: Tensor, other: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``sum over classes of <real - a, other - b>``, all [K, E].

    With means of independent draws it is, in the mean over draws, the distance of the means of all:
    ``E <r - a, r' - b> = || E r - E a ||^2``. The square of one difference is more by its variance,
    ``tr(Sigma) / n`` for n images drawn: it pays to make the images of a class alike. Halves that
    are drawn from N images without repetition leave ``- tr(Sigma) / N``, which is little.
    """
    return ((real - a) * (other - b)).sum()


def distribution_loss(real_means: Tensor, synthetic_means: Tensor) -> Tensor:
    """Return ``sum over classes of || real mean - synthetic mean ||^2``, both [K, E]."""
    return (real_means - synthetic_means).square().sum()


@OBJECTIVES.register("distribution")
class DistributionSettings(MatchingSettings):
    """DM: a fresh random student per step, the same for all classes."""

    halves: bool = Field(
        False,
        description="compare halves of the real and of the synthetic images of a step, crosswise:"
        " without bias where a step sees a part of the synthetic images, as with `hmn`",
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`."""
        return DistributionMatching(RealSide(train, self, device, streams), halves=self.halves)


class DistributionMatching(Stateless):
    """Distance of the class means of synthetic and real embeddings, summed over classes.

    Each class goes through the student by itself, so that what it gives is the same to the bit
    whichever classes are matched beside it, and only its activations are in memory.
    """

    def __init__(self, real: RealSide, *, halves: bool = False) -> None:
        self._real, self._parts = real, 2 if halves else 1
        self._kept: dict[tuple[Step, int], list[Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real = self._real
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step) or _unchanged
        loss, image_grad = 0.0, torch.zeros_like(images)
        for c in labels.unique().tolist():
            own = labels == c
            real_means = self._real_means(student, augment, c, step)
            leaf = images.detach()[own].requires_grad_()
            synthetic = self._means(student.embed(augment(real.normalise(leaf))), "synthetic")
            how = distribution_loss if self._parts == 1 else distribution_halves
            distance = how(*real_means, *synthetic)
            (image_grad[own],) = torch.autograd.grad(distance, leaf)
            loss += float(distance.detach())
        return Matched(loss, image_grad)

    def _real_means(
        self, student: Student, augment: Augment, label: int, step: Step
    ) -> list[Tensor]:
        """Return the mean embedding of the real images of a class, or that of each half.

        A step of no stage is a score's, which asks for the same again and again: it is kept.
        """
        kept = self._kept.get((step, label))
        if kept is None:
            real = self._real
            batch = augment(real.batch(label, step))
            kept = self._means(real.response(student).embed(student, batch), "real")
            if step.stage < 0:
                self._kept[step, label] = kept
        return kept

    def _means(self, embedded: Tensor, what: str) -> list[Tensor]:
        """Return the mean [1, E] of embeddings [n, E] of one class, or that of each half.

        Raises:
            ShapeError: if there are fewer images than parts.
        """
        if len(embedded) < self._parts:
            raise ShapeError(
                f"halves need two {what} images of each class in a step",
                got=len(embedded),
                fix="Leave out objective.halves.",
            )
        return [part.mean(dim=0, keepdim=True) for part in embedded.tensor_split(self._parts)]

    def needs_all(self, step: Step) -> bool:
        """Return that classes are matched one by one."""
        return False

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        return self(images[own], labels[own], step)


def _unchanged(images: Tensor) -> Tensor:
    return images
