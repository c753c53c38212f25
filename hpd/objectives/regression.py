"""Neural feature regression (FRePo): what a regression from the set predicts of real images.

Sources: Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS
2022, equations 2 and 3, with a pool of networks; Nguyen, Chen and Lee, ICLR 2021 (KIP).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.machine.host import one_hot
from hpd.objectives.base import OBJECTIVES
from hpd.objectives.classes import of_classes
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.objectives.pool import Pool, PoolSettings
from hpd.rng import Streams
from hpd.students import Student
from hpd.students.ridge import centred_targets, ridge_predictions
from hpd.typing import Matched, Objective, State, Step


def regression_loss(
    real: Tensor, synthetic: Tensor, targets: Tensor, wanted: Tensor, ridge: float
) -> Tensor:
    """Return ``mean over real images of || P - y ||^2``, P as `ridge_predictions` says.

    Args:
        real: features of real images [M, E].
        synthetic: features of synthetic images [N, E].
        targets: what the synthetic images stand for [N, K].
        wanted: what is to be predicted of the real ones [M, K].
        ridge: weight of the penalty.
    """
    gaps = ridge_predictions(real, synthetic, targets, ridge) - wanted
    return gaps.square().sum(dim=1).mean()


def unclearness(probabilities: Tensor) -> Tensor:
    """Return ``- mean of min(p1 - p2, 1 / K)``, the two largest of each row of [N, K]."""
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return -(first - second).clamp_max(1 / probabilities.shape[1]).mean()


@OBJECTIVES.register("regression")
class RegressionSettings(MatchingSettings):
    """Ridge regression from the features of the synthetic images to those of real ones.

    First order in the network: nothing is unrolled.
    """

    real_batch: int = Field(
        1024, ge=1, description="real images a step, as many of each class, at least 1 of each"
    )
    ridge: float = Field(
        1e-3, ge=1e-9, description="weight of the penalty, as a share of the kernel's mean diagonal"
    )
    pool: PoolSettings | None = Field(
        PoolSettings(),
        description="networks that are trained on the synthetic images; null: a fresh random one"
        " at each step, which is enough for one image a class",
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`."""
        return Regression(RealSide(train, self, device, streams), self)


class Regression:
    """Squared error of predictions of real images, by a regression from the synthetic ones."""

    def __init__(self, real: RealSide, settings: RegressionSettings) -> None:
        self._real, self._settings = real, settings
        pool = settings.pool
        self._pool = None if pool is None else Pool(real, pool, settings.augment)

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the student computed in."""
        return {"student_precision": self._real.precision}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        targets = one_hot(labels, self._real.train.num_classes).to(images)
        matched = self._matched(images, (labels, targets), labels, step)
        return replace(matched, label_grad=None)

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities, which are kept apart; see `MatchesTargets`.

        To the loss comes ``- mean over images of min(p1 - p2, 1 / K)``, p1 and p2 the two largest
        probabilities of a label, as in the released code of FRePo.
        """
        matched = self._matched(images, (labels, targets), targets, step)
        assert matched.label_grad is not None
        leaf = targets.detach().requires_grad_()
        term = unclearness(leaf)
        (grad,) = torch.autograd.grad(term, leaf)
        loss = matched.loss + term.detach()
        return replace(matched, loss=loss, label_grad=matched.label_grad + grad)

    def _matched(
        self, images: Tensor, labelled: tuple[Tensor, Tensor], taught: Tensor, step: Step
    ) -> Matched:
        """Match images with classes [N] and labels [N, K]; networks learn what is `taught`."""
        # a score is always of the same network, and leaves the pool alone
        pool = None if step.stage < 0 else self._pool
        metrics: dict[str, float] = {}
        if pool is None:
            student = self._real.student(step)
        else:
            student, age = pool.at(step)
            metrics["network_steps"] = float(age)
        loss, grads = self._match(student.requires_grad_(False), images, labelled, step)
        if pool is not None:
            pool.train(images, taught, step)
        return Matched(loss, grads[0], metrics, grads[1])

    def _match(
        self, student: Student, images: Tensor, labelled: tuple[Tensor, Tensor], step: Step
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss and its gradients by images and labels; see `_matched`."""
        real, classes = self._real, self._real.train.num_classes
        labels, targets = labelled
        # of the classes that the step takes: the others would be predicted from nothing
        present = of_classes(labels, at_once=None)[0].labels
        batch, wanted = real.balanced_batch(self._settings.real_batch, step, present)
        leaf, told = images.detach().requires_grad_(), targets.detach().requires_grad_()
        synthetic = real.normalise(leaf)
        augment = real.augmentation(step)
        if augment is not None:
            batch, synthetic = augment(batch), augment(synthetic)
        # in float64, for kernels are nearly singular
        known = real.response(student).embed(student, batch).double()
        loss = regression_loss(
            known,
            real.traced(student).embed(student, synthetic).double(),
            told.double() - 1 / classes,
            centred_targets(wanted, classes),
            self._settings.ridge,
        )
        return loss.detach(), torch.autograd.grad(loss, (leaf, told))

    def state(self) -> State:
        """Return clones of the pool's weights and moments."""
        return {} if self._pool is None else self._pool.state()

    def load_state(self, state: State) -> None:
        """Restore the pool."""
        if self._pool is not None:
            self._pool.load_state(state)
