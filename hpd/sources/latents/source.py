"""The source of latents: in which space they are optimised, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from generators import StoredGenerator
from generators.captured import Captured
from generators.seeds import z_of_seeds
from hpd.errors import RunError
from hpd.machine.precision import name_of
from hpd.sources.batches import Batches
from hpd.sources.coded import GENERATOR
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Stage, State, Step

Space = Literal["seed", "z", "w", "ws"]

SPACES: tuple[Space, ...] = ("z", "w", "ws")
"""Where latents can be optimised, each made of the one before it."""


@dataclass(frozen=True)
class LatentPlan:
    """What is done with latents.

    Args:
        spaces: of each stage; the last one is what is stored.
        steps: of each stage.
        lr: of the latents.
        counted: whether the generator's weights are of the set.
        lr_generator: of these weights; None where they are not optimised.
        optimises: whether anything is, labels by the side included.
        psi: of truncation.
        chunk: most images rendered with a graph at a time.
    """

    spaces: tuple[Space, ...]
    steps: int
    lr: float
    counted: bool
    lr_generator: float | None
    optimises: bool
    psi: float
    chunk: int

    @property
    def store(self) -> Space:
        """What is stored of an image."""
        return self.spaces[-1]

    @property
    def stages(self) -> Sequence[Stage]:
        """One for each space; only what comes of the last one can be stored."""
        steps = self.steps if self.optimises else 0
        *before, last = self.spaces
        stages = [Stage(space, steps) for space in before]
        return (*stages, Stage(last, steps, final=bool(before)))


@dataclass(frozen=True)
class Drawn:
    """Where latents begin.

    Args:
        latents: seeds [N], int64, or z [N, z_dim].
        labels: class of the data of each [N].
        known: class of the generator for each class of the data; None: it has none.
    """

    latents: Tensor
    labels: Tensor
    known: Tensor | None


class LatentSource:
    """Images of a generator; the latents that are stored of each are the parameters.

    Args:
        stored: the generator, frozen, on the device.
        drawn: samples to begin with.
        plan: what is done with them.
        batches: images of a step.
    """

    def __init__(
        self, stored: StoredGenerator, drawn: Drawn, plan: LatentPlan, batches: Batches
    ) -> None:
        self._stored, self.generator = stored, stored.generator
        self._captured = Captured(stored.generator)
        self._plan, self._batches = plan, batches
        self.labels, self._known = drawn.labels, drawn.known
        # until a stage is entered it is what it would be stored as: what it takes is asked before
        self._first: Tensor | None = drawn.latents
        self.space = plan.store
        drawn_in: Space = "seed" if plan.store == "seed" else "z"
        self.latents = self._leaf(self._moved(drawn.latents, drawn_in, plan.store))
        for weight in self._weights.values():
            weight.requires_grad_(plan.lr_generator is not None)

    def _leaf(self, latents: Tensor) -> Tensor:
        # seeds are whole numbers: nothing is optimised
        return latents if self.space == "seed" else as_leaf(latents)

    @torch.no_grad()
    def _moved(self, latents: Tensor, start: Space, stop: Space) -> Tensor:
        """Return latents of one space in another one after it: the same images."""
        if start == stop:
            return latents
        if start == "w":
            return self._spread(latents).contiguous()
        parts = zip(
            latents.split(self._plan.chunk), self.labels.split(self._plan.chunk), strict=True
        )
        ws = torch.cat([self._mapped(z, labels) for z, labels in parts])
        return ws if stop == "ws" else ws[:, 0].contiguous()

    def _mapped(self, z: Tensor, labels: Tensor) -> Tensor:
        own = None if self._known is None else self._known[labels]
        return self.generator.mapped(z, own, self._plan.psi)

    def _spread(self, w: Tensor) -> Tensor:
        return w[:, None].expand(-1, self.generator.spec.num_ws, -1)

    @property
    def _weights(self) -> Mapping[str, nn.Parameter]:
        """The generator's parameters, where they are of the set."""
        if not self._plan.counted:
            return {}
        return {GENERATOR + name: value for name, value in self.generator.named_parameters()}

    @property
    def stored_floats(self) -> int:
        """Number of values in the latents, and in the generator where it is of the set."""
        return sum(value.numel() for value in self.stored.values())

    @property
    def generator_floats(self) -> int:
        """Parameters of the generator outside of the set, without which there are no images."""
        return 0 if self._plan.counted else self.generator.floats

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The latents, and the generator where it is of the set; see `Stores`."""
        return {self.space: self.latents, **self._weights}

    @property
    def provenance(self) -> Mapping[str, object]:
        """The generator, what it computed in, and what is stored of an image."""
        precision = {"generator_precision": name_of(self.generator.compute_dtype)}
        return {"generator": self._stored.facts, **precision, "latents": self._plan.store}

    @property
    def stages(self) -> Sequence[Stage]:
        """One for each space, without steps where nothing is optimised."""
        return self._plan.stages

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Take the latents to the space of a stage, and return them.

        Raises:
            RunError: if there is no such stage.
        """
        spaces = self._plan.spaces
        if not 0 <= stage < len(spaces):
            raise RunError(
                "latents have no such stage", got=stage, expected=f"0 to {len(spaces) - 1}"
            )
        if self._first is not None and len(spaces) > 1:
            self.space, self.latents = "z", self._first
        self._first = None
        moved = self._moved(self.latents.detach(), self.space, spaces[stage])
        self.space = spaces[stage]
        self.latents = self._leaf(moved)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        plan, groups = self._plan, []
        if self.space != "seed":
            groups.append(ParameterGroup(self.space, (self.latents,), plan.lr, self.labels))
        if plan.lr_generator is not None:
            weights = tuple(self._weights.values())
            groups.append(ParameterGroup("generator", weights, plan.lr_generator))
        return groups

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The latents; see `Shardable`."""
        return {self.space: self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, self.latents = self.labels[own], self._leaf(self.latents[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.latents = labels, self._leaf(state[self.space])
        self.load_state(state)

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        return self._batches.of(self.labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._plan.chunk)

    def _decode(self, indices: Tensor) -> Tensor:
        latents, space = picked(self.latents, indices), self.space
        if space == "seed":
            z = z_of_seeds(latents.cpu(), self.generator.spec.z_dim)
            latents, space = z.to(next(self.generator.parameters())), "z"
        if space == "z":
            ws = self._mapped(latents, self.labels[indices])
        else:
            ws = latents if space == "ws" else self._spread(latents)
        return (self._captured.images((), ws, 0) + 1) / 2

    def state(self) -> State:
        """Return clones of what is stored."""
        return {name: value.detach().clone() for name, value in self.stored.items()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore what is stored."""
        for name, value in self.stored.items():
            value.copy_(state[name])
