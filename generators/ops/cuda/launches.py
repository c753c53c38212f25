"""The operations of `schema` on CUDA: dense tensors in, one launch each where a tile fits.

Images are taken as they lie, planes after planes or channels-last, and results lie alike.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from generators.ops.cuda import kernels
from generators.ops.cuda.driver import Launch
from generators.ops.cuda.kernels import ACTS, Act, Full, Kernel
from generators.ops.cuda.plans import (
    BiasActPlan,
    Divider,
    FilteredPlan,
    FilteredTensors,
    RaisedPlan,
    ResampleTensors,
    TotalsPlan,
)
from generators.ops.cuda.taps import Filter, filter_of
from generators.ops.cuda.tiles import (
    THREADS,
    Filtering,
    Resampling,
    Room,
    plan_filtered,
    plan_resampled,
    shared_bytes,
)
from generators.ops.scaled import scale_planes
from generators.ops.schema import empty_image, memory_format_of, sum_dtype
from hpd.errors import OpsError


class Start(Protocol):
    """What starts kernels."""

    def room(self, like: Tensor) -> Room:
        """Return what the device of a tensor has."""

    def __call__(self, launch: Launch, like: Tensor) -> None:
        """Start a kernel on the device of a tensor."""


@dataclass(frozen=True)
class Scales:
    """What planes are scaled with, each [N, C] or None, beside the bias [C]."""

    bias: Tensor | None = None
    before: Tensor | None = None
    after: Tensor | None = None

    def wide(self, x: Tensor) -> Scales:
        """Return them in the dtype of sums; kernels round them to the dtype of x."""
        dtype = sum_dtype(x)
        found = (
            None if t is None else t.to(dtype).contiguous()
            for t in (self.bias, self.before, self.after)
        )  # fmt: skip
        return Scales(*found)


_NO_SCALES = Scales()


@dataclass(frozen=True)
class Pass:
    """How x becomes a result, by way of a raised plane; pairs are y, x.

    Args:
        up: factor before the activation.
        down: factor behind it.
        pad: zeros in front of x.
        offset: where the window of the first result starts.
        raised: height and width of the raised plane.
        size: of the result.
        gain: factor on raised values.
        slope: of negative ones.
        clamp: their largest magnitude.
        flip: whether to convolve.
        act: what is done with raised values.
    """

    up: int
    down: int
    pad: tuple[int, int]
    offset: tuple[int, int]
    raised: tuple[int, int]
    size: tuple[int, int]
    gain: float
    slope: float
    clamp: float | None
    flip: bool
    act: Act


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _dense(x: Tensor) -> Tensor:
    """Return an image that is dense, as it lies or copied."""
    return x.contiguous(memory_format=memory_format_of(x))


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Operations:
    """The operations, by what starts their kernels.

    Args:
        start: takes a launch, and a tensor on the device that it is for.
    """

    def __init__(self, start: Start) -> None:
        self._start = start

    # ---- upfirdn2d

    def upfirdn2d(
        self, x: Tensor, kernel: Tensor, up: int, down: int, pad: Sequence[int],
        size: Sequence[int], gain: float, flip: bool,
    ) -> Tensor:  # fmt: skip
        """See `schema`."""
        found = filter_of(kernel)
        return self._resampled(_dense(x), found, (up, down), _pair(pad), _pair(size), gain, flip)

    def _resampled(
        self, x: Tensor, taps: Filter, rates: tuple[int, int], pad: tuple[int, int],
        size: tuple[int, int], gain: float, flip: bool,
    ) -> Tensor:  # fmt: skip
        y = empty_image(x, *size)
        problem = Resampling(
            shape=(x.shape[0], x.shape[1], x.shape[2], x.shape[3]), last=_is_last(x),
            value_bytes=x.element_size(), sum_bytes=sum_dtype(x).itemsize, result=size,
            up=rates[0], down=rates[1], taps=taps.size, full=taps.full, pad=pad, gain=gain,
            flip=flip,
        )  # fmt: skip
        plan = plan_resampled(problem, self._start.room(x))
        if plan is None:
            raise OpsError(
                "upfirdn2d: a filter is too large", got=list(taps.size), fix="HPD_OPS=reference."
            )
        tensors = ResampleTensors(_at(x), _at(taps.along), _at(taps.across), _at(y))
        kernel = kernels.resample(x.dtype, *rates)
        self._launch(kernel, plan.blocks, shared_bytes(plan, problem.sum_bytes), [plan, tensors], x)
        return y

    # ---- filtered leaky ReLU

    def filtered_lrelu(
        self, x: Tensor, bias: Tensor | None, up_kernel: Tensor, down_kernel: Tensor, up: int,
        down: int, padding: Sequence[int], gain: float, slope: float, clamp: float | None,
        record: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `schema`."""
        return self.filtered_scaled(
            x, bias, None, None, up_kernel, down_kernel, up, down, padding, gain, slope, clamp,
            record,
        )  # fmt: skip

    def filtered_scaled(
        self, x: Tensor, bias: Tensor | None, before: Tensor | None, after: Tensor | None,
        up_kernel: Tensor, down_kernel: Tensor, up: int, down: int, padding: Sequence[int],
        gain: float, slope: float, clamp: float | None, record: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `scaled`."""
        left, right, top, bottom = padding
        filters = filter_of(up_kernel), filter_of(down_kernel)
        sides = ((top, bottom), (left, right))
        raised = [x.shape[2 + i] * up + sum(sides[i]) - filters[0].size[i] + 1 for i in range(2)]
        size = [-(-(raised[i] - filters[1].size[i] + 1) // down) for i in range(2)]
        f = Pass(
            up=up, down=down, pad=(top, left), offset=(0, 0), raised=_pair(raised),
            size=_pair(size), gain=gain * up**2, slope=slope, clamp=clamp, flip=True,
            act="kRecord" if record else "kActivate",
        )  # fmt: skip
        # zeros: what no output needs is not computed, but must not be random
        shape = (x.shape[0] * x.shape[1], raised[0], -(-raised[1] // 4)) if record else (0,)
        written = torch.zeros(shape, dtype=torch.uint8, device=x.device)
        scales = Scales(bias, before, after)
        y = self._in_tiles(_dense(x), filters, f, written, scales)
        if y is None:
            y = self._in_steps(scale_planes(x, before), filters, f, written, bias)
            y = scale_planes(y, after).contiguous(memory_format=memory_format_of(x))
        return y, written

    def filtered_mask(
        self, x: Tensor, record: Tensor, first: Tensor, second: Tensor, up: int, down: int,
        pad: Sequence[int], offset: Sequence[int], raised: Sequence[int], size: Sequence[int],
        gain: float, slope: float, clamped: bool, flip: bool, sums: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `schema`."""
        filters = filter_of(first), filter_of(second)
        f = Pass(
            up=up, down=down, pad=_pair(pad), offset=_pair(offset), raised=_pair(raised),
            size=_pair(size), gain=gain, slope=slope, clamp=0.0 if clamped else None, flip=flip,
            act="kDerivative",
        )  # fmt: skip
        y = self._in_tiles(_dense(x), filters, f, record, _NO_SCALES)
        if y is None:
            y = self._in_steps(x, filters, f, record, None)
            y = y.contiguous(memory_format=memory_format_of(x))
        none = torch.empty(0, dtype=sum_dtype(x), device=x.device)
        return y, y.sum(dim=(2, 3), dtype=sum_dtype(x)) if sums else none

    def filtered_scaled_grad(
        self, grad: Tensor, record: Tensor, x: Tensor | None, size: Sequence[int],
        bias: Tensor | None, before: Tensor | None, after: Tensor | None, up_kernel: Tensor,
        down_kernel: Tensor, up: int, down: int, padding: Sequence[int], gain: float,
        slope: float, clamp: float | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `scaled`."""
        left, _, top, _ = padding
        rising, falling = filter_of(up_kernel), filter_of(down_kernel)
        raised = (record.shape[1], size[1] * up + sum(padding[:2]) - rising.size[1] + 1)
        f = Pass(
            up=down, down=up, pad=(falling.size[0] - 1, falling.size[1] - 1),
            offset=(top - (rising.size[0] - 1), left - (rising.size[1] - 1)), raised=raised,
            size=_pair(size), gain=gain * up**2, slope=slope, clamp=clamp, flip=False,
            act="kDerivative",
        )  # fmt: skip
        scales, given = Scales(bias, before, after), _dense(grad)
        beside = None if x is None else x.contiguous(memory_format=memory_format_of(given))
        tiles: list[Tensor] = []
        dx = self._in_tiles(given, (falling, rising), f, record, scales, (beside, tiles))
        if dx is not None:
            return dx, self._totals(tiles[0], scales.wide(given), given)
        dx = self._in_steps(scale_planes(grad, after), (falling, rising), f, record, None)
        totals = dx.new_zeros((3, *dx.shape[:2]), dtype=sum_dtype(dx))
        totals[0] = _sum(dx)
        if x is not None:
            y, _ = self.filtered_scaled(
                x, bias, before, None, up_kernel, down_kernel, up, down, padding, gain, slope,
                clamp, False,
            )  # fmt: skip
            totals[1], totals[2] = _sum(dx * x), _sum(grad * y)
        dx = scale_planes(dx, before).contiguous(memory_format=memory_format_of(grad))
        return dx, totals

    def _totals(self, tiles: Tensor, wide: Scales, x: Tensor) -> Tensor:
        """Return [3, N, C] from sums of tiles; see add_totals in csrc/cuda/pointwise.h."""
        totals = torch.empty((3, *tiles.shape[:2]), dtype=tiles.dtype, device=tiles.device)
        planes = tiles.shape[0] * tiles.shape[1]
        plan = TotalsPlan(planes, tiles.shape[1], tiles.shape[2])
        places = (tiles, wide.bias, wide.before, wide.after, totals)
        arguments = [plan, *(ctypes.c_void_p(_at(t)) for t in places)]
        self._launch(kernels.totals(x.dtype), -(-planes // THREADS), 0, arguments, x)
        return totals

    def _in_tiles(
        self, x: Tensor, filters: tuple[Filter, Filter], f: Pass, record: Tensor, scales: Scales,
        beside: tuple[Tensor | None, list[Tensor]] | None = None,
    ) -> Tensor | None:  # fmt: skip
        """Start the fused kernel, or return nothing where no tile or no sign fits it."""
        first, second = filters
        if f.gain <= 0 or f.slope < 0:
            return None
        problem = Filtering(
            shape=(x.shape[0], x.shape[1], x.shape[2], x.shape[3]), last=_is_last(x),
            value_bytes=x.element_size(), sum_bytes=sum_dtype(x).itemsize, raised=f.raised,
            result=f.size, up=f.up, down=f.down, first=first.size, second=second.size,
            full=(first.full, second.full), pad=f.pad, offset=f.offset, gain=f.gain,
            slope=f.slope, clamp=f.clamp, flip=f.flip, sums=beside is not None,
        )  # fmt: skip
        plan = plan_filtered(problem, self._start.room(x))
        if plan is None:
            return None
        y, wide = empty_image(x, *f.size), scales.wide(x)
        tensors = FilteredTensors(
            _at(x), _at(wide.bias), _at(wide.before), _at(wide.after), _at(first.along),
            _at(first.across), _at(second.along), _at(second.across),
            None if f.act == "kActivate" else _at(record), _at(y),
        )  # fmt: skip
        if beside is not None:
            totals = _room_for_totals(plan, y)
            beside[1].append(totals)
            tensors.beside, tensors.totals = _at(beside[0]), _at(totals)
        kernel = kernels.filtered(x.dtype, f.act, problem.factors, _which(problem.full))
        self._launch(kernel, plan.blocks, shared_bytes(plan, problem.sum_bytes), [plan, tensors], x)
        return y

    def _in_steps(
        self, x: Tensor, filters: tuple[Filter, Filter], f: Pass, record: Tensor,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Do the same through memory, in float32: long filters, and signs that change."""
        wide = x.contiguous().to(torch.float32)
        if bias is not None:
            wide = wide + bias.to(x.dtype).to(torch.float32).reshape(1, -1, 1, 1)
        wide = self._resampled(wide, filters[0], (f.up, 1), f.pad, f.raised, 1.0, f.flip)
        plan = RaisedPlan(
            planes=wide.shape[0] * wide.shape[1], height=f.raised[0], width=f.raised[1],
            gain=f.gain, slope=f.slope, clamp=f.clamp or 0.0, clamped=f.clamp is not None,
            act=ACTS.index(f.act),
        )  # fmt: skip
        kept = None if f.act == "kActivate" else _at(record)
        arguments = [plan, ctypes.c_void_p(_at(wide)), ctypes.c_void_p(kept)]
        self._launch(kernels.RAISED, -(-plan.items // THREADS), 0, arguments, wide)
        pad = (-f.offset[0], -f.offset[1])
        y = self._resampled(wide, filters[1], (1, f.down), pad, f.size, 1.0, f.flip)
        return y.to(x.dtype)

    # ---- bias with activation

    def bias_act(
        self, x: Tensor, bias: Tensor | None, scale: float, slope: float, clamp: float | None
    ) -> Tensor:
        """See `schema`."""
        return self._pointwise(None, x, bias, scale, slope, clamp, of_result=False)

    def bias_act_slope(
        self, grad: Tensor, x: Tensor, bias: Tensor | None, scale: float, slope: float,
        clamp: float | None, of_result: bool,
    ) -> Tensor:  # fmt: skip
        """See `schema`."""
        return self._pointwise(grad, x, bias, scale, slope, clamp, of_result=of_result)

    def _pointwise(
        self, grad: Tensor | None, given: Tensor, bias: Tensor | None, scale: float, slope: float,
        clamp: float | None, *, of_result: bool,
    ) -> Tensor:  # fmt: skip
        layout = memory_format_of(given)
        x = given.contiguous(memory_format=layout)
        offsets = None if bias is None else bias.to(x.dtype).to(torch.float32).contiguous()
        along = None if grad is None else grad.contiguous(memory_format=layout)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
        channels = max(x.shape[1], 1)
        inner = 1 if layout == torch.channels_last else x.numel() // max(x.shape[0] * channels, 1)
        plan = BiasActPlan(
            count=x.numel(), by_inner=Divider.by(max(inner, 1)), by_channels=Divider.by(channels),
            rising=scale, falling=scale * slope, clamp=clamp or 0.0, clamped=clamp is not None,
            of_result=of_result,
        )  # fmt: skip
        pack = 16 // x.element_size()
        places = [_at(t) for t in (along, x, offsets, y)]
        packed = all((place or 0) % 16 == 0 for place in (places[0], places[1], places[3]))
        arguments = [plan, *map(ctypes.c_void_p, places), ctypes.c_bool(packed)]
        blocks = -(-(x.numel() // pack + pack) // THREADS) if x.numel() else 0
        self._launch(kernels.bias_act(x.dtype), blocks, 0, arguments, x)
        return y

    def _launch(
        self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any], like: Tensor
    ) -> None:
        if blocks:
            self._start(Launch(kernel, blocks, shared, arguments), like)

    def register(self, key: str = "CUDA") -> None:
        """Register the operations with torch, where they are looked up.

        Args:
            key: of torch's dispatcher.
        """
        for name in OPERATIONS:
            torch.library.impl(f"hpd::{name}", key, getattr(self, name))


OPERATIONS = (
    "bias_act", "bias_act_slope", "upfirdn2d", "filtered_lrelu", "filtered_mask",
    "filtered_scaled", "filtered_scaled_grad",
)  # fmt: skip
"""What there is for CUDA; the last two are there only."""


def _is_last(x: Tensor) -> bool:
    return memory_format_of(x) == torch.channels_last


def _which(full: tuple[bool, bool]) -> Full:
    names: dict[tuple[bool, bool], Full] = {
        (False, False): "kNeither", (True, False): "kFirst", (False, True): "kSecond",
    }  # fmt: skip
    return names.get(full, "kAsked")


def _room_for_totals(plan: FilteredPlan, y: Tensor) -> Tensor:
    shape = (y.shape[0], y.shape[1], plan.tiles[0] * plan.tiles[1], 3)
    return torch.empty(shape, dtype=sum_dtype(y), device=y.device)


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=(2, 3), dtype=sum_dtype(x))
