"""Autoencoders of latent diffusion (`AutoencoderKL` of diffusers), cut into levels.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022,
appendix E; its networks are those of Esser et al., Taming Transformers, CVPR 2021, table 7.
"""

from __future__ import annotations

import math

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

_EPSILON = 1e-6
_MID_BLOCKS = 2


@FAMILIES.register("kl_autoencoder")
class KLAutoencoderSettings(AutoencoderSettings):
    """Constructor arguments of an autoencoder of latent diffusion."""

    widths: list[int] = Field(
        default_factory=lambda: [128, 256, 512, 512],
        min_length=1,
        max_length=MOST_STAGES,
        description="channels from pixels to latents; the size halves between two",
    )
    blocks: int = Field(2, ge=1, le=MOST_BLOCKS, description="of the encoder, at each size")
    groups: int = Field(32, ge=1, le=MOST_CHANNELS, description="of the group norms")
    attention: bool = Field(True, description="attention between the blocks at the smallest size")
    quantised: bool = Field(True, description="convolutions of one pixel around the latents")
    encoder: bool = Field(True, description="whether there is one")
    scale: float = Field(0.18215, gt=0, description="by which the encoder's latents are multiplied")
    shift: float = Field(0.0, description="what is taken off them before that")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.check_resolution(self.resolution)
        for width in self.widths:
            if not 1 <= width <= MOST_CHANNELS or width % self.groups:
                raise ConfigError(
                    f"widths in {self.section()} is not valid",
                    got=width,
                    expected=f"multiples of {self.groups} groups, at most {MOST_CHANNELS}",
                    option="widths",
                )
        return self

    @property
    def space(self) -> LatentSpace:
        """What its latents are."""
        factor = 2 ** (len(self.widths) - 1)
        return LatentSpace(self.latent_channels, factor, self.scale, self.shift)

    def build(self, classes: tuple[str, ...] = ()) -> Autoencoder:
        """Return the network with uninitialised weights; it has no classes."""
        encoder = KLEncoder(self) if self.encoder else None
        return Autoencoder("kl_autoencoder", self, _parts(self), encoder, self.resolution)


class KLBlock(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``, x by a convolution where its width changes.

    Args:
        inputs: channels.
        outputs: channels.
        groups: of the norms.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, _EPSILON)
        self.conv1 = Convolution(inputs, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, _EPSILON)
        self.conv2 = Convolution(outputs, outputs)
        self.shortcut = Convolution(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, H, W]."""
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        made: Tensor = (x if self.shortcut is None else self.shortcut(x)) + y
        return made


class KLAttention(nn.Module):
    """Attention of every place to all places, with one head, added to what comes in."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, _EPSILON)
        self.query = Convolution(width, width, 1)
        self.key = Convolution(width, width, 1)
        self.value = Convolution(width, width, 1)
        self.out = Convolution(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to as many numbers: ``x + out(softmax(q k^T / sqrt(C)) v)``."""
        y = self.norm(x)
        # [N, HW, C]
        q, k, v = (part(y).flatten(2).mT for part in (self.query, self.key, self.value))
        weights = (q @ k.mT / math.sqrt(q.shape[2])).softmax(dim=2)
        made: Tensor = x + self.out((weights @ v).mT.reshape(x.shape))
        return made


class KLMiddle(nn.Module):
    """Two blocks at the smallest size, and attention between them."""

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(KLBlock(width, width, groups) for _ in range(_MID_BLOCKS))
        self.attention = KLAttention(width, groups) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to as many numbers."""
        x = self.blocks[0](x)
        if self.attention is not None:
            x = self.attention(x)
        made: Tensor = self.blocks[1](x)
        return made


class KLStart(nn.Module):
    """From latents to features of the smallest size."""

    def __init__(self, settings: KLAutoencoderSettings) -> None:
        super().__init__()
        channels, width = settings.latent_channels, settings.widths[-1]
        self.quant = Convolution(channels, channels, 1) if settings.quantised else None
        self.conv = Convolution(channels, width)
        self.middle = KLMiddle(width, settings.groups, settings.attention)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents [N, C, h, w] to features [N, F, h, w]."""
        made: Tensor = self.middle(self.conv(x if self.quant is None else self.quant(x)))
        return made


class KLStep(nn.Module):
    """A block of the decoder, behind a doubling of the size where one belongs."""

    def __init__(self, inputs: int, outputs: int, groups: int, doubles: bool) -> None:
        super().__init__()
        self.conv = Convolution(inputs, inputs) if doubles else None
        self.block = KLBlock(inputs, outputs, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, H, W], or [N, O, 2H, 2W]."""
        if self.conv is not None:
            x = self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))
        made: Tensor = self.block(x)
        return made


class KLEnd(nn.Module):
    """Norm and convolution at the end of encoder and decoder."""

    def __init__(self, width: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, _EPSILON)
        self.conv = Convolution(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, F, H, W] to [N, C, H, W]."""
        made: Tensor = self.conv(functional.silu(self.norm(x)))
        return made


class KLHalving(Convolution):
    """A convolution that halves the size, with zeros to the right and below alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, H / 2, W / 2]."""
        padded = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(padded, self.weight, self.bias, stride=2)


class KLEncoder(nn.Module):
    """From images in [0, 1] to latents: the mean of their distribution.

    Args:
        settings: of the autoencoder.
    """

    def __init__(self, settings: KLAutoencoderSettings) -> None:
        super().__init__()
        groups, width = settings.groups, settings.widths[0]
        self.conv = Convolution(settings.channels, width)
        layers: list[nn.Module] = []
        for number, outputs in enumerate(settings.widths):
            if number:
                layers.append(KLHalving(width, width))
            for _ in range(settings.blocks):
                layers.append(KLBlock(width, outputs, groups))
                width = outputs
        self.layers = nn.ModuleList(layers)
        self.middle = KLMiddle(width, groups, settings.attention)
        # mean and logarithm of the variance
        moments = 2 * settings.latent_channels
        self.end = KLEnd(width, moments, groups)
        self.quant = Convolution(moments, moments, 1) if settings.quantised else None

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to latents [N, L, h, w]."""
        x = self.conv(x * 2 - 1)
        for layer in self.layers:
            x = layer(x)
        x = self.end(self.middle(x))
        return torch.chunk(x if self.quant is None else self.quant(x), 2, dim=1)[0]


def _parts(settings: KLAutoencoderSettings) -> list[Part]:
    """Return the parts of the decoder: the smallest size, every block, and the end."""
    width, groups = settings.widths[-1], settings.groups
    parts = [Part("middle", KLStart(settings), width, 1)]
    for number, outputs in enumerate(reversed(settings.widths)):
        # one more than the encoder has
        for place in range(settings.blocks + 1):
            step = KLStep(width, outputs, groups, number > 0 and place == 0)
            parts.append(Part(f"block{len(parts)}", step, outputs, 2**number))
            width = outputs
    end = KLEnd(width, settings.channels, groups)
    return [*parts, Part("pixels", end, settings.channels, parts[-1].enlarged)]
