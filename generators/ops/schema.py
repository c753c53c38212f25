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

LANES = 16
"""Planes that share a pixel's entry in a record: two bytes for signs, two for the clamp."""

_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}


def fits(x: Tensor, bias: Tensor | None, *filters: Tensor | None) -> bool:
    """Return whether the kernels can take these inputs: x, its bias, and filters.

    They take float32, float16 and bfloat16, on the CPU float64 too. Derivatives with respect to
    filters do not exist natively.
    """
    if x.dtype not in _DTYPES.get(x.device.type, ()):
        return False
    if bias is not None and bias.device != x.device:
        return False
    wanted = torch.is_grad_enabled()
    return all(f is None or not (wanted and f.requires_grad) for f in filters)


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Return whether torch will ask for the derivative with respect to any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


torch.library.define(
    "hpd::filtered_lrelu",
    "(Tensor x, Tensor? bias, Tensor up_kernel, Tensor down_kernel, int up, int down, "
    "SymInt[] padding, float gain, float slope, float? clamp, bool record) -> (Tensor, Tensor)",
)
torch.library.define(
    "hpd::filtered_mask",
    "(Tensor x, Tensor record, Tensor first, Tensor second, int up, int down, SymInt[] pad, "
    "SymInt[] offset, SymInt[] size, float gain, float slope, bool clamped, bool flip, "
    "bool sums) -> (Tensor, Tensor)",
)


def empty_image(x: Tensor, height: int, width: int) -> Tensor:
    """Return what the kernels allocate for [N, C, height, width]: the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    shape = (x.shape[0], x.shape[1], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which the kernels add up values of x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.register_fake("hpd::filtered_lrelu")
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
    planes = x.shape[0] * x.shape[1]
    shape = ((planes + LANES - 1) // LANES, height, width, 4) if record else (0,)
    return y, x.new_empty(shape, dtype=torch.uint8)


@torch.library.register_fake("hpd::filtered_mask")
def _filtered_mask_shapes(
    x: Tensor, record: Tensor, first: Tensor, second: Tensor, up: int, down: int,
    pad: Sequence[int], offset: Sequence[int], size: Sequence[int], gain: float, slope: float,
    clamped: bool, flip: bool, sums: bool,
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
    ctx.pad, ctx.options = (padding[2], padding[0]), (gain * up**2, slope, clamp is not None)


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
        ctx.size, *ctx.options, False, ctx.needs_input_grad[1],
    )  # fmt: skip
    db = sums.sum(dim=0).to(ctx.bias_dtype) if ctx.needs_input_grad[1] else None
    return (dx if ctx.needs_input_grad[0] else None, db, *nothing)


def _filtered_mask_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, record, first, second, up, down, pad, offset, _, gain, slope, clamped, flip, _ = inputs
    ctx.save_for_backward(record, first, second)
    ctx.set_materialize_grads(False)
    ctx.factors, ctx.pad, ctx.offset, ctx.size = (up, down), pad, offset, tuple(x.shape[2:])
    ctx.dtype = x.dtype
    ctx.options, ctx.flip, ctx.result_size = (gain, slope, clamped), flip, output[0].shape


def _filtered_mask_backward(
    ctx: Any, grad: Tensor | None, grad_sums: Tensor | None
) -> tuple[Any, ...]:
    nothing = (None,) * 13
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
        ctx.size, *ctx.options, not ctx.flip, False,
    )  # fmt: skip
    return (dx, *nothing)


torch.library.register_autograd(
    "hpd::filtered_lrelu", _filtered_lrelu_backward, setup_context=_filtered_lrelu_context
)
torch.library.register_autograd(
    "hpd::filtered_mask", _filtered_mask_backward, setup_context=_filtered_mask_context
)
