"""Tiny autoencoders: TAESD and its relatives for other latents, cut into levels.

Source: Bohan, https://github.com/madebyollin/taesd (TAESD, TAESDXL, TAESD3, TAEF1, TAEF2, TAESANA),
whose encoders and decoders are chains of numbered layers; `AutoencoderTiny` of diffusers is the
same network.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from generators.base import FAMILIES
from generators.families.autoencoder import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_STAGES,
    Autoencoder,
    AutoencoderSettings,
    Convolution,
    LatentSpace,
    Part,
)
from hpd.errors import ConfigError
from hpd.registry import Settings

# the latents of the decoder: those beyond are outliers of a diffusion model
_LIMIT = 3.0
_NORM_GROUPS, _WIDENING = 4, 4


class TinyStageSettings(Settings):
    """The blocks of one size."""

    width: int = Field(64, ge=_NORM_GROUPS, le=MOST_CHANNELS, description="channels")
    blocks: int = Field(3, ge=1, le=MOST_BLOCKS, description="residual blocks")
    pooled: bool = Field(False, description="whether they begin with a group norm over all places")


def _stages(*blocks: int) -> list[TinyStageSettings]:
    return [TinyStageSettings(blocks=count) for count in blocks]


@FAMILIES.register("tiny_autoencoder")
class TinyAutoencoderSettings(AutoencoderSettings):
    """Constructor arguments of a tiny autoencoder."""

    stages: list[TinyStageSettings] = Field(
        default_factory=lambda: _stages(3, 3, 3, 1),
        min_length=1,
        max_length=MOST_STAGES,
        description="of the decoder, from latents to pixels; the size doubles between two",
    )
    encoder_stages: list[TinyStageSettings] | None = Field(
        default_factory=lambda: _stages(1, 3, 3, 3),
        min_length=1,
        max_length=MOST_STAGES,
        description="of the encoder, from pixels to latents; null for a decoder alone",
    )
    encoder_stem: list[int] = Field(
        default_factory=list,
        max_length=MOST_STAGES,
        description="channels of convolutions before its first stage, each halves the size",
    )
    clamped: bool = Field(True, description="whether the decoder takes 3 tanh(x / 3) of latents")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.check_resolution(self.resolution)
        if self.encoder_stages is None:
            if self.encoder_stem:
                raise ConfigError("encoder_stem does nothing without encoder_stages")
            return self
        halvings = len(self.encoder_stages) - 1 + len(self.encoder_stem)
        if halvings != len(self.stages) - 1:
            raise ConfigError(
                "encoder and decoder have different factors",
                got=f"{2**halvings} and {self.space.factor}",
                expected="the same",
            )
        if self.encoder_stem and self.encoder_stem[-1] != self.encoder_stages[0].width:
            raise ConfigError(
                "the encoder's stem does not lead to its first stage",
                got=self.encoder_stem[-1],
                expected=self.encoder_stages[0].width,
            )
        return self

    @property
    def space(self) -> LatentSpace:
        """What its latents are."""
        return LatentSpace(self.latent_channels, 2 ** (len(self.stages) - 1))

    def build(self, classes: tuple[str, ...] = ()) -> Autoencoder:
        """Return the network with uninitialised weights; it has no classes."""
        encoder = None if self.encoder_stages is None else _encoder(self, self.encoder_stages)
        return Autoencoder("tiny_autoencoder", self, _parts(self), encoder, self.resolution)


class TinyBlock(nn.Module):
    """``relu(f(y) + y)``, f three convolutions with ReLU, y the input or that and its pooling.

    Args:
        width: channels.
        pooled: whether ``y = x + p(x)``, p a group norm between two convolutions of one pixel.
    """

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Convolution(width, width) for _ in range(3))
        self.widen: Convolution | None = None
        if pooled:
            self.widen = Convolution(width, _WIDENING * width, 1, bias=False)
            self.norm = nn.GroupNorm(_NORM_GROUPS, _WIDENING * width)
            self.narrow = Convolution(_WIDENING * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to as many numbers."""
        if self.widen is not None:
            x = x + self.narrow(functional.relu(self.norm(self.widen(x))))
        y = x
        for number, conv in enumerate(self.convs):
            y = conv(functional.relu(y) if number else y)
        return functional.relu(y + x)


class TinyStep(nn.Module):
    """A block of the decoder, and the convolution that may stand before it.

    Args:
        block: a residual block.
        conv: None where blocks follow each other.
        start: whether the convolution takes latents, and not an image half as large.
        clamped: whether these latents are limited.
    """

    def __init__(
        self, block: TinyBlock, conv: Convolution | None, start: bool = False, clamped: bool = False
    ) -> None:
        super().__init__()
        self.conv, self.block = conv, block
        self._start, self._clamped = start, clamped

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to features of the same size, or of twice that."""
        if self._clamped:
            x = torch.tanh(x / _LIMIT) * _LIMIT
        if self.conv is not None and self._start:
            x = functional.relu(self.conv(x))
        elif self.conv is not None:
            x = self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))
        made: Tensor = self.block(x)
        return made


class TinyEnd(nn.Module):
    """The last convolution, whose images in [0, 1] become those in [-1, 1]."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [N, F, H, W] to images [N, C, H, W]."""
        made: Tensor = self.conv(x) * 2 - 1
        return made


def _parts(settings: TinyAutoencoderSettings) -> list[Part]:
    """Return the parts of the decoder: one for each block, and the end."""
    parts: list[Part] = []
    width, enlarged = settings.latent_channels, 1
    for number, stage in enumerate(settings.stages):
        enlarged = 2**number
        for place in range(stage.blocks):
            conv = None
            if place == 0:
                conv = Convolution(width, stage.width, bias=number == 0)
            start = number == place == 0
            block = TinyBlock(stage.width, stage.pooled)
            step = TinyStep(block, conv, start, start and settings.clamped)
            parts.append(Part(f"block{len(parts) + 1}", step, stage.width, enlarged))
        width = stage.width
    end = TinyEnd(width, settings.channels)
    return [*parts, Part("pixels", end, settings.channels, enlarged)]


def _encoder(settings: TinyAutoencoderSettings, stages: list[TinyStageSettings]) -> nn.Sequential:
    """Return the encoder: stem, stages, latents."""
    layers: list[nn.Module] = []
    width = settings.channels
    for outputs in settings.encoder_stem:
        layers += [Convolution(width, outputs, stride=2), nn.ReLU()]
        width = outputs
    for number, stage in enumerate(stages):
        if number:
            layers.append(Convolution(width, stage.width, stride=2, bias=False))
        elif not settings.encoder_stem:
            layers.append(Convolution(width, stage.width))
        width = stage.width
        layers += [TinyBlock(width, stage.pooled) for _ in range(stage.blocks)]
    return nn.Sequential(*layers, Convolution(width, settings.latent_channels))
