"""Autoencoders as generators: the decoder is cut into levels, the encoder is the way in.

Level 0 are the latents, as one w of an image; the levels after it are the blocks of the decoder. A
convolutional one takes images of any size that its factor divides: see `sized`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from generators.base import FamilySettings, Generator, GeneratorSpec, Level, LevelState
from generators.families.layers import initialise_layers
from hpd.arrays import as_images
from hpd.errors import ConfigError, GeneratorError


class Convolution(nn.Module):
    """A convolution whose constructor draws nothing.

    Args:
        inputs: channels.
        outputs: channels.
        size: height and width of the kernel, odd.
        stride: of the convolution.
        bias: whether it has one.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.stride = stride

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights, as small as torch's own."""
        self.weight.normal_(generator=rng).div_(math.sqrt(3 * self.weight[0].numel()))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W], padded so that a stride of 1 keeps its size."""
        padding = self.weight.shape[-1] // 2
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding)


MOST_STAGES, MOST_BLOCKS, MOST_CHANNELS, MOST_PIXELS = 12, 64, 2**14, 2**14
"""Of what settings say: beyond them a file is none of an autoencoder."""


@dataclass(frozen=True)
class Part:
    """What leads from one level of a decoder to the next.

    Args:
        name: of the level to which it leads.
        module: from one tensor to one tensor.
        channels: of what it gives.
        enlarged: its height and width, over those of the latents.
    """

    name: str
    module: nn.Module
    channels: int
    enlarged: int


@dataclass(frozen=True)
class LatentSpace:
    """What the latents of an autoencoder are.

    Args:
        channels: of latents.
        factor: height and width of images, over those of latents.
        scale: by which the encoder's numbers are multiplied, for a deviation of about 1.
        shift: what is taken off them before that.
    """

    channels: int
    factor: int
    scale: float = 1.0
    shift: float = 0.0


class AutoencoderSettings(FamilySettings):
    """Constructor arguments that all autoencoders have."""

    resolution: int = Field(
        128, ge=1, le=MOST_PIXELS, description="of images, in pixels; any that the factor divides"
    )
    channels: int = Field(3, ge=1, le=MOST_CHANNELS, description="of images")
    latent_channels: int = Field(4, ge=1, le=MOST_CHANNELS)

    @property
    def space(self) -> LatentSpace:
        """What its latents are."""
        raise NotImplementedError

    def check_resolution(self, resolution: int) -> None:
        """Check that images can have a size.

        Raises:
            ConfigError: if the factor does not divide it.
        """
        factor = self.space.factor
        if resolution < factor or resolution % factor:
            raise ConfigError(
                f"resolution in {self.section()} is not valid",
                got=resolution,
                expected=f"a multiple of {factor}, by which it downscales",
                option="resolution",
            )

    def at(self, resolution: int) -> Self:
        """Return the settings with another size of images; see `check_resolution`."""
        self.check_resolution(resolution)
        return self.model_copy(update={"resolution": resolution})


class Autoencoder(Generator):
    """A pretrained autoencoder: latents as w, its decoder as synthesis.

    There are no classes in it: a latent belongs to the class of whoever optimises it. Latents
    drawn from N(0, I) have the scale of encoded ones, but are no images.

    Args:
        family: registered name.
        settings: constructor arguments.
        parts: of the decoder, the last of which gives images in [-1, 1].
        encoder: from images in [0, 1] to latents before scale and shift; None for a decoder alone.
        resolution: height and width of images, in pixels.
    """

    layers_known = True

    def __init__(
        self,
        family: str,
        settings: AutoencoderSettings,
        parts: Sequence[Part],
        encoder: nn.Module | None,
        resolution: int,
    ) -> None:
        super().__init__()
        settings.check_resolution(resolution)
        self.settings = settings
        self._parts = tuple(parts)
        # before the decoder: the last layer of all is the one that gives images
        self.encoder = encoder
        self.decoder = nn.ModuleList(part.module for part in parts)
        space = settings.space
        side = resolution // space.factor
        levels = [Level("latents", ())]
        levels += [
            Level(part.name, ((part.channels, side * part.enlarged, side * part.enlarged),))
            for part in parts
        ]
        width = space.channels * side**2
        self.spec = GeneratorSpec(
            family=family,
            resolution=resolution,
            channels=parts[-1].channels,
            z_dim=width,
            w_dim=width,
            num_classes=0,
            num_ws=1,
            levels=tuple(levels),
        )

    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        initialise_layers(self, rng)

    @property
    def floats(self) -> int:
        """Number of the decoder's parameters: images need no more."""
        return sum(value.numel() for value in self.decoder.parameters())

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` can be called."""
        return self.encoder is not None

    def sized(self, resolution: int) -> Autoencoder:
        """Return it for images of another size, with the same weights in memory.

        Raises:
            GeneratorError: if it cannot make such images.
        """
        if resolution == self.spec.resolution:
            return self
        try:
            settings = self.settings.at(resolution)
        except ConfigError as error:
            raise GeneratorError(
                f"no images of {resolution} px come out of the autoencoder",
                expected=error.expected, fix="Bring the data to such a size: data.resolution.",
            ) from None  # fmt: skip
        other = Autoencoder(self.spec.family, settings, self._parts, self.encoder, resolution)
        other.spec = replace(other.spec, classes=self.spec.classes)
        other.compute_dtype = self.compute_dtype
        return other.train(self.training)

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of images; see `Generator.encode`."""
        if self.encoder is None:
            return super().encode(images)
        spec, space, weight = self.spec, self.settings.space, self._weight()
        shape = (spec.channels, spec.resolution, spec.resolution)
        images = as_images(images, shape=shape, dtype=weight.dtype, device=weight.device)
        latents: Tensor = (self.encoder(images) - space.shift) * space.scale
        return latents.flatten(1)[:, None]

    def scale_of(self, ws: Tensor) -> Tensor:
        """Return 1, about the deviation of latents: their average is 0, and has no scale."""
        return ws.new_ones(len(ws), 1, 1)

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return (z * truncation_psi)[:, None]

    def _next(self, state: LevelState, ws: Tensor, level: int) -> LevelState:
        x = state[0] if level else self._latents(ws)
        if self.compute_dtype is None:
            return (self.decoder[level](x),)
        # each part takes and gives the dtype of ws, wherever the caller cuts
        with torch.autocast(x.device.type, self.compute_dtype):
            return (self.decoder[level](x).to(ws.dtype),)

    def _latents(self, ws: Tensor) -> Tensor:
        """Return what the decoder takes [N, C, h, w]."""
        space = self.settings.space
        side = self.spec.resolution // space.factor
        return ws.reshape(len(ws), space.channels, side, side) / space.scale + space.shift
