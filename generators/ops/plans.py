"""What a kernel of CUDA is told beside its tensors: the structures of csrc/cuda, laid out alike.

`fit` chooses tiles as the functions of that name in filtered.h and resample.h do.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_bool, c_float, c_int, c_int64, c_void_p
from typing import Any

SHARED_FLOATS = 12 * 1024
"""Shared memory that every GPU gives a block without being asked: 48 KiB."""
_RUN = 4
_PAIR = c_int * 2


def _ceil(value: int, step: int) -> int:
    return -(-value // step)


class _Tiled(Structure):
    """A problem that is shared out in tiles of planes."""

    @property
    def blocks(self) -> int:
        """Number of tiles."""
        return int(self.planes * self.tiles[0] * self.tiles[1])


class FilteredTensors(Structure):
    """Where the tensors of filtered leaky ReLU lie."""

    _fields_ = (
        ("source", c_void_p), ("bias", c_void_p), ("first", c_void_p), ("second", c_void_p),
        ("record", c_void_p), ("result", c_void_p),
    )  # fmt: skip


class FilteredPlan(_Tiled):
    """One problem of filtered leaky ReLU; pairs are y, x."""

    _fields_ = (
        ("planes", c_int64), ("channels", c_int64), ("source", _PAIR), ("raised", _PAIR),
        ("result", _PAIR), ("up", c_int), ("down", c_int), ("first_taps", c_int),
        ("second_taps", c_int), ("pad", _PAIR), ("offset", _PAIR), ("flip", c_bool),
        ("gain", c_float), ("slope", c_float), ("clamp", c_float), ("clamped", c_bool),
        ("tile", _PAIR), ("tiles", _PAIR), ("raised_tile", _PAIR), ("source_tile", _PAIR),
        ("pitch_a", c_int), ("pitch_b", c_int), ("floats_a", c_int), ("floats_b", c_int),
    )  # fmt: skip

    @property
    def shared_floats(self) -> int:
        """Floats of shared memory that a block takes."""
        return int(self.floats_a + self.floats_b + self.first_taps + self.second_taps)

    def fit(self) -> bool:
        """Choose the largest tiles that fit; False where none does."""
        largest = 32
        while largest >= _RUN:
            self._lay_out(largest)
            if self.shared_floats <= SHARED_FLOATS:
                return True
            largest //= 2
        return False

    def _lay_out(self, largest: int) -> None:
        for i in range(2):
            count = _ceil(self.result[i], largest)
            self.tile[i] = max(_ceil(_ceil(self.result[i], max(count, 1)), _RUN) * _RUN, _RUN)
            self.tiles[i] = _ceil(self.result[i], self.tile[i])
            needed = (self.tile[i] - 1) * self.down + self.second_taps
            # columns round to whole bytes at both ends, rows and columns to whole sources
            rounded = needed + (6 if i == 1 else 0) + self.up - 1
            self.raised_tile[i] = _ceil(rounded, self.up * _RUN) * self.up * _RUN
            self.source_tile[i] = self.raised_tile[i] // self.up + _ceil(self.first_taps, self.up)
        # odd, so that neighbours in a column lie in different banks
        self.pitch_a = max(self.raised_tile[1], self.source_tile[1]) | 1
        self.pitch_b = max(self.source_tile[1], self.tile[1]) | 1
        self.floats_a = self.pitch_a * max(self.raised_tile[0], self.source_tile[0])
        self.floats_b = self.pitch_b * self.raised_tile[0]


class ResamplePlan(_Tiled):
    """One problem of upfirdn2d; pairs are y, x."""

    _fields_ = (
        ("planes", c_int64), ("source", _PAIR), ("result", _PAIR), ("taps", _PAIR), ("pad", _PAIR),
        ("up", c_int), ("down", c_int), ("separable", c_bool), ("flip", c_bool), ("gain", c_float),
        ("tile", _PAIR), ("tiles", _PAIR), ("source_tile", _PAIR),
    )  # fmt: skip

    @property
    def shared_floats(self) -> int:
        """Floats of shared memory that a block takes."""
        rows, columns = self.source_tile
        between = self.tile[0] * columns if self.separable else 0
        taps = self.taps[0] if self.separable else self.taps[0] * self.taps[1]
        return int(rows * columns + between + taps)

    def fit(self) -> bool:
        """Choose the largest tiles that fit; False where none does."""
        largest = 32
        while largest >= 1:
            for i, side in enumerate((largest, 64 if largest == 32 else largest)):
                self.tile[i] = min(side, max(self.result[i], 1))
                self.tiles[i] = _ceil(self.result[i], self.tile[i])
                reach = (self.tile[i] - 1) * self.down + self.up - 1 + self.taps[i] - 1
                self.source_tile[i] = reach // self.up + 1
            if self.shared_floats <= SHARED_FLOATS:
                return True
            largest //= 2
        return False


class BiasActPlan(Structure):
    """Bias and activation of values."""

    _fields_ = (
        ("count", c_int64), ("inner", c_int64), ("channels", c_int64), ("rising", c_float),
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
        return int(self.planes * self.height * _ceil(self.width, 4))


def set_pairs(plan: Structure, **pairs: Sequence[int]) -> None:
    """Set the pairs of a plan by name."""
    for name, values in pairs.items():
        own: Any = getattr(plan, name)
        own[0], own[1] = int(values[0]), int(values[1])
