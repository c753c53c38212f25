"""Leaky ReLU at a raised sampling rate, between two low-pass filters."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.ops import scaled, schema
from generators.ops.native import uses_native
from generators.ops.scaled import scale_planes
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import ShapeError


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    up_kernel: Tensor | None = None,
    down_kernel: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias, upsample, apply leaky ReLU, scale, clamp, and downsample.

    A pointwise non-linearity makes frequencies above the sampling limit, which then alias. At
    `up` times the rate they fit, and the second filter removes them before the rate drops:

    ``u = up^2 * (up_kernel * stuff_zeros(before x + bias))``, padded before the convolution,
    ``v = clamp(gain * lrelu(u))``, and ``y = after (down_kernel * v)`` at every `down`-th value.

    Args:
        x: [N, C, H, W], any floating dtype.
        bias: [C], or None for no bias.
        before: a scale for each plane of x, [N, C], rounded to the dtype of x; None for none.
        after: a scale for each plane of the result, [N, C], likewise.
        up_kernel: [k] (separable) or [k, k]; None for no filter.
        down_kernel: [k] (separable) or [k, k]; None for no filter.
        up: each value is followed by ``up - 1`` zeros, in both directions.
        down: stride of the result.
        padding: left, right, top, bottom, in pixels after upsampling; negative values crop.
        gain: factor after the activation; sqrt(2) keeps the variance of the plain activation.
        slope: factor of negative values; 1 makes the activation linear.
        clamp: largest magnitude after the gain, or None for no limit.

    Returns:
        [N, C, H', W'] with ``H' = (H * up + top + bottom - (ku - 1) - (kd - 1) + down - 1) //
        down``, the width likewise.

    Raises:
        ShapeError: if x is no [N, C, H, W] that is larger than the filters (natively), or if a
            scale is not [N, C].

    Native on the devices and for the dtypes of `schema.fits`, in one pass that never stores the
    image at the raised rate; derivatives of any order keep two bits per value of it, and x where
    scales need a gradient. On CUDA the scales belong to that pass, on a CPU they are multiplied
    with before it and behind it. Elsewhere, and where a filter needs a gradient,
    `filtered_lrelu_reference` runs.

    Source: Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021, section 3.2
    (filtered nonlinearities).
    """
    options: dict[str, Any] = {
        "up_kernel": up_kernel, "down_kernel": down_kernel, "up": up, "down": down,
        "padding": padding, "gain": gain, "slope": slope, "clamp": clamp,
    }  # fmt: skip
    if before is None is after:
        if schema.fits(x, bias, up_kernel, down_kernel) and uses_native(x):
            return _native(x, bias, **options)
        return filtered_lrelu_reference(x, bias, **options)
    _check_scales(x, before, after)
    fits = schema.fits(x, bias, up_kernel, down_kernel, scales=(before, after))
    if not (fits and uses_native(x)):
        return filtered_lrelu_reference(x, bias, before=before, after=after, **options)
    if x.device.type in scaled.DEVICE_TYPES and gain > 0 and slope >= 0:
        return _native(x, bias, scales=(before, after), **options)
    y = _native(scale_planes(x, before), bias, **options)
    return scale_planes(y, after)


def _native(
    x: Tensor, bias: Tensor | None, *, up_kernel: Tensor | None, down_kernel: Tensor | None,
    up: int, down: int, padding: tuple[int, int, int, int], gain: float, slope: float,
    clamp: float | None, scales: tuple[Tensor | None, Tensor | None] | None = None,
) -> Tensor:  # fmt: skip
    first = torch.ones(1, device=x.device) if up_kernel is None else up_kernel
    second = torch.ones(1, device=x.device) if down_kernel is None else down_kernel
    schema.check_factors("filtered_lrelu", up, down)
    schema.check_size(x, _room(x, first, second, up, padding), "filtered_lrelu")
    given = (first, second, up, down, padding, gain, slope, clamp)
    if scales is None:
        recorded = schema.needs_gradient(x, bias)
        return torch.ops.hpd.filtered_lrelu(x, bias, *given, recorded)[0]
    recorded = schema.needs_gradient(x, bias, *scales)
    return torch.ops.hpd.filtered_scaled(x, bias, *scales, *given, recorded)[0]


def _check_scales(x: Tensor, *scales: Tensor | None) -> None:
    for scale in scales:
        if scale is not None and scale.shape != x.shape[:2]:
            raise ShapeError(
                "scales do not fit the planes of an image",
                got=list(scale.shape), expected=list(x.shape[:2]),
            )  # fmt: skip


def _room(
    x: Tensor, first: Tensor, second: Tensor, up: int, padding: tuple[int, int, int, int]
) -> tuple[int, int]:
    """Return height and width of the result before it is downsampled."""
    left, right, top, bottom = padding
    return (
        x.shape[-2] * up + top + bottom - first.shape[0] - second.shape[0] + 2,
        x.shape[-1] * up + left + right - first.shape[-1] - second.shape[-1] + 2,
    )


def filtered_lrelu_reference(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    up_kernel: Tensor | None = None,
    down_kernel: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """Do what `filtered_lrelu` does, in plain torch, for any device, dtype and derivative."""
    _check_scales(x, before, after)
    x = scale_planes(x, before)
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    if up_kernel is not None or up != 1 or any(padding):
        kernel = x.new_ones(1) if up_kernel is None else up_kernel
        x = upfirdn2d_reference(x, kernel, up=up, padding=padding, gain=up**2)
    if slope != 1:
        x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    if down_kernel is None:
        return scale_planes(x if down == 1 else x[:, :, ::down, ::down], after)
    return scale_planes(upfirdn2d_reference(x, down_kernel, down=down), after)
