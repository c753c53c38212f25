"""Pixels as the source: every value of every image is a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet, Normalisation
from hpd.errors import RunError
from hpd.rng import Streams
from hpd.sources.base import SOURCES, CountedSettings
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Source, Stage, State


@SOURCES.register("pixel")
class PixelSettings(CountedSettings):
    """Free pixels, in normalised space as in DC, DSA, DM and MTT."""

    init: Literal["real", "noise"] = Field(
        "real", description="random real images of each class, or N(0, 1)"
    )
    steps: int = Field(1000, ge=0, description="of the optimiser")
    lr: float = Field(0.02, gt=0, description="learning rate of the pixels")
    clip: bool = Field(
        False, description="clip values to [0, 1] after each step, as SRe2L and DWA do"
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`."""
        rng = streams.generator("pixel init")
        labels = self.labels(train)
        if self.init == "real":
            pixels = train.normalised(train.draw_per_class(self.images_per_class, rng))
        else:
            pixels = torch.randn(len(labels), *train.image_shape, generator=rng)
        return PixelSource(pixels.to(device), labels.to(device), train.normalisation, self)


class PixelSource:
    """Images whose normalised pixels are the parameters.

    Args:
        pixels: normalised initial images [N, C, H, W].
        labels: [N].
        normalisation: how pixels relate to images in [0, 1].
        settings: options.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, normalisation: Normalisation, settings: PixelSettings
    ) -> None:
        self.pixels = as_leaf(pixels)
        self.labels = labels
        self._normalisation, self._settings = normalisation, settings

    @property
    def stored_floats(self) -> int:
        """Number of pixel values."""
        return self.pixels.numel()

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The pixels; see `Stores`."""
        return {"pixels": self.pixels}

    @property
    def provenance(self) -> Mapping[str, object]:
        """Nothing but the data."""
        return {}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return (Stage("pixels", self._settings.steps),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return the pixels."""
        if stage:
            raise RunError("pixels have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        return (ParameterGroup("pixels", (self.pixels,), self._settings.lr, self.labels),)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The pixels; see `Shardable`."""
        return {"pixels": self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, self.pixels = self.labels[own], as_leaf(self.pixels[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.pixels = labels, as_leaf(state["pixels"])

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] and their pullback."""
        if self._settings.clip:
            self._clip()
        return render_in_chunks(self._decode, indices, self._settings.chunk)

    def _decode(self, indices: Tensor) -> Tensor:
        return self._normalisation.undo(picked(self.pixels, indices))

    @torch.no_grad()
    def _clip(self) -> None:
        """Clip the pixels where they are, so that the optimiser goes on from what is seen."""
        black, white = (
            self._normalisation.apply(torch.full_like(self.pixels[:1], value)) for value in (0, 1)
        )
        self.pixels.copy_(self.pixels.maximum(black).minimum(white))

    def state(self) -> State:
        """Return a clone of the pixels."""
        return {"pixels": self.pixels.detach().clone()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore the pixels."""
        self.pixels.copy_(state["pixels"])
