"""The operations of `schema` on CUDA where there is no nvcc: kernels that NVRTC compiled.

What csrc/cuda/bindings.cpp is to a library, this is to them: dense tensors in, one launch each
where a tile fits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators.ops import nvrtc
from generators.ops.plans import (
    BiasActPlan,
    FilteredPlan,
    FilteredTensors,
    RaisedPlan,
    ResamplePlan,
    set_pairs,
)
from generators.ops.schema import memory_format_of
from hpd.errors import OpsError

ACTIVATE, RECORD, DERIVATIVE = 0, 1, 2
_ACTS = ("kActivate", "kRecord", "kDerivative")
_TYPES = {torch.float32: "float", torch.float16: "hpd::Half", torch.bfloat16: "hpd::BFloat16"}
_THREADS, _MOST_BLOCKS = 256, 1 << 30
_FACTORS = {(2, 2, 12, 12), (4, 2, 24, 12), (2, 4, 12, 24)}
_RATES = {(1, 1), (2, 1), (1, 2)}


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Args:
        kernel: its expression.
        blocks: of the grid.
        shared_bytes: of shared memory a block.
        arguments: structures and numbers of ctypes; tensors must live until it is started.
    """

    kernel: str
    blocks: int
    shared_bytes: int
    arguments: Sequence[Any]


Start = Callable[[Launch, Tensor], None]


class OnDevice:
    """Starts kernels on the current stream of a tensor's device; loads what is not loaded."""

    def __init__(self) -> None:
        self._functions: dict[tuple[int, str], Any] = {}

    def __call__(self, launch: Launch, like: Tensor) -> None:
        """Start a kernel.

        Raises:
            OpsError: if it does not compile, load or start.
        """
        from cuda.bindings import driver

        index = like.device.index or 0
        with torch.cuda.device(index):
            function = self._function(driver, index, launch.kernel)
            places = [ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in launch.arguments]
            array = (ctypes.c_void_p * len(places))(*places)
            (error,) = driver.cuLaunchKernel(
                function, min(launch.blocks, _MOST_BLOCKS), 1, 1, _THREADS, 1, 1,
                launch.shared_bytes, torch.cuda.current_stream(index).cuda_stream,
                ctypes.addressof(array), 0,
            )  # fmt: skip
        _check(error, launch.kernel)

    def _function(self, driver: Any, index: int, kernel: str) -> Any:
        found = self._functions.get((index, kernel))
        if found is None:
            major, minor = torch.cuda.get_device_capability(index)
            made = nvrtc.compiled([kernel], f"{major}{minor}")
            error, module = driver.cuModuleLoadData(made.code)
            _check(error, kernel)
            error, found = driver.cuModuleGetFunction(module, made.names[kernel].encode())
            _check(error, kernel)
            self._functions[index, kernel] = found
        return found


