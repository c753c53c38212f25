"""Weights are finite, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from generators.checkpoints.pickles.nodes import shown
from hpd.errors import GeneratorError


def finite_floats(
    name: str, values: Tensor, dtype: torch.dtype = torch.float32, where: str = ""
) -> Tensor:
    """Return a tensor in another precision if all of its values are finite in it.

    Args:
        name: of the tensor, for the message.
        values: floats or integers of any shape.
        dtype: the precision.
        where: file or folder, for the message.

    Returns:
        the values, without a copy where they are of that dtype already.

    Raises:
        GeneratorError: with the number of values that are NaN or Inf, or too large for `dtype`.
    """
    cast = values.detach().to(dtype)
    if is_finite(cast):
        return cast
    broken = int((~torch.isfinite(cast)).sum())
    before = not is_finite(values.detach().double())
    kind = "are NaN or Inf" if before else f"are too large for {dtype}"
    raise GeneratorError(
        f"the weights{f' in {where}' if where else ''} are not finite",
        got=f"{broken} of {cast.numel()} values of the tensor {shown(name)!r} {kind}",
        fix="The training diverged, or the file is damaged: take an earlier one." if before else "",
    )


def is_finite(values: Tensor) -> bool:
    """Tell whether no value is NaN or Inf, without a copy of them."""
    if not values.numel() or not values.is_floating_point():
        return True
    # smallest and largest value are NaN if any value is
    low, high = torch.aminmax(values)
    return math.isfinite(low) and math.isfinite(high)


def check_all_finite(weights: Mapping[str, Tensor], where: str = "") -> None:
    """Check that every tensor is finite.

    Raises:
        GeneratorError: naming the first that is not.
    """
    for name, values in weights.items():
        finite_floats(name, values, values.dtype, where)
