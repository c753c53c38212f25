"""What a generator is to the rest of the project: a mapping, and synthesis cut into levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from hpd.arrays import as_labels, as_numbers
from hpd.checks import check_shape, check_tensor
from hpd.errors import GeneratorError
from hpd.registry import Registry, Settings

LevelState = tuple[Tensor, ...]
"""What passes from one level to the next; empty at level 0."""


@dataclass(frozen=True)
class Level:
    """A place where synthesis can be cut: its name and the shapes of its state for one image."""

    name: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GeneratorSpec:
    """The facts about a generator that its users need.

    Args:
        family: registered name of the architecture.
        resolution: height and width of its images, in pixels.
        channels: 1 for grey, 3 for colour.
        z_dim: width of z.
        w_dim: width of w.
        num_classes: number of classes, 0 for an unconditional generator.
        num_ws: number of w vectors per image.
        levels: every level, from W+ (no state) to pixels.
        classes: names of the classes, empty where they are not known.
    """

    family: str
    resolution: int
    channels: int
    z_dim: int
    w_dim: int
    num_classes: int
    num_ws: int
    levels: tuple[Level, ...]
    classes: tuple[str, ...] = ()

    @property
    def last_level(self) -> int:
        """The level whose state is the image itself."""
        return len(self.levels) - 1


class Generator(nn.Module, ABC):
    """A pretrained generator cut into levels.

    Level 0 is W+, level k the state after k synthesis layers, the last level the image in
    [-1, 1]. Synthesis with constant noise is a function of ws alone, so
    ``advance(advance(s, ws, 0, j), ws, j, k)`` equals ``advance(s, ws, 0, k)`` to the bit.
    """

    spec: GeneratorSpec
    layers_known: ClassVar[bool] = False
    """Whether its layers do what is asked of them, as tests or its own constructor make sure. One
    without is looked at before a run rests on it."""
    compute_dtype: torch.dtype | None = None
    """What the layers of synthesis compute in; None: in the dtype of their weights. Styles, states
    at levels and images keep the dtype of ws, so levels compose to the bit in any dtype."""

    @abstractmethod
    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        """Map checked z and labels to ws [N, num_ws, D]."""

    @abstractmethod
    def _next(self, state: LevelState, ws: Any, level: int) -> LevelState:
        """Run the layer that leads from `level` to ``level + 1``; `ws` is what `_given` gave."""

    def _run(self, state: LevelState, ws: Any, start: int, stop: int) -> LevelState:
        """Run the layers from one level to another; `ws` is what `_given` gave."""
        for level in range(start, stop):
            state = self._next(state, ws, level)
        return state

    def _given(self, ws: Tensor) -> Any:
        """Return ws as layers take it, once for all of them."""
        return ws

    def __repr__(self) -> str:
        spec, side = self.spec, self.spec.resolution
        classes = f"{spec.num_classes or 'no'} classes"
        shape = f"{spec.channels} x {side} x {side}"
        return (
            f"{type(self).__name__}({spec.family}, {shape}, {classes}, {len(spec.levels)} levels)"
        )

    @property
    def floats(self) -> int:
        """Number of its parameters."""
        return sum(value.numel() for value in self.parameters())

    def _weight(self) -> Tensor:
        """Return a weight, which tells device and dtype of latents."""
        return next(self.parameters())

    def name_of_part(self, path: str, part: nn.Module) -> str:
        """Return how messages name one of the modules that it is made of.

        Args:
            path: of the module, as in `named_modules`.
            part: the module.
        """
        return f"{path} of the generator ({type(part).__name__})"

    def map(self, z: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Map z to ws.

        Args:
            z: [N, z_dim], drawn from N(0, I); any array, see `hpd.arrays`; a tensor keeps
                its graph.
            labels: class indices [N], int64; None only for an unconditional generator.
            truncation_psi: 1 for none, 0 for the average w.

        Returns:
            ws [N, num_ws, D].

        Raises:
            ShapeError: for a wrong shape or dtype, or a label out of range.
            NumericError: for NaN or Inf.
            GeneratorError: if labels are missing, or given to an unconditional generator.
        """
        weight = self._weight()
        z = as_numbers(z, "z", dtype=weight.dtype, device=weight.device)
        check_shape(z, "N Z", "z", Z=self.spec.z_dim)
        if (labels is None) != (self.spec.num_classes == 0):
            raise GeneratorError(
                "labels do not fit the generator",
                got="no labels" if labels is None else "labels",
                expected=f"class indices below {self.spec.num_classes}"
                if self.spec.num_classes
                else "none: it is unconditional",
            )
        if labels is not None:
            known = self.spec.num_classes
            labels = as_labels(labels, count=len(z), num_classes=known, device=z.device)
        return self._map(z, labels, truncation_psi)

    def mapped(
        self, z: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0
    ) -> Tensor:
        """Return what `map` does, of tensors that are known to be right: no value is looked at.

        For what is mapped at every step: a look would wait for the device.

        Args:
            z: [N, z_dim], of the dtype and on the device of the weights.
            labels: as for `map`, on the same device.
            truncation_psi: as for `map`.
        """
        return self._map(z, labels, truncation_psi)

    def advance(self, state: LevelState, ws: Tensor, start: int, stop: int) -> LevelState:
        """Run synthesis from level `start` to level `stop`.

        Args:
            state: the state at `start`; the empty tuple at level 0.
            ws: [N, num_ws, D].
            start: level of `state`.
            stop: level to reach, at least `start`.

        Raises:
            ShapeError: if ws has the wrong shape or dtype.
            GeneratorError: if the levels are out of order or `state` is not that of `start`.
        """
        check_tensor(ws, "ws", self._weight().dtype)
        check_shape(ws, "N M D", "ws", M=self.spec.num_ws, D=self.spec.w_dim)
        if not 0 <= start <= stop <= self.spec.last_level:
            raise GeneratorError(
                "levels out of order",
                got=f"{start} to {stop}",
                expected=f"0 <= start <= stop <= {self.spec.last_level}",
            )
        expected = self.spec.levels[start].shapes
        got = tuple(tuple(check_tensor(part, "the state").shape[1:]) for part in state)
        if got != expected:
            raise GeneratorError(f"not the state of level {start}", got=got, expected=expected)
        state = self._run(state, self._given(ws), start, stop)
        return tuple(part.to(ws.dtype) for part in state)

    def images(self, state: LevelState, ws: Tensor, level: int) -> Tensor:
        """Run the rest of synthesis from `level`: images [N, C, H, W], nominally in [-1, 1]."""
        return self.advance(state, ws, level, self.spec.last_level)[0]

    def forward(self, ws: Tensor) -> Tensor:
        """Synthesise images [N, C, H, W] in [-1, 1] from ws [N, num_ws, D]."""
        return self.images((), ws, 0)

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` can be called."""
        return False

    def encode(self, images: Tensor) -> Tensor:
        """Return the ws of images, by the encoder that belongs to the generator.

        Args:
            images: [N, C, H, W] in [0, 1], of its size; any array, see `hpd.arrays`.

        Returns:
            ws [N, num_ws, D].

        Raises:
            GeneratorError: if it has none.
        """
        raise GeneratorError(
            "the generator has no encoder", fix="Project images into it: see `hpd.project`."
        )

    def sized(self, resolution: int) -> Generator:
        """Return it for images of another height and width in pixels, if it can make such.

        One that makes images of a single size returns itself, whatever is asked.
        """
        return self

    def scale_of(self, ws: Tensor) -> Tensor:
        """Return how large ws of images are that start at `ws` [N, num_ws, D]: [N, 1, 1]."""
        return ws.square().mean(dim=(1, 2), keepdim=True).sqrt()

    def class_average(
        self, label: int | None, draws: int, rng: torch.Generator, truncation_psi: float = 1.0
    ) -> Tensor:
        """Return the mean of `draws` ws of one class: [num_ws, D]."""
        device = next(self.parameters()).device
        z = torch.randn(draws, self.spec.z_dim, generator=rng).to(device)
        labels = None if label is None else torch.full((draws,), label, device=device)
        with torch.no_grad():
            return self.map(z, labels, truncation_psi).mean(dim=0)


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("a power of two")
    return value


Resolution = Annotated[int, AfterValidator(_power_of_two)]
"""Height and width of images in pixels, a power of two."""


class FamilySettings(Settings):
    """Constructor arguments of a family of generators."""

    def build(self, classes: tuple[str, ...] = ()) -> Generator:
        """Return the network with uninitialised weights."""
        raise NotImplementedError


FAMILIES: Registry[FamilySettings] = Registry("generator family", FamilySettings)
