"""Native operations as torch sees them: schemas, shapes, memory formats and derivatives.

The kernels, in ``csrc/``, are looked up when an operation is first called; what is here needs no
compiler. Derivatives are made of operations of this file again, so they exist to any order.

Filters are given as the user gave them, [k] or [k, k]. ``flip`` tells whether to convolve with
them (true) or to correlate (false), which is the transposed operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from hpd.errors import ShapeError

LANES = 16
"""Planes that share a pixel's entry in a record of the CPU: two bytes for signs, two for clamps."""

ROWS_RECORDED = {"cuda"}
"""Devices whose record has neighbours in a row side by side."""

_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}


def fits(
    x: Tensor,
    bias: Tensor | None,
    *filters: Tensor | None,
    scales: tuple[Tensor | None, ...] = (),
) -> bool:
    """Return whether the kernels can take these inputs: x, its bias, filters, and scales of planes.

    They take float32, float16 and bfloat16, on the CPU float64 too. Derivatives with respect to
    filters do not exist natively.
    """
    if x.dtype not in _DTYPES.get(x.device.type, ()):
        return False
    if bias is not None and bias.device != x.device:
        return False
    if scales and any(t is not None and t.device != x.device for t in scales):
        return False
    # torch.func cannot differentiate operations that are registered as these are; the compiler
    # cannot look into the question
    if not torch.compiler.is_compiling() and any(
        t is not None and is_functorch_wrapped_tensor(t) for t in (x, bias, *scales)
    ):
        return False
    wanted = torch.is_grad_enabled()
    return all(f is None or not (wanted and f.requires_grad) for f in filters)


def check_size(x: Tensor, size: tuple[int, int], name: str) -> None:
    """Check that an operation leaves something of the image.

    Raises:
        ShapeError: if x is not [N, C, H, W], or height or width of the result are below 1.
    """
    if x.ndim != 4 or min(size) < 1:
        raise ShapeError(
            f"{name} leaves nothing of an image" if x.ndim == 4 else f"{name} takes images",
            got=f"[{', '.join(map(str, x.shape))}]",
            expected="[N, C, H, W], larger than the filters with the padding",
        )


def check_factors(name: str, up: int, down: int) -> None:
    """Check factors of resampling.

    Raises:
        ShapeError: if one is below 1.
    """
    if min(up, down) < 1:
        raise ShapeError(
            f"{name} cannot resample", got=f"up {up}, down {down}", expected="1 or more"
        )


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Return whether torch will ask for the derivative with respect to any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


torch.library.define(
    "hpd::bias_act", "(Tensor x, Tensor? bias, float scale, float slope, float? clamp) -> Tensor"
)
torch.library.define(
    "hpd::bias_act_slope",
    "(Tensor grad, Tensor x, Tensor? bias, float scale, float slope, float? clamp, "
    "bool of_result) -> Tensor",
)
torch.library.define(
    "hpd::upfirdn2d",
    "(Tensor x, Tensor kernel, int up, int down, SymInt[] pad, SymInt[] size, float gain, "
    "bool flip) -> Tensor",
)
torch.library.define(
    "hpd::filtered_lrelu",
    "(Tensor x, Tensor? bias, Tensor up_kernel, Tensor down_kernel, int up, int down, "
    "SymInt[] padding, float gain, float slope, float? clamp, bool record) -> (Tensor, Tensor)",
)
torch.library.define(
    "hpd::filtered_mask",
    "(Tensor x, Tensor record, Tensor first, Tensor second, int up, int down, SymInt[] pad, "
    "SymInt[] offset, SymInt[] raised, SymInt[] size, float gain, float slope, bool clamped, "
    "bool flip, bool sums) -> (Tensor, Tensor)",
)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return that of results: channels-last for x that is so and nothing else."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format


