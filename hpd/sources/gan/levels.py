"""Images that a generator makes from a level on, the parameters being what enters there."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators import LevelState, StoredGenerator
from generators.captured import Captured
from hpd.checks import check_finite
from hpd.errors import RunError
from hpd.machine.host import computes_on_host, fetch
from hpd.machine.precision import name_of
from hpd.rng import Streams
from hpd.sources.batches import Batches
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Stage, StageCost, State, Step

_FLOAT_GUARD = "The learning rate of the level before is probably too high."
_WEIGHT = "generator."


@dataclass(frozen=True)
class LevelPlan:
    """A stage: the level, its steps, the rates of ws and of the level's features, its trial."""

    level: int
    steps: int
    lr_ws: float
    lr_features: float
    trial: int | None = None


class GanSource:
    """Images of a generator; ws, the features of one level and maybe weights are the parameters.

    Args:
        stored: the generator, frozen, on the device; it is not changed.
        ws: initial latents [N, num_ws, D].
        labels: [N].
        plan: the stages, levels ascending.
        lr_pixels: rate of the pixels, at the last level.
        lr_generator: rate of the weights of all layers after the level; None: they are frozen.
        feature_limit: clips features to +-this between levels; None: not at all.
        chunk_images: most images rendered with a graph at a time.
        noise: draws the features of the first level; None: the generator gives them.
        keeps_ws: whether ws are stored, and not images: of level 0 alone, with frozen weights.
        instead: from what it starts, where that is not what was asked for.
        batches: which images a step takes; None: all.
        offload: keep what is optimised on the host, and send the device what images need.
    """

    def __init__(
        self, stored: StoredGenerator, ws: Tensor, labels: Tensor, plan: Sequence[LevelPlan], *,
        lr_pixels: float, lr_generator: float | None, feature_limit: float | None,
        chunk_images: int, noise: Streams | None, keeps_ws: bool = False, instead: str = "",
        batches: Batches | None = None, offload: bool = False,
    ) -> None:  # fmt: skip
        # weights that are learnt are this source's own: others may have the generator, too
        own = stored.generator if lr_generator is None else copy.deepcopy(stored.generator)
        self.generator, self.labels = own, labels
        self._stored, self._captured = stored, Captured(own)
        self._offload = offload
        self.ws = as_leaf(self._at_home(ws))
        self.level = 0
        self.features: LevelState = ()
        self._plan, self._noise = list(plan), noise
        self._lr_pixels, self._lr_generator = lr_pixels, lr_generator
        self._feature_limit, self._chunk_images = feature_limit, chunk_images
        self._stage, self._keeps_ws, self._instead = -1, keeps_ws, instead
        self._batches = batches

    @property
    def stored_floats(self) -> int:
        """Number of pixel values where the images are kept, else of values in ws."""
        if self._keeps_ws:
            return self.ws.numel()
        spec = self.generator.spec
        return len(self.labels) * spec.channels * spec.resolution**2

    @property
    def stored(self) -> Mapping[str, Tensor] | None:
        """The ws where they are kept; see `Stores`."""
        return {"ws": self.ws} if self._keeps_ws else None

    @property
    def generator_floats(self) -> int:
        """Parameters of the generator, where it is needed again."""
        return self.generator.floats if self._keeps_ws else 0

    @property
    def provenance(self) -> Mapping[str, object]:
        """The generator, whether it was learnt on, what it computed in; another start."""
        learnt = {} if self._lr_generator is None else {"weights_learnt": True}
        start = {"start": self._instead} if self._instead else {}
        precision = {"generator_precision": name_of(self.generator.compute_dtype)}
        return {"generator": self._stored.facts | learnt, **precision, **start}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage per level."""
        names = [level.name for level in self.generator.spec.levels]
        return [
            Stage(f"{plan.level} {names[plan.level]}", plan.steps, plan.trial)
            for plan in self._plan
        ]

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Advance the features to the level of `stage`, and return what is optimised there.

        Raises:
            RunError: if `stage` is not the one after the current.
            NumericError: if features are not finite.
        """
        if stage != self._stage + 1 or stage >= len(self._plan):
            raise RunError("stages must be entered in order", got=stage, expected=self._stage + 1)
        self._stage = stage
        self._advance(self._plan[stage].level)
        if stage == 0 and self._noise is not None:
            self.features = tuple(self._random(i, part) for i, part in enumerate(self.features))
        return self._groups()

    def enters_by_class(self, stage: int) -> bool:
        """Return whether no other image matters: noise is as spread as features of all are."""
        return stage > 0 or self._noise is None

    def _groups(self) -> Sequence[ParameterGroup]:
        """Return what is optimised at the present level."""
        if self._stage < 0:
            return ()
        plan = self._plan[self._stage]
        if self.level == self.generator.spec.last_level:
            return (ParameterGroup("pixels", self.features, self._lr_pixels, self.labels),)
        groups = [ParameterGroup("ws", (self.ws,), plan.lr_ws, self.labels)]
        if self.level > 0:
            rate = plan.lr_features
            groups.append(ParameterGroup("features", self.features, rate, self.labels))
        if self._lr_generator is not None:
            groups.append(ParameterGroup("generator", self._thaw(), self._lr_generator))
        return tuple(groups)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """Latents and features; see `Shardable`."""
        return {"ws": self.labels, **dict.fromkeys(self._named_features(), self.labels)}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, own = self.labels[own], self._at_home(own)
        self.ws = as_leaf(self.ws[own])
        self.features = tuple(as_leaf(tensor[own]) for tensor in self.features)
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.ws = labels, as_leaf(state["ws"])
        self.features = tuple(as_leaf(state[name]) for name in self._named_features())
        self.load_state(state)

    def _named_features(self) -> dict[str, Tensor]:
        return {f"features.{i}": tensor for i, tensor in enumerate(self.features)}

    def _random(self, number: int, features: Tensor) -> Tensor:
        """Return normal noise with the mean and deviation of each map, over images and places."""
        assert self._noise is not None
        rng = self._noise.generator(number)
        noise = torch.randn(features.shape, generator=rng).to(features)
        dims = (0, *range(2, features.ndim))
        std, mean = torch.std_mean(features.detach(), dims, correction=0, keepdim=True)
        return (mean + std * noise).requires_grad_()

    def _thaw(self) -> tuple[Tensor, ...]:
        """Let the weights learn that images of this level depend on, and only these."""
        weights = list(self.generator.parameters())
        for weight in weights:
            weight.requires_grad_()
        with torch.enable_grad():
            image = self._decode(torch.zeros(1, dtype=torch.long, device=self.labels.device))
        slopes = torch.autograd.grad(image.sum(), weights, allow_unused=True)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = None
            weight.requires_grad_(slope is not None)
        return tuple(weight for weight in weights if weight.requires_grad)

    @torch.no_grad()
    def _advance(self, level: int) -> None:
        def forward(indices: Tensor) -> LevelState:
            ws = self._picked(self.ws, indices)
            return self.generator.advance(self._features_of(indices), ws, self.level, level)

        everything = torch.arange(len(self.labels), device=self.labels.device)
        joined: LevelState = ()
        for part in everything.split(self._chunk_images):
            made, at = tuple(map(self._at_home, forward(part))), self._at_home(part)
            joined = joined or tuple(t.new_empty(len(everything), *t.shape[1:]) for t in made)
            for tensor, own in zip(joined, made, strict=True):
                tensor[at] = own
        limit, name = self._feature_limit, self.generator.spec.levels[level].name
        self.level = level
        self.features = tuple(
            _guard(tensor, limit, f"features at level {level} ({name})").requires_grad_()
            for tensor in joined
        )

    def _features_of(self, indices: Tensor) -> LevelState:
        return tuple(self._picked(tensor, indices) for tensor in self.features)

    def _picked(self, leaf: Tensor, indices: Tensor) -> Tensor:
        """Return rows of what is optimised, on the device."""
        return picked(leaf, indices, self.labels.device if self._offload else None)

    def _at_home(self, tensor: Tensor) -> Tensor:
        """Return a tensor where what is optimised lies."""
        return fetch(tensor) if self._offload else tensor

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        if self._batches is None:
            return torch.arange(len(self.labels))
        return self._batches.of(self.labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._chunk_images)

    def _decode(self, indices: Tensor) -> Tensor:
        ws = self._picked(self.ws, indices)
        images = self._captured.images(self._features_of(indices), ws, self.level)
        return (images + 1) / 2

    @torch.no_grad()
    def stage_costs(self) -> Sequence[StageCost]:
        """Time the layers after each level on an image; see `TellsCosts`."""
        spec, first = self.generator.spec, self.labels.new_zeros(1, dtype=torch.int64)
        state, ws = self._features_of(first), self._picked(self.ws, first)
        seconds = [0.0] * (spec.last_level + 1)
        for level in range(self.level, spec.last_level):
            started = time.perf_counter()
            state = self.generator.advance(state, ws, level, level + 1)
            # a device is waited for
            float(state[0].flatten()[0])
            seconds[level] = time.perf_counter() - started
        floats = [ws.numel() + sum(map(math.prod, level.shapes)) for level in spec.levels]
        # on the host there is room
        there = 0 if self._offload and not computes_on_host(self.labels.device) else 1
        each = there * len(self.labels) * self.ws.element_size()
        return [
            StageCost(sum(seconds[plan.level :]), each * floats[plan.level]) for plan in self._plan
        ]

    def state(self) -> State:
        """Return clones of ws, the features of the current level, and weights that are learnt."""
        everything = {"ws": self.ws, **self._named_features(), **self._weights()}
        return {name: tensor.detach().clone() for name, tensor in everything.items()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore ws, features and weights in the stage they were taken in."""
        self.ws.copy_(state["ws"])
        for name, tensor in {**self._named_features(), **self._weights()}.items():
            tensor.copy_(state[name])

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that are this source's own, by name in the state."""
        if self._lr_generator is None:
            return {}
        return {f"{_WEIGHT}{name}": value for name, value in self.generator.named_parameters()}


def _guard(tensor: Tensor, limit: float | None, name: str) -> Tensor:
    check_finite(tensor, name, _FLOAT_GUARD)
    return tensor if limit is None else tensor.clamp_(-limit, limit)
