"""Distribution matching (DM): class means of a random student's embedding.

Source: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, equation 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpd.data import ImageSet
from hpd.objectives.base import OBJECTIVES, Stateless
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.typing import Matched, Objective, Step


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

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real = self._real
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step) or _unchanged
        loss, image_grad = 0.0, torch.zeros_like(images)
        for c in labels.unique().tolist():
            own = labels == c
            embedded = real.response.embed(student, augment(real.batch(c, step)))
            leaf = images.detach()[own].requires_grad_()
            synthetic = student.embed(augment(real.normalise(leaf)))
            distance = distribution_loss(_mean(embedded), _mean(synthetic))
            (image_grad[own],) = torch.autograd.grad(distance, leaf)
            loss += float(distance.detach())
        return Matched(loss, image_grad)

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
