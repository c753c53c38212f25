"""Labels, probabilities, names and counts that users give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpd.arrays.tensors import CPU, INTEGERS, as_tensor, check_finite_extremes, dtype_of
from hpd.errors import ShapeError, shown
from hpd.typing import LARGEST_INT

_SUM_TOLERANCE = 0.05


def as_labels(
    labels: Any,
    name: str = "labels",
    *,
    count: int | None = None,
    num_classes: int | None = None,
    device: torch.device = CPU,
) -> Tensor:
    """Return class indices, int64 [N].

    Args:
        labels: an array of integers [N], or [N, 1].
        name: how it is called in messages.
        count: N, the number of images; None: any.
        num_classes: K, above all labels; None: any.
        device: where the result lies.

    Raises:
        ShapeError: for a wrong shape, number, dtype or label.

    >>> as_labels(np.array([[2], [0]], dtype=np.uint8), num_classes=3)
    tensor([2, 0])
    """
    tensor = as_tensor(labels, name).detach()
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 1:
        one_hot = tensor.ndim == 2
        raise ShapeError(
            f"{name} are not one an image",
            got=f"shape {list(tensor.shape)}",
            expected="[N]",
            fix="One-hot rows: x.argmax(1). Probabilities are soft labels." if one_hot else "",
        )
    if tensor.dtype not in INTEGERS:
        raise ShapeError(
            f"{name} must be class indices",
            got=dtype_of(tensor),
            expected="integers, such as int64",
            fix="If they are indices that were stored as something else, convert them to int64.",
        )
    if count is not None and len(tensor) != count:
        raise ShapeError(f"{name} differ in number from what they belong to",
                         got=f"{len(tensor)} {name}", expected=count)  # fmt: skip
    return _checked_indices(tensor, name, num_classes).to(device)


def as_probabilities(
    values: Any, name: str, *, count: int, num_classes: int, device: torch.device = CPU
) -> Tensor:
    """Return probabilities of classes, float32 [N, K], as they are.

    Args:
        values: an array of numbers; each row sums to 1, but for rounding (5 %).
        name: how it is called in messages.
        count: N.
        num_classes: K.
        device: where the result lies.

    Raises:
        ShapeError: for a wrong shape or dtype, a negative value, or rows that do not sum to 1.
        NumericError: for NaN or Inf.
    """
    tensor = as_tensor(values, name).detach()
    if tuple(tensor.shape) != (count, num_classes) or tensor.dtype == torch.bool:
        raise ShapeError(
            f"{name} are not probabilities of every class",
            got=f"{dtype_of(tensor)} {list(tensor.shape)}",
            expected=f"floats [{count}, {num_classes}]",
        )
    ready = tensor.to(device, torch.float32)
    low, high = check_finite_extremes(ready, name)
    sums = ready.sum(dim=1)
    if low < 0 or bool(((sums - 1).abs() > _SUM_TOLERANCE).any()):
        raise ShapeError(
            f"{name} are no probabilities",
            got=f"{low:.4g} to {high:.4g}, rows that sum to {float(sums.min()):.4g} and more",
            expected="0 or more, rows that sum to 1",
            fix="Of logits take the softmax.",
        )
    return ready


def as_names(names: Any, name: str = "classes") -> tuple[str, ...]:
    """Return names of classes: different texts, one or more.

    Raises:
        ShapeError: if they are something else.

    >>> as_names(np.array(["cat", "dog"]))
    ('cat', 'dog')
    """
    # an array without dimensions says that one could go through it
    alone = getattr(names, "ndim", 1) == 0 or not isinstance(names, Iterable)
    if alone or isinstance(names, (str, bytes, Mapping)):
        raise ShapeError(
            f"{name} are not a list of names", got=_shown(names), expected="['cat', 'dog', ...]"
        )
    found = list(names)
    for one in found:
        if not isinstance(one, str):
            raise ShapeError(
                f"{name} are not all text",
                got=_shown(one),
                expected="names",
                fix="Numbers as names: [str(c) for c in classes].",
            )
    texts = tuple(str(one) for one in found)
    if len(set(texts)) < max(len(texts), 1):
        twice = next((text for text in texts if texts.count(text) > 1), "")
        raise ShapeError(
            f"{name} must be one or more different names",
            got=f"{twice!r} twice" if texts else "none",
        )
    return texts


def as_count(value: Any, name: str) -> int:
    """Return a whole number of 0 or more, and not above what a tensor holds.

    Raises:
        ShapeError: if it is something else.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not 0 <= value <= LARGEST_INT:
        raise ShapeError(f"{name} is not valid", got=_shown(value), expected="0, 1, 2, ...")
    return int(value)


def _checked_indices(tensor: Tensor, name: str, num_classes: int | None) -> Tensor:
    """Return integers as int64, each a class index."""
    indices = tensor.to(torch.int64)
    if not len(indices):
        raise ShapeError(f"there are no {name}", got="shape [0]")
    low, high = (int(value) for value in indices.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        most = "" if num_classes is None else num_classes - 1
        raise ShapeError(f"{name} out of range", got=f"{low}..{high}", expected=f"0..{most}")
    return indices


def _shown(value: Any) -> str:
    name, said = type(value).__name__, shown(value)
    return name if said == name else f"{name} {said}"[:80]
