"""Checks of tensors that come from outside, with errors that show got and expected."""

from __future__ import annotations

import torch
from torch import Tensor

from hpd.errors import ConfigError, NumericError, ShapeError
from hpd.typing import Shardable, Source


def check_tensor(value: object, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return what is a tensor of floats; its values are not looked at, so no device is waited for.

    Args:
        value: any object.
        name: how it is called in the message.
        dtype: that it must have; None: any float.

    Raises:
        ShapeError: if it is something else.
    """
    if isinstance(value, Tensor):
        if value.dtype == dtype or (dtype is None and value.is_floating_point()):
            return value
        got = str(value.dtype)
    else:
        got = type(value).__name__
    wanted = "floats" if dtype is None else str(dtype)
    raise ShapeError(f"{name} has the wrong dtype", got=got, expected=f"a tensor of {wanted}")


def check_shape(tensor: Tensor, pattern: str, name: str, **sizes: int) -> Tensor:
    """Check a tensor's shape against letters of `hpd.typing`, and return it.

    Args:
        tensor: any tensor.
        pattern: one letter or number per dimension, such as ``"N C H W"`` or ``"N 3 H W"``.
        name: how the tensor is called in the message.
        sizes: values for letters that are known; other letters match any size, the same
            size wherever they stand again.

    Raises:
        ShapeError: if the rank or a size differs.

    >>> check_shape(torch.zeros(2, 3), "N D", "ws", D=3).shape
    torch.Size([2, 3])
    """
    letters = pattern.split()
    known = dict(sizes)
    fits = tensor.ndim == len(letters)
    for letter, size in zip(letters, tensor.shape, strict=False):
        wanted = int(letter) if letter.isdigit() else known.setdefault(letter, size)
        fits = fits and size == wanted
    if not fits:
        named = ", ".join(f"{k}={v}" for k, v in sizes.items())
        raise ShapeError(
            f"{name} has the wrong shape",
            got=list(tensor.shape),
            expected=f"[{', '.join(letters)}]" + (f" with {named}" if named else ""),
        )
    return tensor


def _all_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite: where the least and the largest are, NaN being both."""
    if not tensor.is_floating_point() or not tensor.numel():
        return bool(torch.isfinite(tensor).all())
    with torch.no_grad():
        return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def check_finite(tensor: Tensor, name: str, fix: str = "") -> Tensor:
    """Return `tensor` if all its values are finite.

    Raises:
        NumericError: with the number of values that are not.
    """
    if not _all_finite(tensor):
        broken = int((~torch.isfinite(tensor)).sum())
        raise NumericError(
            f"{name} is not finite",
            got=f"{broken} NaN or Inf of {tensor.numel()} values",
            fix=fix,
        )
    return tensor


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Check that `labels` is an integer vector [N] with values in 0..num_classes-1.

    Raises:
        ShapeError: if it is not.
    """
    check_shape(labels, "N", "labels")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError("labels must be class indices", got=labels.dtype, expected="torch.int64")
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ShapeError(
            "labels out of range",
            got=f"{int(labels.min())}..{int(labels.max())}",
            expected=f"0..{num_classes - 1}",
        )
    return labels


def check_shardable(source: Source) -> Shardable:
    """Check that processes can share out a source, and return it.

    Raises:
        ConfigError: if they cannot.
    """
    if not isinstance(source, Shardable):
        raise ConfigError(
            "the source cannot be shared out among processes",
            got=type(source).__name__,
            expected="one with owned, narrow and widen: see hpd.typing.Shardable",
            fix="Start one process.",
        )
    return source
