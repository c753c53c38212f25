"""The classes of a step's images: where each is, without asking the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hpd.machine.host import Number, computes_on_host, on_host, remember, send

_KEPT: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class OfClasses:
    """Images of some classes among those of a step, ordered by class.

    Args:
        labels: the classes, ascending.
        counts: images of each.
        where: which images these are: a slice where they stand together, else indices on the
            device of the images.
    """

    labels: tuple[int, ...]
    counts: tuple[int, ...]
    where: slice | Tensor

    @property
    def even(self) -> bool:
        """Whether there are equally many of each."""
        return len(set(self.counts)) == 1


def of_classes(
    labels: Tensor, own: Tensor | None = None, at_once: int | None = 1
) -> list[OfClasses]:
    """Return the classes of some labels, some at a time.

    Args:
        labels: of the images of a step [N].
        own: which images count [N], bool; None: all.
        at_once: most classes of each part; None: all in one.
    """
    known = on_host(labels)
    kept = torch.ones(len(known), dtype=torch.bool) if own is None else on_host(own)
    found = _KEPT.get(labels)
    # those of all images are the same at each step
    if found is None or found[:2] != (labels._version, at_once) or not torch.equal(found[2], kept):
        places = rows_by_class(known, kept)
        size = max(1, len(places)) if at_once is None else at_once
        some = [[*places][i : i + size] for i in range(0, len(places), size)]
        parts = [_part({c: places[c] for c in own}, labels.device) for own in some]
        found = _KEPT[labels] = (labels._version, at_once, kept, parts)
    return found[3]


def rows_by_class(labels: Tensor, kept: Tensor | None = None) -> dict[int, Tensor]:
    """Return where each class is among labels [N], on the host: ascending, of one sort for all.

    Args:
        labels: [N].
        kept: which count [N], bool; None: all.

    >>> rows_by_class(torch.tensor([2, 0, 2]))
    {0: tensor([1]), 2: tensor([0, 2])}
    """
    rows = torch.arange(len(labels)) if kept is None else kept.nonzero().flatten()
    order = rows[labels[rows].argsort(stable=True)]
    classes, counts = labels[order].unique_consecutive(return_counts=True)
    return dict(zip(classes.tolist(), order.split(counts.tolist()), strict=True))


def _part(places: Mapping[int, Tensor], device: torch.device) -> OfClasses:
    counts = tuple(len(one) for one in places.values())
    indices = torch.cat([*places.values()])
    first, count = int(indices[0]), len(indices)
    where: slice | Tensor = slice(first, first + count)
    if not torch.equal(indices, torch.arange(first, first + count)):
        where = send(indices, device)
    return OfClasses(tuple(places), counts, where)


def picked(images: Tensor, labels: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images [n, C, H, W] and labels [n] that are meant of a step's.

    Args:
        images: [N, C, H, W].
        labels: [N].
        own: which are meant [N], bool.
    """
    kept = on_host(own)
    if bool(kept.all()):
        return images, labels
    where = kept.nonzero().flatten()
    there = send(where, labels.device)
    return images[there], remember(labels[there], on_host(labels)[where])


def sum_of(losses: Sequence[Tensor]) -> Number:
    """Return the sum of losses: in float64 on the host, else where they are, unasked for."""
    if computes_on_host(losses[0].device):
        return sum(float(loss) for loss in losses)
    return torch.stack([loss.double() for loss in losses]).sum()


def mask_of(part: OfClasses, labels: Tensor) -> Tensor:
    """Return which of the images of a step [N] are of some classes, on the host."""
    return torch.isin(on_host(labels), torch.tensor(part.labels))
