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
from hpd.students import class_means
from hpd.typing import Matched, Objective, Step


def distribution_loss(real_means: Tensor, synthetic_means: Tensor) -> Tensor:
    """Return ``sum over classes of || real mean - synthetic mean ||^2``, both [K, E]."""
    return (real_means - synthetic_means).square().sum()


@OBJECTIVES.register("distribution")
class DistributionSettings(MatchingSettings):
    """DM: a fresh random student per step, all classes in one forward."""

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`."""
        return DistributionMatching(RealSide(train, self, device, streams))


class DistributionMatching(Stateless):
    """Distance of the class means of synthetic and real embeddings, summed over classes."""

    def __init__(self, real: RealSide) -> None:
        self._real = real

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real, classes = self._real, labels.unique()
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step) or _unchanged
        batches = [real.batch(int(c), step) for c in classes]
        sizes = torch.tensor([len(batch) for batch in batches], device=labels.device)
        embedded = real.response.embed(student, augment(torch.cat(batches)))
        real_means = class_means(embedded, classes.repeat_interleave(sizes), real.train.num_classes)
        leaf = images.detach().requires_grad_()
        synthetic = student.embed(augment(real.normalise(leaf)))
        synthetic_means = class_means(synthetic, labels, real.train.num_classes)
        loss = distribution_loss(real_means, synthetic_means)
        (image_grad,) = torch.autograd.grad(loss, leaf)
        return Matched(float(loss.detach()), image_grad)


def _unchanged(images: Tensor) -> Tensor:
    return images
