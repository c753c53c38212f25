"""Networks of several ages, trained on the synthetic images between the steps they are used in.

Source: Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022,
section 3.3 (model pool).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from hpd.augment import OperationName, draw_augmentation
from hpd.errors import RunError
from hpd.objectives.matching import RealSide
from hpd.registry import Settings
from hpd.rng import isolated
from hpd.students import Student
from hpd.students.parameters import flatten, layout_of, unflatten
from hpd.typing import State, Step

_MOMENTS = ("exp_avg", "exp_avg_sq")


class PoolSettings(Settings):
    """How many networks there are, and how each is trained on the synthetic images by Adam."""

    networks: int = Field(10, ge=1, description="of which each step takes one at random")
    updates: int = Field(
        100,
        ge=1,
        description="most steps of training before a fresh network takes the place of one; each"
        " draws its own number, so that there are always young and old ones",
    )
    lr: float = Field(3e-4, gt=0, description="of Adam")
    batch: int = Field(500, ge=1, description="most synthetic images of a step of training")


class Pool:
    """The networks. Each place has one architecture, whichever network is in it.

    Args:
        real: builds them.
        settings: options.
        augment: operations, one of which is drawn for each step of training.
    """

    def __init__(
        self, real: RealSide, settings: PoolSettings, augment: list[OperationName]
    ) -> None:
        self._real, self._settings, self._augment = real, settings, augment
        self._places: list[_Place] = []
        self._next: Step | None = None

    def at(self, step: Step) -> tuple[Student, int]:
        """Return the network of `step`, in eval mode, and the steps that it was trained.

        Raises:
            RunError: in the middle of a run, if the step before was not taken here.
        """
        if not self._follows(step):
            raise RunError(
                f"step {step.index} of stage {step.stage} needs the networks of the one before it",
                fix="Start at the first step, or load the state from before this one.",
            )
        if not self._places:
            self._places = [self._fresh(which, 0) for which in range(self._settings.networks)]
        which = self._chosen(step)
        place = self._places[which]
        return self._real.ready(self._student(which, place.weights), step), place.age

    def train(self, images: Tensor, labels: Tensor, step: Step) -> None:
        """Train the network of `step` by one step, and replace it if it is old.

        Args:
            images: synthetic, in [0, 1], [N, C, H, W].
            labels: [N], or probabilities [N, K].
            step: of the run.
        """
        which = self._chosen(step)
        place = self._places[which]
        rng = self._real.streams.generator("pool training", step.stage, step.index)
        x, y = self._real.normalise(images.detach()), labels
        if len(x) > self._settings.batch:
            chosen = torch.randperm(len(x), generator=rng)[: self._settings.batch].to(x.device)
            x, y = x[chosen], y[chosen]
        if self._augment:
            x = draw_augmentation(self._augment, rng, count=len(x))(x)
        seed = int(torch.randint(1 << 62, (), generator=rng))
        weights = place.weights.clone().requires_grad_()
        weights.grad = self._gradient(which, weights, x, y, seed)
        adam = torch.optim.Adam([weights], lr=self._settings.lr)
        moments = {name: getattr(place, name) for name in _MOMENTS}
        adam.state[weights] = {"step": torch.tensor(float(place.age)), **moments}
        adam.step()
        place.weights, place.age = weights.detach(), place.age + 1
        if place.age >= self._limit(which, place.made):
            self._places[which] = self._fresh(which, place.made + 1)
        self._next = Step(step.stage, step.index + 1)

    def state(self) -> State:
        """Return clones of weights, moments and ages, and the step they are for."""
        if self._next is None:
            return {}
        kept: State = {"next": torch.tensor([self._next.stage, self._next.index])}
        for which, place in enumerate(self._places):
            for name in ("weights", *_MOMENTS):
                kept[f"{which}.{name}"] = getattr(place, name).clone()
            kept[f"{which}.about"] = torch.tensor([place.age, place.made])
        return kept

    def load_state(self, state: State) -> None:
        """Restore what `state` returned."""
        self._next = Step(*state["next"].tolist()) if state else None
        self._places = []
        while f"{len(self._places)}.about" in state:
            prefix = f"{len(self._places)}."
            age, made = state[f"{prefix}about"].tolist()
            names, device = ("weights", *_MOMENTS), self._real.device
            weights, first, second = (state[prefix + name].clone().to(device) for name in names)
            self._places.append(_Place(weights, first, second, age, made))

    def _follows(self, step: Step) -> bool:
        """Return whether the networks are those of the step before."""
        if self._next is None:
            return step == Step(0, 0)
        return step == self._next or (step.index == 0 and step.stage > self._next.stage)

    def _chosen(self, step: Step) -> int:
        rng = self._real.streams.generator("pool choice", step.stage, step.index)
        return int(torch.randint(self._settings.networks, (), generator=rng))

    def _fresh(self, which: int, made: int) -> _Place:
        """Return a place with a fresh network, the `made`-th in it."""
        rng = self._real.streams.generator("pool", which, made)
        weights = flatten(self._real.build(rng, which))
        return _Place(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0, made)

    def _limit(self, which: int, made: int) -> int:
        """Return the steps of training after which the network of a place is replaced."""
        rng = self._real.streams.generator("pool limit", which, made)
        return int(torch.randint(1, self._settings.updates + 1, (), generator=rng))

    def _student(self, which: int, weights: Tensor) -> Student:
        """Return the network of a place with these weights."""
        student = self._real.build(torch.Generator().manual_seed(0), which)
        with torch.no_grad():
            for name, value in unflatten(weights, layout_of(student)).items():
                student.get_parameter(name).copy_(value)
        return student.requires_grad_(False)

    def _gradient(
        self, which: int, weights: Tensor, images: Tensor, labels: Tensor, seed: int
    ) -> Tensor:
        """Return the gradient [P] of the cross entropy of images in training."""
        student = self._student(which, weights.detach()).train()
        named = unflatten(weights, layout_of(student))
        with isolated(seed, images.device):
            loss = F.cross_entropy(functional_call(student, named, (images,)), labels)
        (gradient,) = torch.autograd.grad(loss, weights)
        return gradient


@dataclass
class _Place:
    """One network and its training.

    Args:
        weights: as a vector [P].
        exp_avg: Adam's mean of gradients [P].
        exp_avg_sq: Adam's mean of their squares [P].
        age: steps of training that it had.
        made: number of networks that were in the place before it.
    """

    weights: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    age: int
    made: int
