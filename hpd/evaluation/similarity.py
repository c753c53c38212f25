"""How close synthetic images are to each other, and to the real images they may have copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from generators.projection import Distance
from hpd.artifacts import DistilledSet
from hpd.data import ImageSet
from hpd.data.nearest import nearest_images

_CHUNK_PAIRS = 32
# real images whose nearest neighbour says what is usual
_SAMPLE = 200
# pairs of a class by which its diversity is measured
_MOST_PAIRS = 200


def similarity(
    distilled: DistilledSet, train: ImageSet, distance: Distance | None = None
) -> dict[str, Any]:
    """Measure diversity and memorisation, as JSON.

    ``nearest_real``: of each image the nearest training image (``indices``) and its distance in
    pixels (``rms``, values in [0, 1]), their mean, and the median distance at which real images
    have their nearest (``usual_rms``, at most 200 of them): a copy is much closer than that.

    ``lpips``: ``diversity``, the mean distance between two images of a class over classes with
    two or more, None without; ``nearest_real``, the mean distance to the nearest image in pixels.

    Args:
        distilled: images; they are clipped to [0, 1].
        train: real images.
        distance: LPIPS; None leaves it out.
    """
    images = distilled.images.clamp(0, 1)
    which, gaps = nearest_images(images, train)
    found: dict[str, Any] = {
        "nearest_real": {
            "indices": which.tolist(),
            "rms": [round(gap, 6) for gap in gaps.tolist()],
            "mean_rms": round(float(gaps.mean()), 6),
            "usual_rms": round(_usual(train), 6),
        }
    }
    if distance is not None:
        real = train.unit(which)
        pairs = _pairs(distilled.by_class)
        between = _mean(distance, images[pairs[:, 0]], images[pairs[:, 1]]) if len(pairs) else None
        found["lpips"] = {"diversity": between, "nearest_real": _mean(distance, images, real)}
    return found


def _usual(train: ImageSet) -> float:
    """Return the median distance of real images to the nearest other one."""
    chosen = torch.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).long().unique()
    _, gaps = nearest_images(train.unit(chosen), train, but=chosen)
    return float(gaps.median())


def _pairs(by_class: Sequence[Tensor]) -> Tensor:
    """Return pairs of indices of one class [P, 2], at most 200 of each, spread evenly."""
    pairs = [torch.zeros(0, 2, dtype=torch.int64)]
    for own in by_class:
        every = torch.combinations(own)
        at = torch.linspace(0, max(len(every) - 1, 0), min(_MOST_PAIRS, len(every))).long()
        pairs.append(every[at])
    return torch.cat(pairs)


@torch.no_grad()
def _mean(distance: Distance, a: Tensor, b: Tensor) -> float:
    parts = zip(a.split(_CHUNK_PAIRS), b.split(_CHUNK_PAIRS), strict=True)
    return round(float(torch.cat([distance(x, y) for x, y in parts]).mean()), 6)
