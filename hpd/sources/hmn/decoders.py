"""The registry of decoders of hierarchical memories, and the convolutional one.

Source: Zheng et al., Leveraging Hierarchical Feature Sharing for Efficient Dataset Condensation,
ECCV 2024 (HMN), which publishes no code: layers, sizes and the fit to real images are ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hpd.data import ImageSet, Normalisation
from hpd.registry import Only, Registry, Settings
from hpd.rng import Streams
from hpd.sources.hmn.budget import Shapes, instance_floats

_SLOPE, _KERNEL = 0.2, 3
_WIDTHS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)


class Decoder(nn.Module, ABC):
    """Makes images of codes, each by itself: nothing may mix the images of a batch.

    Its parameters that require grad are learnt and stored; all else is public knowledge.
    """

    generator_floats = 0
    """Parameters of a pretrained generator among what is public knowledge."""

    def learnt(self) -> dict[str, nn.Parameter]:
        """Return what is learnt, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @abstractmethod
    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        """Return images [n, C, H, W] in [0, 1] of codes [n, code, h, w] of classes [n]."""

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the images come from besides data and memories, as JSON."""
        return {}


class Blueprint(ABC):
    """What must be known of a decoder before its size is chosen.

    Attributes:
        widths: to choose from by the budget; a single one where there is nothing to choose.
        keeps_images: whether the images are what is stored, and memories and networks are not.
        fit_steps: optimiser steps that fit memories and networks to real images at the start.
    """

    widths: Sequence[int] = (0,)
    keeps_images: bool = False
    fit_steps: int = 0

    @abstractmethod
    def grid(self, class_floats: float) -> tuple[int, int]:
        """Return the positions of every memory, for a budget of `class_floats` a class."""

    def instance_scale(self, images_per_class: int) -> float:
        """Return the standard deviation of fresh instance memories."""
        return 1.0

    @abstractmethod
    def settled(self, width: int) -> DecoderSettings:
        """Return the options with every size written out."""

    @abstractmethod
    def floats(self, shapes: Shapes, width: int) -> int:
        """Return how many values the decoder learns."""

    @abstractmethod
    def build(self, shapes: Shapes, width: int, streams: Streams) -> Decoder:
        """Return the decoder with fresh weights, on the device of the source."""


class DecoderSettings(Settings):
    """Options of a decoder."""

    def blueprint(self, train: ImageSet, device: torch.device, streams: Streams) -> Blueprint:
        """Return what the decoder will be for these real images.

        Args:
            train: the real training images.
            device: where the parameters live.
            streams: randomness of all that the decoder starts from.

        Raises:
            HpdError: if it does not fit the images.
        """
        raise NotImplementedError


DECODERS: Registry[DecoderSettings] = Registry("decoder", DecoderSettings)


@DECODERS.register("conv")
class ConvDecoderSettings(DecoderSettings):
    """The paper's kind: convolutions that double the size, trained from scratch and counted."""

    width: int | None = Field(None, ge=1, description="channels; null: by the budget")
    memory_size: int | None = Field(
        None, ge=1, description="positions along a side of a memory; null: 1, 2 or 4 by the budget"
    )
    init: Literal["real", "noise"] = Field(
        "real", description="real: memories and networks are first fitted to random real images"
    )
    fit_steps: Annotated[int, Only("init", "real")] = Field(
        2000, ge=0, description="Adam steps of init=real, on squared errors"
    )

    def blueprint(self, train: ImageSet, device: torch.device, streams: Streams) -> Blueprint:
        """Return what the decoder will be; see `DecoderSettings.blueprint`."""
        return _ConvBlueprint(self, train, device)


class _ConvBlueprint(Blueprint):
    def __init__(
        self, settings: ConvDecoderSettings, train: ImageSet, device: torch.device
    ) -> None:
        self._settings, self._train, self._device = settings, train, device
        self.widths = _WIDTHS if settings.width is None else (settings.width,)
        self.fit_steps = settings.fit_steps if settings.init == "real" else 0

    def grid(self, class_floats: float) -> tuple[int, int]:
        _, height, width = self._train.image_shape
        # an instance memory of one channel should be no larger than the plan wants it
        most = instance_floats(class_floats)
        fitting = next(side for side in (4, 2, 1) if side**2 <= max(most, 1))
        self._side = self._settings.memory_size or fitting
        self._doublings = max(math.ceil(math.log2(max(height, width) / self._side)), 0)
        scale = 2**self._doublings
        return -(-height // scale), -(-width // scale)

    def settled(self, width: int) -> DecoderSettings:
        return self._settings.model_copy(update={"width": width, "memory_size": self._side})

    def _channels(self, shapes: Shapes, width: int) -> list[int]:
        between = [width] * max(self._doublings, 1)
        return [shapes.code, *between, self._train.image_shape[0]]

    def floats(self, shapes: Shapes, width: int) -> int:
        pairs = pairwise(self._channels(shapes, width))
        return sum((before * _KERNEL**2 + 1) * after for before, after in pairs)

    def build(self, shapes: Shapes, width: int, streams: Streams) -> Decoder:
        decoder = ConvDecoder(
            self._channels(shapes, width),
            self._doublings,
            self._train.image_shape[1:],
            self._train.normalisation,
            streams.generator("decoder"),
        )
        return decoder.to(self._device)


class ConvDecoder(Decoder):
    """Convolutions of 3x3 with leaky ReLU; the size is doubled before each but the first.

    Args:
        channels: before, between and after the convolutions.
        doublings: number of convolutions before which the size is doubled.
        size: height and width of the images; what lies over is cut off.
        normalisation: of the images; the last convolution gives normalised ones.
        rng: where the weights come from.
    """

    def __init__(
        self, channels: Sequence[int], doublings: int, size: Sequence[int],
        normalisation: Normalisation, rng: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self._doublings, self._size = doublings, tuple(size)
        self._normalisation = normalisation
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(channels):
            drawn = torch.randn(after, before, _KERNEL, _KERNEL, generator=rng)
            # He et al., ICCV 2015, for a slope of 0.2: activations keep their scale
            gain = math.sqrt(2 / (1 + _SLOPE**2) / (before * _KERNEL**2))
            self.weights.append(nn.Parameter(drawn * gain))
            self.biases.append(nn.Parameter(torch.zeros(after)))

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        """Decode; see `Decoder.forward`."""
        x = code
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                x = F.leaky_relu(x, _SLOPE)
            if 0 < i <= self._doublings:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.conv2d(x, weight, bias, padding=_KERNEL // 2)
        return self._normalisation.undo(x[..., : self._size[0], : self._size[1]])