def empty_image(x: Tensor, height: int, width: int) -> Tensor:
    """Return what the kernels allocate for [N, C, height, width]."""
    shape = (x.shape[0], x.shape[1], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def record_like(x: Tensor, height: int, width: int, record: bool) -> Tensor:
    """Return what the kernels allocate for the record of raised planes: two bits a value.

    Those of 16 planes lie side by side on a CPU, those of 4 neighbours in a row on a GPU.
    """
    planes = x.shape[0] * x.shape[1]
    shape: tuple[int, ...] = ((planes + LANES - 1) // LANES, height, width, 4)
    if x.device.type in ROWS_RECORDED:
        shape = (planes, height, (width + 3) // 4)
    return x.new_empty(shape if record else (0,), dtype=torch.uint8)


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which the kernels add up values of x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _bias_act_shape(
    x: Tensor, bias: Tensor | None, scale: float, slope: float, clamp: float | None
) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def _bias_act_slope_shape(
    grad: Tensor, x: Tensor, bias: Tensor | None, scale: float, slope: float,
    clamp: float | None, of_result: bool,
) -> Tensor:  # fmt: skip
    return _bias_act_shape(x, bias, scale, slope, clamp)


def _upfirdn2d_shape(
    x: Tensor, kernel: Tensor, up: int, down: int, pad: Sequence[int], size: Sequence[int],
    gain: float, flip: bool,
) -> Tensor:  # fmt: skip
    return empty_image(x, size[0], size[1])


def _bias_act_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, scale, slope, clamp = inputs
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = None if bias is None else bias.dtype
    # The next layer keeps the result anyway, and it has the sign of what the activation got,
    # unless a small scale made it 0. At 16 bits it could have been rounded up to the clamp.
    wide = x.dtype in (torch.float32, torch.float64)
    of_result = scale >= 1 and slope >= 0 and (clamp is None or wide)
    ctx.options = (scale, slope, clamp, of_result)
    ctx.save_for_backward(*((output, None) if of_result else (x, bias)))


def _bias_act_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 5
    x, bias = ctx.saved_tensors
    dx = torch.ops.hpd.bias_act_slope(grad, x, bias, *ctx.options)
    db = None
    if ctx.needs_input_grad[1]:
        db = dx.sum(dim=[0, *range(2, dx.ndim)], dtype=sum_dtype(dx)).to(ctx.bias_dtype)
    return (dx if ctx.needs_input_grad[0] else None, db, None, None, None)


def _bias_act_slope_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, x, bias, *ctx.options = inputs
    ctx.save_for_backward(x, bias)
    ctx.set_materialize_grads(False)


def _bias_act_slope_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    nothing = (None,) * 6
    if grad is None:
        return (None, *nothing)
    # linear in the gradient, and flat in x but where it jumps
    x, bias = ctx.saved_tensors
    return (torch.ops.hpd.bias_act_slope(grad, x, bias, *ctx.options), *nothing)


def _upfirdn2d_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, ctx.up, ctx.down, ctx.pad, _, ctx.gain, ctx.flip = inputs
    ctx.save_for_backward(kernel)
    ctx.set_materialize_grads(False)
    ctx.size = tuple(x.shape[2:])


def _upfirdn2d_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    nothing = (None,) * 7
    if grad is None:
        return (None, *nothing)
    (kernel,) = ctx.saved_tensors
    # y[o] sums k[o * down + i - pad] over sources; the transposed sum swaps up and down
    pad = (kernel.shape[0] - 1 - ctx.pad[0], kernel.shape[-1] - 1 - ctx.pad[1])
    dx = torch.ops.hpd.upfirdn2d(
        grad, kernel, ctx.down, ctx.up, pad, ctx.size, ctx.gain, not ctx.flip
    )
    return (dx, *nothing)


def _filtered_lrelu_shapes(
    x: Tensor, bias: Tensor | None, up_kernel: Tensor, down_kernel: Tensor, up: int, down: int,
    padding: Sequence[int], gain: float, slope: float, clamp: float | None, record: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    left, right, top, bottom = padding
    height = x.shape[2] * up + top + bottom - (up_kernel.shape[0] - 1)
    width = x.shape[3] * up + left + right - (up_kernel.shape[-1] - 1)
    y = empty_image(
        x,
        (height - (down_kernel.shape[0] - 1) + down - 1) // down,
        (width - (down_kernel.shape[-1] - 1) + down - 1) // down,
    )
    return y, record_like(x, height, width, record)


def _filtered_mask_shapes(
    x: Tensor, record: Tensor, first: Tensor, second: Tensor, up: int, down: int,
    pad: Sequence[int], offset: Sequence[int], raised: Sequence[int], size: Sequence[int],
    gain: float, slope: float, clamped: bool, flip: bool, sums: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (x.shape[0], x.shape[1]) if sums else (0,)
    return empty_image(x, size[0], size[1]), x.new_empty(shape, dtype=sum_dtype(x))


def _filtered_lrelu_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, bias, up_kernel, down_kernel, up, down, padding, gain, slope, clamp, _ = inputs
    # the record is all that the derivative needs of the values: neither x nor y is kept
    ctx.save_for_backward(output[1], up_kernel, down_kernel)
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.factors, ctx.size = (up, down), tuple(x.shape[2:])
    left, right, top, bottom = padding
    ctx.raised = (
        x.shape[2] * up + top + bottom - (up_kernel.shape[0] - 1),
        x.shape[3] * up + left + right - (up_kernel.shape[-1] - 1),
    )
    ctx.pad, ctx.options = (top, left), (gain * up**2, slope, clamp is not None)


def _filtered_lrelu_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Any, ...]:
    nothing = (None,) * 9
    if grad is None:
        return (None, None, *nothing)
    record, up_kernel, down_kernel = ctx.saved_tensors
    (up, down), (top, left) = ctx.factors, ctx.pad
    dx, sums = torch.ops.hpd.filtered_mask(
        grad, record, down_kernel, up_kernel, down, up,
        (down_kernel.shape[0] - 1, down_kernel.shape[-1] - 1),
        (top - (up_kernel.shape[0] - 1), left - (up_kernel.shape[-1] - 1)),
        ctx.raised, ctx.size, *ctx.options, False, ctx.needs_input_grad[1],
    )  # fmt: skip
    db = sums.sum(dim=0).to(ctx.bias_dtype) if ctx.needs_input_grad[1] else None
    return (dx if ctx.needs_input_grad[0] else None, db, *nothing)


def _filtered_mask_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, record, first, second, up, down, pad, offset, ctx.raised, _, gain, slope = inputs[:12]
    clamped, flip, sums = inputs[12:]
    ctx.save_for_backward(record, first, second)
    ctx.set_materialize_grads(False)
    ctx.factors, ctx.pad, ctx.offset, ctx.size = (up, down), pad, offset, tuple(x.shape[2:])
    ctx.dtype, ctx.sums = x.dtype, sums
    ctx.options, ctx.flip, ctx.result_size = (gain, slope, clamped), flip, output[0].shape


def _filtered_mask_backward(
    ctx: Any, grad: Tensor | None, grad_sums: Tensor | None
) -> tuple[Any, ...]:
    nothing = (None,) * 14
    if not ctx.sums:
        grad_sums = None
    if grad is None and grad_sums is None:
        return (None, *nothing)
    record, first, second = ctx.saved_tensors
    total = grad
    if grad_sums is not None:
        # each sum is that of all values of a plane
        spread = grad_sums[:, :, None, None].to(ctx.dtype).expand(ctx.result_size)
        total = spread if grad is None else grad + spread
    (up, down), pad, offset = ctx.factors, ctx.pad, ctx.offset
    dx, _ = torch.ops.hpd.filtered_mask(
        total, record, second, first, down, up,
        (second.shape[0] - 1 + offset[0], second.shape[-1] - 1 + offset[1]),
        (pad[0] - (first.shape[0] - 1), pad[1] - (first.shape[-1] - 1)),
        ctx.raised, ctx.size, *ctx.options, not ctx.flip, False,
    )  # fmt: skip
    return (dx, *nothing)


for _name, _fake, _context, _backward in (
    ("bias_act", _bias_act_shape, _bias_act_context, _bias_act_backward),
    ("bias_act_slope", _bias_act_slope_shape, _bias_act_slope_context, _bias_act_slope_backward),
    ("upfirdn2d", _upfirdn2d_shape, _upfirdn2d_context, _upfirdn2d_backward),
    (
        "filtered_lrelu", _filtered_lrelu_shapes, _filtered_lrelu_context,
        _filtered_lrelu_backward,
    ),
    ("filtered_mask", _filtered_mask_shapes, _filtered_mask_context, _filtered_mask_backward),
):  # fmt: skip
    torch.library.register_fake(f"hpd::{_name}", _fake)
    torch.library.register_autograd(f"hpd::{_name}", _backward, setup_context=_context)
