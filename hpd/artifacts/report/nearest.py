"""The real image that is closest to each synthetic one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.artifacts.distilled import DistilledSet
from hpd.data import ImageSet
from hpd.data.classes import shown_names
from hpd.errors import DataError

_CHUNK = 64


@dataclass(frozen=True)
class Nearest:
    """The training image of the same class that is closest in pixels.

    Args:
        image: uint8 [C, H, W].
        index: its index in the training part.
        distance: root mean square of the differences, of values in [0, 1].
    """

    image: Tensor
    index: int
    distance: float


def nearest_real(distilled: DistilledSet, indices: Tensor, real: ImageSet) -> list[Nearest]:
    """Return for some synthetic images the closest real image of their class.

    ``d(x, r) = sqrt(mean((x - r)^2))`` over pixels and channels, both in [0, 1].

    Args:
        distilled: the set.
        indices: of its images [n], int64.
        real: the real training images; classes are matched by name.

    Raises:
        DataError: if shape or classes are others, or a class has no real image.
    """
    if real.image_shape != tuple(distilled.images.shape[1:]):
        raise DataError(
            "the real images have another shape than the distilled ones",
            got=list(real.image_shape),
            expected=list(distilled.images.shape[1:]),
        )
    found: dict[int, Nearest] = {}
    for label, name in enumerate(distilled.classes):
        mine = indices[distilled.labels[indices] == label]
        if not len(mine):
            continue
        if name not in real.classes or not len(real.by_class[real.classes.index(name)]):
            raise DataError(
                f"the real images have none of class {name!r}", got=shown_names(real.classes)
            )
        candidates = real.by_class[real.classes.index(name)]
        pixels = real.images[candidates].flatten(1).float() / 255
        for part in mine.split(_CHUNK):
            images = distilled.images[part].float().flatten(1)
            closest = torch.cdist(images, pixels).argmin(dim=1)
            for i, image, j in zip(part.tolist(), images, closest.tolist(), strict=True):
                distance = (image - pixels[j]).square().mean().sqrt()
                index = int(candidates[j])
                found[i] = Nearest(real.images[index], index, float(distance))
    return [found[i] for i in indices.tolist()]
