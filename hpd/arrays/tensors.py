"""Any array as a dense tensor of real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpd.errors import NumericError, ShapeError

CPU = torch.device("cpu")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip

_DEEPEST = 8
# what numpy, and the `__array__` of others, raise
_NO_ARRAY = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_OTHER_KINDS = {
    "c": ("complex numbers", "Give x.real or abs(x)."),
    "O": ("objects", "Give numbers, all rows of one length."),
    "U": ("text", "Give numbers."),
    "S": ("text", "Give numbers."),
    "V": ("records", "Give one of their fields."),
}


def as_tensor(values: Any, name: str) -> Tensor:
    """Return an array as a dense tensor of real numbers or booleans.

    A tensor is returned as it is, with its device and its graph; anything else is copied.

    Args:
        values: see the top of this module.
        name: how it is called in messages.

    Raises:
        ShapeError: if it is no array, or one of another kind.

    >>> as_tensor(np.arange(3, dtype=">i2")[::-1], "x")
    tensor([2, 1, 0], dtype=torch.int16)
    """
    return _as_tensor(values, name, 0)


def as_numbers(
    values: Any, name: str, *, dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> Tensor:
    """Return numbers as floats, of any shape but an empty one; a tensor keeps its graph.

    Args:
        values: an array of floats or integers.
        name: how it is called in messages.
        dtype: of what is returned.
        device: where that lies.

    Raises:
        ShapeError: if they are no numbers, or there are none.
        NumericError: for NaN or Inf.
    """
    tensor = as_tensor(values, name)
    if tensor.dtype == torch.bool or not tensor.numel():
        raise ShapeError(
            f"{name} must be numbers",
            got=f"{dtype_of(tensor)} {list(tensor.shape)}",
            expected="some of float32",
        )
    ready = tensor.to(device, dtype)
    check_finite_extremes(ready, name)
    return ready


def check_finite_extremes(tensor: Tensor, name: str) -> tuple[float, float]:
    """Return the lowest and the highest value of a tensor that is not empty, both finite.

    Raises:
        NumericError: with the number of values that are not finite.
    """
    low, high = (float(value) for value in tensor.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        broken = int((~tensor.isfinite()).sum())
        raise NumericError(
            f"{name} is not finite", got=f"{broken} NaN or Inf of {tensor.numel()} values"
        )
    return low, high


def dtype_of(tensor: Tensor) -> str:
    """Return the name of a dtype as users write it."""
    return str(tensor.dtype).removeprefix("torch.")


def _as_tensor(values: Any, name: str, depth: int) -> Tensor:
    if isinstance(values, (list, tuple)) and isinstance(_first_leaf(values), Tensor):
        return _stacked(values, name, depth)
    if not isinstance(values, Tensor):
        return _copied(values, name)
    kind = _foreign_kind(values)
    if kind is not None:
        raise ShapeError(f"{name} must be a dense array of real numbers", got=kind[0], fix=kind[1])
    return values.resolve_neg()


def _foreign_kind(tensor: Tensor) -> tuple[str, str] | None:
    """Return what a tensor is that is not taken, and what to do about it; None if it is taken."""
    if tensor.is_nested:
        return "a nested tensor", "Give rows of one length."
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout}", "Give x.to_dense()."
    if tensor.is_quantized:
        return f"a quantised tensor, {dtype_of(tensor)}", "Give x.dequantize()."
    if tensor.is_complex():
        return dtype_of(tensor), _OTHER_KINDS["c"][1]
    if tensor.dtype not in (*FLOATS, *INTEGERS, torch.bool):
        return dtype_of(tensor), "Convert it to float32."
    if tensor.device.type == "meta":
        return "a tensor without values, on the device meta", ""
    return None


def _first_leaf(values: Any) -> Any:
    for _ in range(_DEEPEST):
        if not isinstance(values, (list, tuple)) or not values:
            break
        values = values[0]
    return values


def _stacked(values: Sequence[Any], name: str, depth: int) -> Tensor:
    """Return a list whose first leaf is a tensor as one tensor."""
    if depth == _DEEPEST:
        raise ShapeError(f"{name} is nested too deep", got="lists in lists of tensors")
    parts = [_as_tensor(part, f"{name}[{i}]", depth + 1) for i, part in enumerate(values)]
    first = parts[0]
    for i, part in enumerate(parts):
        if (part.shape, part.dtype, part.device) != (first.shape, first.dtype, first.device):
            raise ShapeError(
                f"{name} has parts that differ",
                got=f"{name}[{i}]: {dtype_of(part)} {list(part.shape)} on {part.device}",
                expected=f"{dtype_of(first)} {list(first.shape)} on {first.device}, as the first",
            )
    return torch.stack(parts)


def _copied(values: Any, name: str) -> Tensor:
    """Return what is no tensor as one, by way of numpy."""
    if isinstance(values, np.ma.MaskedArray):
        raise ShapeError(
            f"{name} is a masked array", got=f"{_shape(values)}", fix="Give x.filled(...)."
        )
    try:
        array = np.asarray(values)
    except _NO_ARRAY as error:
        reason = f"{type(values).__name__} ({type(error).__name__}: {error})"
        raise ShapeError(f"{name} is no array", got=reason, fix=_OTHER_KINDS["O"][1]) from None
    if array.dtype.kind not in "fiub":
        kind, fix = _OTHER_KINDS.get(array.dtype.kind, (str(array.dtype), "Give numbers."))
        given = type(values).__name__
        raise ShapeError(f"{name} is no array of numbers", got=f"{given} of {kind}", fix=fix)
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    plain = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
    try:
        return torch.from_numpy(np.array(array, dtype=plain, order="C"))
    # whole numbers that no type of torch holds
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError(f"{name} is no array that torch can hold", got=error) from None


def _shape(array: np.ma.MaskedArray[Any, Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
