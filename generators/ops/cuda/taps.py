"""Filters as kernels of CUDA take them: vectors along and across, or a matrix that is none of two.

A matrix of taps that is the product of two vectors needs 2k products a value in place of k^2.
Whether it is one, the host finds out: it asks the device for the taps of a filter once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hpd.errors import OpsError
from hpd.machine.host import on_host, send

# of the largest tap: the rounding of a product of two vectors in float32, not more
_ROUNDING = 2e-7
_LARGEST = 1e30
_KNOWN: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Filter:
    """A filter on a device, in float32.

    Args:
        along: taps along y, [k]; the whole matrix [k, m] where it is none of two vectors.
        across: taps along x, [m]; the matrix again.
        size: k and m.
        full: whether it is a matrix.
    """

    along: Tensor
    across: Tensor
    size: tuple[int, int]
    full: bool


def filter_of(kernel: Tensor) -> Filter:
    """Return a filter [k] or [k, m] as kernels take it; from the last time if it did not change.

    Raises:
        OpsError: if it is neither, or empty.
    """
    if kernel.ndim not in (1, 2) or kernel.numel() == 0:
        raise OpsError("no filter", got=list(kernel.shape), expected="[k] or [k, k], not empty")
    if kernel.ndim == 1:
        taps = kernel.detach().to(torch.float32).contiguous()
        return Filter(taps, taps, (len(taps), len(taps)), full=False)
    if kernel.is_inference():
        return _of_matrix(kernel)
    where = (kernel._version, kernel.data_ptr())
    known, found = _KNOWN.get(kernel, ((), None))
    if found is None or known != where:
        found = _of_matrix(kernel)
        _KNOWN[kernel] = (where, found)
    return found


def _of_matrix(kernel: Tensor) -> Filter:
    kernel = kernel.detach()
    size = (kernel.shape[0], kernel.shape[1])
    vectors = factors_of(on_host(kernel))
    if vectors is None:
        taps = kernel.to(torch.float32).contiguous()
        return Filter(taps, taps, size, full=True)
    along, across = (send(v.to(torch.float32), kernel.device) for v in vectors)
    return Filter(along, across, size, full=False)


def factors_of(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the vectors [k] and [m] whose product a matrix [k, m] is, None where it is none.

    >>> factors_of(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))[1].tolist()
    [0.5, 1.0]
    """
    taps = kernel.to(torch.float64)
    row, column = divmod(int(taps.abs().argmax()), taps.shape[1])
    peak = float(taps[row, column])
    # infinite taps have no factors; NaN fails the comparison
    if not abs(peak) <= _LARGEST:
        return None
    along, across = taps[:, column], taps[row] / (peak or 1.0)
    off = (taps - torch.outer(along, across)).abs().max()
    return (along, across) if bool(off <= abs(peak) * _ROUNDING) else None
