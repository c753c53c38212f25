"""Which class of the data a label of a set means: by names, by index, or by what its images are."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from hpd.data.classes import plain_name, shown_names
from hpd.errors import ConfigError, DataError

_ORDERS = 500
BY_DATA, BY_NAME, ALPHABETICAL, FOUND = "data", "names", "alphabetical", "found"


def order_of_names(names: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """Return the index of the class of the data that each name is of [K].

    Letter case, and what stands between words, do not matter.

    Raises:
        DataError: naming those that the data do not have.
    """
    places = {_bare(name): i for i, name in enumerate(classes)}
    if len(places) < len(classes):
        places = {plain_name(name): i for i, name in enumerate(classes)}
        bare = [plain_name(name) for name in names]
    else:
        bare = [_bare(name) for name in names]
    lacking = [name for name, own in zip(names, bare, strict=True) if own not in places]
    if lacking:
        raise DataError(
            f"{where} has classes that the data have not",
            got=shown_names(lacking),
            expected=shown_names(list(classes)),
            fix="Say by data.classes which classes the set is of.",
        )
    return torch.tensor([places[own] for own in bare])


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", plain_name(name).lower()) or plain_name(name)


def alphabetical_order(classes: Sequence[str]) -> Tensor:
    """Return the class of each label where they count classes by sorted name [K].

    >>> alphabetical_order(["dog", "cat"])
    tensor([1, 0])
    """
    return torch.tensor(sorted(range(len(classes)), key=lambda i: classes[i]))


def written_order(text: str, classes: Sequence[str]) -> Tensor | None:
    """Return an order that is written as indices or names with commas; None for a word.

    Raises:
        ConfigError: if it does not name every class once.
    """
    if text in (BY_DATA, BY_NAME, ALPHABETICAL, FOUND):
        return None
    parts = [part.strip() for part in text.split(",")]
    places = {plain_name(name): i for i, name in enumerate(classes)}
    indices = [places.get(plain_name(p), int(p) if p.isdigit() else -1) for p in parts]
    if sorted(indices) != list(range(len(classes))):
        raise ConfigError(
            "the order of the classes does not name each of them once",
            got=text[:80],
            expected=f"data, alphabetical, found, or {len(classes)} names or indices with commas",
        )
    return torch.tensor(indices)


def assigned(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the class of the data that goes best with each class of a set [K].

    Largest share first: of what is predicted to be of a class of the set, how much is of one of the
    data, both counted against how frequent they are.

    Args:
        predicted: class of the set for each real image [M].
        labels: class of each [M].
        num_classes: K.
    """
    counts = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    counts.index_put_((predicted, labels), torch.ones(len(labels)).double(), accumulate=True)
    expected = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0) / max(len(labels), 1)
    lift = (counts - expected) / expected.clamp(min=1).sqrt()
    order = torch.full((num_classes,), -1)
    for place in lift.flatten().argsort(descending=True, stable=True).tolist():
        own, real = divmod(place, num_classes)
        if order[own] < 0 and not bool((order == real).any()):
            order[own] = real
    return order


def found_right(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return which real images are right by the best assignment, found on others [M].

    That of one half of the images is tried on the other half, and the other way round.
    """
    right = torch.zeros(len(labels), dtype=torch.bool)
    half = torch.arange(len(labels)) % 2 == 0
    for seen in (half, ~half):
        order = assigned(predicted[seen], labels[seen], num_classes)
        right[~seen] = order[predicted[~seen]] == labels[~seen]
    return right


def luck_of(predicted: Sequence[Tensor], labels: Tensor, num_classes: int, best: float) -> float:
    """Return how often classes in a random order come to as much, by the best of several readings.

    What a set of noise predicts goes with the classes of the data, too: all images of a class get
    the same answer. So a few classes are right by luck more often than images by themselves would.

    Args:
        predicted: class of the set for each real image [M], by each reading.
        labels: class of each [M].
        num_classes: K.
        best: share that the best reading has right, in the order that is meant.

    Returns:
        a share of all orders, of few classes, or of 500 random ones.
    """
    counts = torch.zeros(len(predicted), num_classes, num_classes)
    for own, guesses in zip(counts, predicted, strict=True):
        own.index_put_((guesses, labels), torch.ones(len(labels)), accumulate=True)
    rng = torch.Generator().manual_seed(0)
    if math.factorial(num_classes) <= _ORDERS:
        orders = torch.tensor(list(itertools.permutations(range(num_classes))))
    else:
        orders = torch.stack([torch.randperm(num_classes, generator=rng) for _ in range(_ORDERS)])
    # [R, orders]: what each reading has right in each order
    right = counts[:, torch.arange(num_classes), orders].sum(dim=2) / len(labels)
    return float((right.amax(dim=0) >= best - 1e-6).double().mean())