def _check(error: Any, kernel: str) -> None:
    if int(error):
        raise OpsError(f"the kernel {kernel} does not run", got=getattr(error, "name", str(error)))


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@dataclass(frozen=True)
class _Filtering:
    """A problem of filtered leaky ReLU; pairs are y, x."""

    up: int
    down: int
    pad: tuple[int, int]
    offset: tuple[int, int]
    raised: tuple[int, int]
    result: tuple[int, int]
    gain: float
    slope: float
    clamp: float | None
    flip: bool
    act: int = ACTIVATE


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
        y = self._resampled(x.contiguous(), kernel, (up, down), pad, size, gain, flip=flip)
        return y.contiguous(memory_format=memory_format_of(x))

    def _resampled(
        self, x: Tensor, kernel: Tensor, rates: tuple[int, int], pad: Sequence[int],
        size: Sequence[int], gain: float, *, flip: bool,
    ) -> Tensor:  # fmt: skip
        taps = kernel.to(torch.float32).contiguous()
        plan = ResamplePlan(
            planes=x.shape[0] * x.shape[1], up=rates[0], down=rates[1], separable=taps.ndim == 1,
            flip=flip, gain=gain,
        )  # fmt: skip
        counts = taps.shape if taps.ndim == 2 else (taps.shape[0], taps.shape[0])
        set_pairs(plan, source=x.shape[2:], result=size, taps=counts, pad=pad)
        if not plan.fit():
            raise OpsError(
                "upfirdn2d: a filter is too large", got=list(taps.shape), fix="HPD_OPS=reference."
            )
        y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device)
        up, down = rates if rates in _RATES else (0, 0)
        self._launch(
            f"hpd::resample_kernel<{_TYPES[x.dtype]}, {up}, {down}>", plan.blocks,
            plan.shared_floats, [plan, _at(x), _at(taps), _at(y)], x,
        )  # fmt: skip
        return y

    # ---- filtered leaky ReLU

    def filtered_lrelu(
        self, x: Tensor, bias: Tensor | None, up_kernel: Tensor, down_kernel: Tensor, up: int,
        down: int, padding: Sequence[int], gain: float, slope: float, clamp: float | None,
        record: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `schema`."""
        left, right, top, bottom = padding
        sides = ((top, bottom), (left, right))
        raised = tuple(
            x.shape[2 + i] * up + sum(sides[i]) - (up_kernel.shape[-i] - 1) for i in range(2)
        )
        result = tuple(-(-(raised[i] - (down_kernel.shape[-i] - 1)) // down) for i in range(2))
        f = _Filtering(
            up, down, (top, left), (0, 0), (raised[0], raised[1]), (result[0], result[1]),
            gain * up**2, slope, clamp, True, RECORD if record else ACTIVATE,
        )  # fmt: skip
        # zeros: what no output needs is not computed, but must not be random
        shape = (x.shape[0] * x.shape[1], raised[0], -(-raised[1] // 4)) if record else (0,)
        written = torch.zeros(shape, dtype=torch.uint8, device=x.device)
        return self._filtered(x, bias, up_kernel, down_kernel, f, written), written

    def filtered_mask(
        self, x: Tensor, record: Tensor, first: Tensor, second: Tensor, up: int, down: int,
        pad: Sequence[int], offset: Sequence[int], raised: Sequence[int], size: Sequence[int],
        gain: float, slope: float, clamped: bool, flip: bool, sums: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `schema`."""
        f = _Filtering(
            up, down, (pad[0], pad[1]), (offset[0], offset[1]), (raised[0], raised[1]),
            (size[0], size[1]), gain, slope, 0.0 if clamped else None, flip, DERIVATIVE,
        )  # fmt: skip
        y = self._filtered(x, None, first, second, f, record)
        none = torch.empty(0, dtype=torch.float32, device=x.device)
        return y, y.sum(dim=(2, 3), dtype=torch.float32) if sums else none

    def _filtered(
        self, x: Tensor, bias: Tensor | None, first: Tensor, second: Tensor, f: _Filtering,
        record: Tensor,
    ) -> Tensor:  # fmt: skip
        dense, offsets = x.contiguous(), _offsets_of(x, bias)
        before, after = (kernel.to(torch.float32).contiguous() for kernel in (first, second))
        y = self._in_tiles(dense, offsets, before, after, f, record)
        if y is None:
            y = self._in_steps(dense, offsets, before, after, f, record)
        return y.contiguous(memory_format=memory_format_of(x))

    def _in_tiles(
        self, x: Tensor, offsets: Tensor | None, first: Tensor, second: Tensor, f: _Filtering,
        record: Tensor,
    ) -> Tensor | None:  # fmt: skip
        """Start the fused kernel, or return nothing where no tile or no sign fits it."""
        if first.ndim != 1 or second.ndim != 1 or f.gain <= 0 or f.slope < 0:
            return None
        plan = FilteredPlan(
            planes=x.shape[0] * x.shape[1], channels=x.shape[1], up=f.up, down=f.down,
            first_taps=len(first), second_taps=len(second), flip=f.flip, gain=f.gain,
            slope=f.slope, clamp=f.clamp or 0.0, clamped=f.clamp is not None,
        )  # fmt: skip
        set_pairs(
            plan, source=x.shape[2:], raised=f.raised, result=f.result, pad=f.pad, offset=f.offset
        )
        if not plan.fit():
            return None
        y = torch.empty((*x.shape[:2], *f.result), dtype=x.dtype, device=x.device)
        known = (f.up, f.down, len(first), len(second))
        filters = ", ".join(map(str, known if known in _FACTORS else (0, 0, 0, 0)))
        tensors = FilteredTensors(
            _at(x), _at(offsets), _at(first), _at(second),
            _at(None if f.act == ACTIVATE else record), _at(y),
        )  # fmt: skip
        self._launch(
            f"hpd::filtered_kernel<{_TYPES[x.dtype]}, hpd::Act::{_ACTS[f.act]}, {filters}>",
            plan.blocks, plan.shared_floats, [plan, tensors], x,
        )  # fmt: skip
        return y

    def _in_steps(
        self, x: Tensor, offsets: Tensor | None, first: Tensor, second: Tensor, f: _Filtering,
        record: Tensor,
    ) -> Tensor:  # fmt: skip
        """Do the same through memory, in float32: matrices of taps, long filters, other signs."""
        wide = x.to(torch.float32)
        if offsets is not None:
            wide = wide + offsets.reshape(1, -1, 1, 1)
        wide = self._resampled(wide, first, (f.up, 1), f.pad, f.raised, 1.0, flip=f.flip)
        plan = RaisedPlan(
            planes=wide.shape[0] * wide.shape[1], height=f.raised[0], width=f.raised[1],
            gain=f.gain, slope=f.slope, clamp=f.clamp or 0.0, clamped=f.clamp is not None,
            act=f.act,
        )  # fmt: skip
        blocks = -(-plan.items // _THREADS)
        kept = _at(None if f.act == ACTIVATE else record)
        self._launch("hpd::raised_kernel<0>", blocks, 0, [plan, _at(wide), kept], wide)
        pad = (-f.offset[0], -f.offset[1])
        y = self._resampled(wide, second, (1, f.down), pad, f.result, 1.0, flip=f.flip)
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
        x, offsets = given.contiguous(memory_format=layout), _offsets_of(given, bias)
        along = None if grad is None else grad.contiguous(memory_format=layout)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
        outer = max(x.shape[0] * x.shape[1], 1)
        inner = 1 if layout == torch.channels_last else x.numel() // outer
        plan = BiasActPlan(
            count=x.numel(), inner=max(inner, 1), channels=max(x.shape[1], 1), rising=scale,
            falling=scale * slope, clamp=clamp or 0.0, clamped=clamp is not None,
            of_result=of_result,
        )  # fmt: skip
        pack = 16 // x.element_size()
        places = [t.data_ptr() for t in (along, x, y) if t is not None]
        packed = ctypes.c_bool(all(place % 16 == 0 for place in places))
        blocks = -(-(x.numel() // pack + pack) // _THREADS)
        arguments = [plan, _at(along), _at(x), _at(offsets), _at(y), packed]
        if x.numel():
            kernel = f"hpd::bias_act_kernel<{_TYPES[x.dtype]}>"
            self._launch(kernel, blocks, 0, arguments, x)
        return y

    def _launch(
        self, kernel: str, blocks: int, floats: int, arguments: Sequence[Any], like: Tensor
    ) -> None:
        if blocks:
            self._start(Launch(kernel, blocks, 4 * floats, arguments), like)

    def register(self) -> None:
        """Register the operations for CUDA with torch, where they are looked up."""
        for name in ("bias_act", "bias_act_slope", "upfirdn2d", "filtered_lrelu", "filtered_mask"):
            torch.library.impl(f"hpd::{name}", "CUDA", getattr(self, name))


def _offsets_of(x: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return a bias [C] rounded to the dtype of x, as float32."""
    return None if bias is None else bias.to(x.dtype).to(torch.float32).contiguous()
