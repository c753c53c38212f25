"""Augmentations that mix the images of a batch, and their labels with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """A mixed batch.

    Args:
        images: [N, C, H, W].
        other_labels: label of what was mixed in, for each image [N].
        share: of each image that is still its own, in [0, 1].
    """

    images: Tensor
    other_labels: Tensor
    share: float


def cutmix(images: Tensor, labels: Tensor, rng: torch.Generator) -> Mixed:
    """Replace one box of every image by the same box of another image of the batch.

    The box covers a uniform share of the image around a uniform centre, cut at the borders;
    `Mixed.share` is what it leaves, counted in pixels.

    Args:
        images: [N, C, H, W].
        labels: [N].
        rng: order of the others, share and place of the box.

    Source: Yun et al., CutMix, ICCV 2019, with Beta(1, 1).
    """
    height, width = images.shape[-2:]
    order = torch.randperm(len(images), generator=rng).to(images.device)
    size, centre_y, centre_x = torch.rand(3, generator=rng).tolist()
    rows = _span(centre_y, math.sqrt(1 - size), height)
    columns = _span(centre_x, math.sqrt(1 - size), width)
    mixed = images.clone()
    mixed[..., rows, columns] = images[order][..., rows, columns]
    box = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixed(mixed, labels[order], 1 - box / (height * width))


def mixup(images: Tensor, labels: Tensor, rng: torch.Generator, alpha: float) -> Mixed:
    """Blend every image with another one of the batch: ``share * x_i + (1 - share) * x_j``.

    One share for the whole batch, of Beta(alpha, alpha).

    Args:
        images: [N, C, H, W].
        labels: [N], or probabilities [N, K].
        rng: order of the others, and the share.
        alpha: positive; the smaller, the more often one of the two is nearly alone.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.
    """
    order = torch.randperm(len(images), generator=rng).to(images.device)
    # torch draws from the Beta distribution by its global generator alone
    seed = int(torch.randint(1 << 62, (), generator=rng))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return Mixed(images[order].lerp(images, share), labels[order], share)


def _span(centre: float, share: float, size: int) -> slice:
    """Return the part of `size` positions that `share` of it covers around a relative centre."""
    half, middle = int(size * share) // 2, int(centre * size)
    return slice(max(middle - half, 0), min(middle + half, size))
