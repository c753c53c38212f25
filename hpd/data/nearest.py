"""The images of a set that are nearest in pixels, exactly, at the speed of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from hpd.data.images import ImageSet
from hpd.progress import told

_CHUNK_VALUES = 1 << 22
# images that are looked for at a time
_QUERIES = 256


def nearest_images(
    images: Tensor, among: ImageSet, but: Tensor | None = None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return which image of a set is nearest in pixels, and how near: the RMS of the differences.

    Products of matrices give ``|x - r|^2 = |x|^2 + |r|^2 - 2 x r`` of all pairs, in float64, with
    rounding that is bounded; pairs that it cannot tell from the nearest are compared by their
    differences. So the answer is that of a loop over all pairs, and that of equal images is 0.

    Args:
        images: [N, C, H, W] in [0, 1].
        among: the set.
        but: of each image, an index in `among` that does not count [N].
        rows: indices in `among` to look through [M], ascending; None: all.

    Returns:
        indices [N], int64, of the first nearest, and distances [N] in [0, 1].
    """
    rows = torch.arange(len(among)) if rows is None else rows
    count = max(1, min(_QUERIES, 4 * _CHUNK_VALUES // max(images[:1].numel(), 1)))
    parts = [
        _nearest(
            images[start : start + count],
            among,
            None if but is None else but[start : start + count],
            rows,
        )
        for start in told("finding the nearest", range(0, max(len(images), 1), count))
    ]
    which, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return which, (squares / max(images[:1].numel(), 1)).sqrt().float()


def _nearest(
    images: Tensor, among: ImageSet, but: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return indices and squared distances, float64, of some images."""
    # as float32, in which x / 255 of a copy is that of its original
    flat = images.detach().cpu().flatten(1).float().double()
    size = flat.shape[1]
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64)
    which = rows[:1].repeat(len(flat))
    square = flat.square().sum(dim=1, keepdim=True)
    for own in rows.split(max(1, _CHUNK_VALUES // max(size, _QUERIES))):
        real = among.pixels(own).flatten(1).float().div_(255).double()
        squares = real.square().sum(dim=1)
        gaps = torch.addmm(square + squares, flat, real.t(), alpha=-2)
        # a sum of `size` products is off by at most about size * eps of the sum of their sizes
        slack = 4 * size * torch.finfo(torch.float64).eps * (square + squares.amax())
        if but is not None:
            gaps[but[:, None] == own] = torch.inf
        reach = torch.minimum(gaps.amin(dim=1, keepdim=True), best[:, None])
        near = (gaps <= reach + 2 * slack) & gaps.isfinite()
        queries, found = near.nonzero(as_tuple=True)
        for part in torch.arange(len(queries)).split(max(1, _CHUNK_VALUES // size // 4)):
            query, place = queries[part], found[part]
            exact = (flat[query] - real[place]).square_().sum(dim=1)
            _keep_nearest(best, which, query, exact, own[place])
    return which, best


def _keep_nearest(
    best: Tensor, which: Tensor, queries: Tensor, exact: Tensor, indices: Tensor
) -> None:
    """Take over pairs that are nearer than what is known; of equal ones the first stays.

    Args:
        best: least squared distance by query, changed in place.
        which: its index, likewise.
        queries: of each pair, ascending.
        exact: its squared distance.
        indices: its index in the set, ascending within a query.
    """
    # stable: the last one written to a place is the first of the nearest
    order = exact.argsort(stable=True).flip(0)
    order = order[queries[order].argsort(stable=True)]
    last = torch.ones(len(order), dtype=torch.bool)
    last[:-1] = queries[order][1:] != queries[order][:-1]
    chosen = order[last]
    query = queries[chosen]
    closer = exact[chosen] < best[query]
    best[query[closer]] = exact[chosen][closer]
    which[query[closer]] = indices[chosen][closer]
