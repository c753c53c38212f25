"""What a kernel of CUDA is told beside values: the structures of csrc/cuda/plans.h, laid out alike.

Pairs are y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_bool, c_float, c_int, c_int64, c_uint64, c_void_p
from typing import Any

_PAIR = c_int * 2


class Strides(Structure):
    """From a value to its neighbours, in values."""

    _fields_ = (("image", c_int64), ("channel", c_int64), ("row", c_int), ("column", c_int))

    @classmethod
    def of(cls, channels: int, height: int, width: int, *, last: bool) -> Strides:
        """Return those of dense images; `last`: channels-last."""
        image = channels * height * width
        if last:
            return cls(image, 1, width * channels, channels)
        return cls(image, height * width, width, 1)


class Divider(Structure):
    """Division by a number, as a product: of n where n times the divisor is at most 2^64."""

    _fields_ = (("divisor", c_uint64), ("multiplier", c_uint64))

    @classmethod
    def by(cls, divisor: int) -> Divider:
        """Return it for a divisor from 1 on."""
        return cls(divisor, -(-(1 << 64) // divisor) if divisor > 1 else 0)


class _Tiled(Structure):
    """A problem that is shared out in tiles of planes, or of a few channels at a time."""

    @property
    def group(self) -> int:
        """Channels that a block takes."""
        return 1 << int(self.group_shift)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        groups = -(-int(self.channels) // self.group)
        return int(self.images * groups * self.tiles[0] * self.tiles[1])


class FilteredPlan(_Tiled):
    """One problem of filtered leaky ReLU."""

    _fields_ = (
        ("images", c_int64), ("channels", c_int64), ("source_at", Strides), ("result_at", Strides),
        ("source", _PAIR), ("raised", _PAIR), ("result", _PAIR), ("up", c_int), ("down", c_int),
        ("first_taps", _PAIR), ("second_taps", _PAIR), ("pad", _PAIR), ("offset", _PAIR),
        ("gain", c_float), ("slope", c_float), ("clamp", c_float), ("clamped", c_bool),
        ("flip", c_bool), ("first_full", c_bool), ("second_full", c_bool), ("sums", c_bool),
        ("group_shift", c_int), ("tile", _PAIR), ("tiles", _PAIR), ("raised_tile", _PAIR),
        ("source_tile", _PAIR), ("pitch_source", c_int), ("pitch_raised", c_int),
        ("pitch_tile", c_int), ("floats_a", c_int), ("floats_b", c_int), ("floats_in", c_int),
        ("floats_out", c_int),
    )  # fmt: skip


class FilteredTensors(Structure):
    """Where the tensors of filtered leaky ReLU lie."""

    _fields_ = (
        ("source", c_void_p), ("bias", c_void_p), ("before", c_void_p), ("after", c_void_p),
        ("first", c_void_p), ("first_across", c_void_p), ("second", c_void_p),
        ("second_across", c_void_p), ("record", c_void_p), ("result", c_void_p),
        ("beside", c_void_p), ("totals", c_void_p),
    )  # fmt: skip


class ResamplePlan(_Tiled):
    """One problem of upfirdn2d."""

    _fields_ = (
        ("images", c_int64), ("channels", c_int64), ("source_at", Strides), ("result_at", Strides),
        ("source", _PAIR), ("result", _PAIR), ("taps", _PAIR), ("pad", _PAIR), ("up", c_int),
        ("down", c_int), ("full", c_bool), ("flip", c_bool), ("gain", c_float),
        ("group_shift", c_int), ("tile", _PAIR), ("tiles", _PAIR), ("source_tile", _PAIR),
    )  # fmt: skip


class ResampleTensors(Structure):
    """Where the tensors of upfirdn2d lie."""

    _fields_ = (
        ("source", c_void_p), ("along", c_void_p), ("across", c_void_p), ("result", c_void_p),
    )  # fmt: skip


class BiasActPlan(Structure):
    """Bias and activation of values."""

    _fields_ = (
        ("count", c_int64), ("by_inner", Divider), ("by_channels", Divider), ("rising", c_float),
        ("falling", c_float), ("clamp", c_float), ("clamped", c_bool), ("of_result", c_bool),
    )  # fmt: skip


class RaisedPlan(Structure):
    """Activation of raised planes in memory."""

    _fields_ = (
        ("planes", c_int64), ("height", c_int), ("width", c_int), ("gain", c_float),
        ("slope", c_float), ("clamp", c_float), ("clamped", c_bool), ("act", c_int),
    )  # fmt: skip

    @property
    def items(self) -> int:
        """Bytes of the record."""
        return int(self.planes * self.height * -(-self.width // 4))


class TotalsPlan(Structure):
    """Sums of tiles."""

    _fields_ = (("planes", c_int64), ("channels", c_int64), ("tiles", c_int64))


def set_pairs(plan: Structure, **pairs: Sequence[int]) -> None:
    """Set the pairs of a plan by name."""
    for name, values in pairs.items():
        own: Any = getattr(plan, name)
        own[0], own[1] = int(values[0]), int(values[1])
