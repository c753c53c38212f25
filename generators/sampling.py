"""Samples of a generator, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from generators.base import Generator
from hpd.checks import check_finite
from hpd.rng import Streams

_SMALLEST_TILE = 64
TOO_LARGE = "Its weights are finite and still too large: take an earlier checkpoint."
"""What to do about a generator that makes NaN of finite weights."""


@torch.no_grad()
def draw_samples(
    generator: Generator,
    label: int | None,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
) -> Tensor:
    """Return one image for each seed, [N, C, H, W] nominally in [-1, 1].

    Args:
        generator: on any device.
        label: the class of all of them; None for an unconditional generator.
        seeds: each decides the z of its image alone.
        truncation_psi: 1 for no truncation.

    Raises:
        NumericError: if an image is not finite: finite weights can still be too large.
    """
    width = generator.spec.z_dim
    rows = [torch.randn(width, generator=Streams(seed).generator("z")) for seed in seeds]
    z = torch.stack(rows).to(next(generator.parameters()).device)
    labels = None if label is None else torch.full((len(z),), label, device=z.device)
    images: Tensor = generator(generator.map(z, labels, truncation_psi))
    return check_finite(images, "what the generator makes", TOO_LARGE)


def tile(images: Tensor, columns: int) -> Image.Image:
    """Return images [N, C, H, W] in [-1, 1] as one picture, row by row, small ones enlarged.

    Args:
        images: clipped to their range; one channel or three.
        columns: images in a row; N is a multiple of it.
    """
    n, channels, height, width = images.shape
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    pixels = F.pad(pixels, (1, 1, 1, 1), value=255)
    grid = pixels.reshape(n // columns, columns, channels, height + 2, width + 2)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(-1, columns * (width + 2), channels)
    picture = Image.fromarray(grid.squeeze(2).numpy() if channels == 1 else grid.numpy())
    factor = max(1, _SMALLEST_TILE // height)
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
