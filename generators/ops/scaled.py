"""Filtered leaky ReLU with a scale for each plane before it and one behind it, as torch sees it.

A style scales what a layer convolves, and demodulation what came of it: between two convolutions of
an alias-free generator stand a scale, filtered leaky ReLU and a scale again. Where they are one
operation, planes are read and written once. It exists on CUDA; elsewhere the three come one after
another. Its derivative is one pass, too, which tells sums over each plane; where that derivative is
to be derived again, it is made of operations of `schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from generators.ops.schema import empty_image, record_like, sum_dtype

DEVICE_TYPES = {"cuda"}
"""Where it is one operation."""

_OPTIONS = (
    "Tensor up_kernel, Tensor down_kernel, int up, int down, SymInt[] padding, float gain, "
    "float slope, float? clamp"
)
torch.library.define(
    "hpd::filtered_scaled",
    f"(Tensor x, Tensor? bias, Tensor? before, Tensor? after, {_OPTIONS}, bool record) "
    "-> (Tensor, Tensor)",
)
torch.library.define(
    "hpd::filtered_scaled_grad",
    "(Tensor grad, Tensor record, Tensor? x, SymInt[] size, Tensor? bias, Tensor? before, "
    "Tensor? after, "
    f"{_OPTIONS}) -> (Tensor, Tensor)",
)


def scale_planes(x: Tensor, scales: Tensor | None) -> Tensor:
    """Return x [N, C, H, W] times scales [N, C], rounded to its dtype; x itself for None."""
    return x if scales is None else x * scales.to(x.dtype).unflatten(1, (-1, 1, 1))


def _shapes(
    x: Tensor, bias: Tensor | None, before: Tensor | None, after: Tensor | None,
    up_kernel: Tensor, down_kernel: Tensor, up: int, down: int, padding: Sequence[int],
    gain: float, slope: float, clamp: float | None, record: bool,
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


def _grad_shapes(
    grad: Tensor, record: Tensor, x: Tensor | None, size: Sequence[int], bias: Tensor | None,
    before: Tensor | None, after: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    totals = grad.new_empty((3, grad.shape[0], grad.shape[1]), dtype=sum_dtype(grad))
    return empty_image(grad, size[0], size[1]), totals


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, bias, before, after, up_kernel, down_kernel = inputs[:6]
    # the derivative by a scale is a sum over what it scales
    kept = x if any(ctx.needs_input_grad[2:4]) else None
    ctx.save_for_backward(output[1], kept, bias, before, after, up_kernel, down_kernel)
    ctx.size, ctx.options = tuple(x.shape[2:]), inputs[6:12]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Any, ...]:
    nothing = (None,) * 9
    if grad is None:
        return (None, None, None, None, *nothing)
    derive = _backward_again if torch.is_grad_enabled() else _backward_once
    found = derive(ctx, grad)
    wanted = zip(found, ctx.needs_input_grad, strict=False)
    return (*(value if needed else None for value, needed in wanted), *nothing)


def _backward_once(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Return derivatives by x, bias, before and after, which cannot be derived again."""
    record, x, bias, before, after, *kernels = ctx.saved_tensors
    dx, totals = torch.ops.hpd.filtered_scaled_grad(
        grad, record, x, ctx.size, bias, before, after, *kernels, *ctx.options
    )
    return (
        dx,
        None if bias is None else totals[0].sum(dim=0).to(bias.dtype),
        None if before is None else totals[1].to(before.dtype),
        None if after is None else totals[2].to(after.dtype),
    )


def _backward_again(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Return the same, made of operations that have derivatives."""
    record, x, bias, before, after, up_kernel, down_kernel = ctx.saved_tensors
    up, down, (left, right, top, bottom), gain, slope, clamp = ctx.options
    raised = (
        ctx.size[0] * up + top + bottom - (up_kernel.shape[0] - 1),
        ctx.size[1] * up + left + right - (up_kernel.shape[-1] - 1),
    )
    inner, sums = torch.ops.hpd.filtered_mask(
        scale_planes(grad, after), record, down_kernel, up_kernel, down, up,
        (down_kernel.shape[0] - 1, down_kernel.shape[-1] - 1),
        (top - (up_kernel.shape[0] - 1), left - (up_kernel.shape[-1] - 1)),
        raised, ctx.size, gain * up**2, slope, clamp is not None, False,
        ctx.needs_input_grad[1],
    )  # fmt: skip
    by_bias = sums.sum(dim=0).to(bias.dtype) if ctx.needs_input_grad[1] else None
    by_before = by_after = None
    if ctx.needs_input_grad[2]:
        by_before = _against(inner, x).to(before.dtype)
    if ctx.needs_input_grad[3]:
        y, _ = torch.ops.hpd.filtered_lrelu(
            scale_planes(x, before), bias, up_kernel, down_kernel, *ctx.options, True
        )
        by_after = _against(grad, y).to(after.dtype)
    return scale_planes(inner, before), by_bias, by_before, by_after


def _against(grad: Tensor, x: Tensor) -> Tensor:
    """Return the sum over each plane of a product: [N, C]."""
    return (grad * x).sum(dim=(2, 3), dtype=sum_dtype(x))


torch.library.register_fake("hpd::filtered_scaled", _shapes)
torch.library.register_fake("hpd::filtered_scaled_grad", _grad_shapes)
torch.library.register_autograd("hpd::filtered_scaled", _backward, setup_context=_context)
