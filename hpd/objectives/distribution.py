"""Distribution matching (DM): class means of a random student's embedding.

Source: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, equation 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.errors import ShapeError
from hpd.objectives.base import OBJECTIVES, Stateless
from hpd.objectives.classes import of_classes, picked, sum_of
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

    How many classes go through the student together, `RealSide.classes_at_once` says.
    """

    def __init__(self, real: RealSide, *, halves: bool = False) -> None:
        self._real, self._parts = real, 2 if halves else 1
        self._kept: dict[tuple[Step, tuple[int, ...]], list[Tensor]] = {}

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the student computed in."""
        return {"student_precision": self._real.precision}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real = self._real
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step) or _unchanged
        image_grad, losses = torch.zeros_like(images), []
        at_once = real.classes_at_once(student, -(-len(images) // real.train.num_classes), 1)
        for part in of_classes(labels, at_once=at_once):
            real_means = self._real_means(student, augment, part.labels, step)
            leaf = images.detach()[part.where].requires_grad_()
            embedded = real.traced(student).embed(student, augment(real.normalise(leaf)))
            synthetic = self._means(embedded, part.counts, "synthetic")
            how = distribution_loss if self._parts == 1 else distribution_halves
            distance = how(*real_means, *synthetic)
            (image_grad[part.where],) = torch.autograd.grad(distance, leaf)
            losses.append(distance.detach())
        return Matched(sum_of(losses), image_grad)

    def _real_means(
        self, student: Student, augment: Augment, labels: tuple[int, ...], step: Step
    ) -> list[Tensor]:
        """Return the mean embeddings of the real images of some classes, or those of their halves.

        A step of no stage is a score's, which asks for the same again and again: it is kept.
        """
        kept = self._kept.get((step, labels))
        if kept is None:
            real = self._real
            images, counts = real.batches(labels, step)
            embedded = real.response(student).embed(student, augment(images))
            kept = self._means(embedded, counts, "real")
            if step.stage < 0:
                self._kept[step, labels] = kept
        return kept

    def _means(self, embedded: Tensor, counts: Sequence[int], what: str) -> list[Tensor]:
        """Return the mean embedding of each class [K, E], or that of each half of it.

        Args:
            embedded: [N, E], ordered by class.
            counts: of each class.
            what: these are.

        Raises:
            ShapeError: if there are fewer images than parts.
        """
        if min(counts) < self._parts:
            raise ShapeError(
                f"halves need two {what} images of each class in a step",
                got=min(counts),
                fix="Leave out objective.halves.",
            )
        if len(set(counts)) == 1:
            classes = embedded.unflatten(0, (len(counts), counts[0]))
            return [part.mean(dim=1) for part in classes.tensor_split(self._parts, dim=1)]
        found = [
            [part.mean(dim=0) for part in own.tensor_split(self._parts)]
            for own in embedded.split(list(counts))
        ]
        return [torch.stack(means) for means in zip(*found, strict=True)]

    def needs_all(self, step: Step) -> bool:
        """Return that classes are matched one by one."""
        return False

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        return self(*picked(images, labels, own), step)


def _unchanged(images: Tensor) -> Tensor:
    return images
