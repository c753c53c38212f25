"""Gradient matching (DC, and DSA with augmentation): the gradients a student would train with.

Source: Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021,
equations 9 and 10; Zhao and Bilen, ICML 2021, for the Siamese augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.data import ImageSet
from hpd.objectives.base import OBJECTIVES
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.students import Student
from hpd.typing import Matched, Objective, Step


def gradient_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Return the cosine distance of two gradients, per output channel, summed.

    ``sum over layers, sum over out of (1 - <r, s> / (|r| |s| + 1e-6))`` with each gradient
    reshaped to [out, rest]. Vectors (biases, scales of norms) do not count.

    Args:
        real: gradient of each parameter.
        synthetic: the same shapes.
    """
    total = synthetic[0].new_zeros(())
    for r, s in zip(real, synthetic, strict=True):
        if r.ndim < 2:
            continue
        r, s = r.flatten(1), s.flatten(1)
        cosine = (r * s).sum(dim=1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)
        total = total + (1 - cosine).sum()
    return total


def weight_gradient(
    student: Student, images: Tensor, labels: Tensor, *, create_graph: bool = False
) -> list[Tensor]:
    """Return the gradient of the mean cross entropy by each weight of two or more dimensions.

    Args:
        student: the network.
        images: normalised [N, C, H, W].
        labels: [N].
        create_graph: whether the result is to be differentiated by the images.
    """
    weights = [p for p in student.parameters() if p.ndim >= 2]
    loss = F.cross_entropy(student(images), labels)
    return list(torch.autograd.grad(loss, weights, create_graph=create_graph))


@OBJECTIVES.register("gradient")
class GradientSettings(MatchingSettings):
    """DC with one outer step: a fresh student per step, matched class by class.

    With an empty `augment` it is DC, else DSA.
    """

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`."""
        return GradientMatching(RealSide(train, self, device, streams))


class GradientMatching:
    """Distance of the gradients that real and synthetic images of a class give a student."""

    def __init__(self, real: RealSide) -> None:
        self._real = real

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        student = self._real.student(step)
        image_grad = torch.zeros_like(images)
        loss = 0.0
        for c in labels.unique().tolist():
            own = labels == c
            distance, grad = self._match_class(student, images[own], c, step)
            loss += distance
            image_grad[own] = grad
        return Matched(loss, image_grad)

    def _match_class(
        self, student: Student, images: Tensor, label: int, step: Step
    ) -> tuple[float, Tensor]:
        """Return the distance of one class and its gradient by the class's images."""
        batch = self._real.batch(label, step)
        leaf = images.detach().requires_grad_()
        synthetic = self._real.normalise(leaf)
        augment = self._real.augmentation(step, label)
        if augment is not None:
            batch, synthetic = augment(batch), augment(synthetic)
        target = weight_gradient(student, batch, _constant(label, batch))
        got = weight_gradient(student, synthetic, _constant(label, synthetic), create_graph=True)
        distance = gradient_distance(target, got)
        (grad,) = torch.autograd.grad(distance, leaf)
        return float(distance.detach()), grad


def _constant(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
