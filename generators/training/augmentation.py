"""Augmentation of what a discriminator sees, differentiable, alike for real and generated images.

Sources: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020
(the transforms); Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS
2020, section 3.1 (a probability below 1 keeps them from leaking) and 3.2 (its adaptation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from generators.draws import Draws
from hpd.registry import Only, Settings


class AugmentationSettings(Settings):
    """How strongly each transform acts, and how often; 0 leaves one out."""

    translation: float = Field(0.125, ge=0, lt=1, description="largest shift, of the size")
    cutout: float = Field(0.25, ge=0, lt=1, description="side of the grey square, of the size")
    colour: float = Field(0.0, ge=0, le=1, description="change of brightness and contrast")
    augment_target: float | None = Field(
        None, gt=0, lt=1, description="mean sign of real logits to adapt towards; none: always on"
    )
    augment_adapt_images: Annotated[float, Only("augment_target")] = Field(
        500_000, gt=0, description="images in which adaptation could go from never to always"
    )

    def adapt(self, probability: float, sign: float, images: int) -> float:
        """Return the probability of each transform after `images` more images.

        Rises where the discriminator knows the real images too well, else falls:
        ``p + sign(r - target) * images / adapt_images``, within [0, 1].

        Args:
            probability: the one before.
            sign: r, mean sign of the logits of real images, in [-1, 1].
            images: real images that `sign` was measured on.
        """
        if self.augment_target is None:
            return 1.0
        change = images / self.augment_adapt_images * (1 if sign > self.augment_target else -1)
        return min(max(probability + change, 0.0), 1.0)


def augment(
    images: Tensor, s: AugmentationSettings, probability: float, draws: Callable[[str], Draws]
) -> Tensor:
    """Change the colours of images, shift them and cut a square out.

    Args:
        images: [N, C, H, W] in [-1, 1].
        s: which transforms, and how strong.
        probability: with which each acts on an image.
        draws: gives the random rows for a role.
    """
    n, size = len(images), images.shape[-1]
    shift, side = round(s.translation * size), round(s.cutout * size)

    def acts(role: str) -> Tensor:
        return draws(f"{role} acts").uniform(n) < probability

    if s.colour:
        change = (draws("colour").uniform(n, 3) * 2 - 1) * s.colour * acts("colour")[:, None]
        images = change_colours(images, change.to(images))
    if shift:
        drawn = draws("translation").integers(-shift, shift + 1, n, 2)
        images = translate(images, (drawn * acts("translation")[:, None]).to(images.device))
    if side:
        # a square that starts one side before the frame lies outside it
        corners = (draws("cutout").uniform(n, 2) * (size + side)).long() - side
        corners = torch.where(acts("cutout")[:, None], corners, -side)
        images = cut_out(images, corners.to(images.device), side)
    return images


def change_colours(images: Tensor, change: Tensor) -> Tensor:
    """Change brightness, saturation and contrast of images [N, C, H, W] in [-1, 1].

    With b, s and c from `change`: ``x + b / 2``, then ``m + (1 + s) (x - m)`` about the mean m
    over channels, then ``m + (1 + c / 2) (x - m)`` about the mean m of the image. Grey images
    have no saturation to change.

    Args:
        images: not clipped, before or after.
        change: b, s and c of each image, [N, 3] in [-1, 1]; 0 changes nothing.
    """
    brightness, saturation, contrast = change.reshape(-1, 3, 1, 1, 1).unbind(1)
    images = images + brightness / 2
    if images.shape[1] > 1:
        mean = images.mean(dim=1, keepdim=True)
        images = mean + (1 + saturation) * (images - mean)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (1 + contrast / 2) * (images - mean)


def translate(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each image of [N, C, H, W] by its own whole number of pixels.

    What comes in is 0, mid-grey in [-1, 1]: where the frame shows, a generator gains nothing by
    shifting its images itself.

    Args:
        images: in [-1, 1].
        shifts: [N, 2], int64: rows up, columns to the left.
    """
    rows = _shift_matrices(shifts[:, 0], images.shape[2]).to(images.dtype)
    columns = _shift_matrices(shifts[:, 1], images.shape[3]).to(images.dtype)
    # as products with permutation-like matrices the shifts are exact, and their gradient is as
    # deterministic as they are
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _shift_matrices(shifts: Tensor, size: int) -> Tensor:
    """Return [N, size, size] with a one where the column is the row plus the shift."""
    position = torch.arange(size, device=shifts.device)
    return position[None, None, :] == position[None, :, None] + shifts[:, None, None]


def cut_out(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Set a square of each image of [N, C, H, W] to 0; it may leave the frame.

    Args:
        images: in [-1, 1], where 0 is mid-grey.
        corners: first row and column of the square, [N, 2], int64; may be negative.
        side: height and width of the square in pixels.
    """
    inside = []
    for size, first in zip(images.shape[2:], corners[:, :, None].unbind(1), strict=True):
        position = torch.arange(size, device=images.device)[None]
        inside.append((position >= first) & (position < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * (~square).to(images.dtype)
