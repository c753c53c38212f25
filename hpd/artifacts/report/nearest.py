"""The real image that is closest to each synthetic one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.artifacts.distilled import DistilledSet
from hpd.data import ImageSet
from hpd.data.classes import shown_names
from hpd.data.nearest import nearest_images
from hpd.errors import DataError


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
        which, distances = nearest_images(distilled.images[mine], real, rows=candidates)
        rows = zip(mine.tolist(), which.tolist(), distances.tolist(), strict=True)
        for i, index, distance in rows:
            found[i] = Nearest(real.pixels(torch.tensor([index]))[0], index, distance)
    return [found[i] for i in indices.tolist()]
