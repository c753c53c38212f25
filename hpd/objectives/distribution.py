"""Distribution matching (DM): class means of a random student's embedding.

Source: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, equation 5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpd.data import ImageSet
from hpd.objectives.base import OBJECTIVES, Stateless
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.students import Student
from hpd.typing import Matched, Objective, Step

Augment = Callable[[Tensor], Tensor]


def distribution_loss(real_means: Tensor, synthetic_means: Tensor) -> Tensor:
    """Return ``sum over classes of || real mean - synthetic mean ||^2``, both [K, E]."""
    return (real_means - synthetic_means).square().sum()


@OBJECTIVES.register("distribution")
class DistributionSettings(MatchingSettings):
    """DM: a fresh random student per step, the same for all classes."""

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`."""
        return DistributionMatching(RealSide(train, self, device, streams))


class DistributionMatching(Stateless):
    """Distance of the class means of synthetic and real embeddings, summed over classes.

    Each class goes through the student by itself, so that what it gives is the same to the bit
    whichever classes are matched beside it, and only its activations are in memory.
    """

    def __init__(self, real: RealSide) -> None:
        self._real = real
        self._kept: dict[tuple[Step, int], Tensor] = {}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real = self._real
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step) or _unchanged
        loss, image_grad = 0.0, torch.zeros_like(images)
        for c in labels.unique().tolist():
            own = labels == c
            real_mean = self._real_mean(student, augment, c, step)
            leaf = images.detach()[own].requires_grad_()
            synthetic = student.embed(augment(real.normalise(leaf)))
            distance = distribution_loss(real_mean, _mean(synthetic))
            (image_grad[own],) = torch.autograd.grad(distance, leaf)
            loss += float(distance.detach())
        return Matched(loss, image_grad)

    def _real_mean(self, student: Student, augment: Augment, label: int, step: Step) -> Tensor:
        """Return the mean embedding of the real images of a class.

        A step of no stage is a score's, which asks for the same again and again: it is kept.
        """
        kept = self._kept.get((step, label))
        if kept is None:
            real = self._real
            kept = _mean(real.response.embed(student, augment(real.batch(label, step))))
            if step.stage < 0:
                self._kept[step, label] = kept
        return kept

    def needs_all(self, step: Step) -> bool:
        """Return that classes are matched one by one."""
        return False

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        return self(images[own], labels[own], step)


def _mean(embedded: Tensor) -> Tensor:
    """Return the mean [1, E] of embeddings [n, E] of one class."""
    return embedded.mean(dim=0, keepdim=True)


def _unchanged(images: Tensor) -> Tensor:
    return images
