"""Differentiable Siamese augmentation: parameters are drawn once and replayed on any batch.

Source: Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021;
the strengths are those of its released settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.machine.host import send

OperationName = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
OPERATION_NAMES: tuple[OperationName, ...] = get_args(OperationName)

_NUMBERS_PER_IMAGE = 3
_SHIFT = 0.125
_CUTOUT = 0.5
_SCALE = 1.2
_ROTATE_DEGREES = 15.0


@dataclass(frozen=True)
class Augmentation:
    """One drawn augmentation.

    Args:
        operation: which operation.
        numbers: uniform numbers in [0, 1) that fix it, [1, 3] for all images alike or [N, 3], on
            the host.
    """

    operation: OperationName
    numbers: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Apply to normalised images [N, C, H, W]; differentiable, same shape."""
        numbers = self.numbers.to(images.dtype)
        if self.operation == "crop" and len(numbers) == 1:
            # the host must know where to cut
            return _crop_all(images, numbers)
        return _OPERATIONS[self.operation](images, send(numbers, images.device))


def draw_augmentation(
    operations: Sequence[OperationName], rng: torch.Generator, count: int = 1
) -> Augmentation:
    """Draw one of `operations` and its parameters.

    Args:
        operations: names to choose from, at least one.
        rng: source of randomness.
        count: 1 to treat every image alike, so that it can be replayed on any batch; N for
            parameters of their own for each of N images.
    """
    chosen = operations[int(torch.randint(len(operations), (), generator=rng))]
    return Augmentation(chosen, torch.rand(count, _NUMBERS_PER_IMAGE, generator=rng))


def _per_image(numbers: Tensor, column: int) -> Tensor:
    return numbers[:, column].view(-1, 1, 1, 1)


def _color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5."""
    x = x + _per_image(u, 0) - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2 * _per_image(u, 1)) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_per_image(u, 2) + 0.5) + mean


def _shifts(x: Tensor, u: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return images with a margin, and where in it each begins: by row and by column."""
    reach = [int(size * _SHIFT + 0.5) for size in x.shape[-2:]]
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    return padded, [(u[:, i] * (2 * reach[i] + 1)).long() for i in range(2)]


def _crop_all(x: Tensor, u: Tensor) -> Tensor:
    """Shift all images alike, as `_crop` does each; `u` is on the host."""
    height, width = x.shape[-2:]
    padded, shifts = _shifts(x, u)
    top, left = int(shifts[0]), int(shifts[1])
    return padded[:, :, top : top + height, left : left + width]


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of the size, filled with the mean (0 after normalisation)."""
    height, width = x.shape[-2:]
    padded, shifts = _shifts(x, u)
    rows = shifts[0][:, None] + torch.arange(height, device=x.device)
    columns = shifts[1][:, None] + torch.arange(width, device=x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    # advanced indices around a slice put the channels last
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Blank a square of half the size around a random centre."""
    masks = []
    for i, size in enumerate(x.shape[-2:]):
        half = int(size * _CUTOUT + 0.5) // 2
        centre = (u[:, i] * (size + 1)).long()[:, None]
        position = torch.arange(size, device=x.device)[None]
        masks.append((position >= centre - half) & (position < centre + half))
    outside = ~(masks[0][:, :, None] & masks[1][:, None, :])
    return x * outside[:, None].to(x.dtype)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right with probability one half."""
    return torch.where(_per_image(u, 0) < 0.5, x.flip(-1), x)


def _affine(x: Tensor, matrix: Tensor) -> Tensor:
    theta = F.pad(matrix, (0, 1)).expand(len(x), -1, -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Scale height and width, each on its own, by a factor between 1/1.2 and 1.2."""
    factors = u[:, :2] * (_SCALE - 1 / _SCALE) + 1 / _SCALE
    return _affine(x, torch.diag_embed(factors))


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    """Rotate by up to 15 degrees either way."""
    angle = torch.deg2rad((u[:, 0] - 0.5) * 2 * _ROTATE_DEGREES)
    cos, sin = angle.cos(), angle.sin()
    return _affine(x, torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2))


_OPERATIONS: dict[OperationName, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
