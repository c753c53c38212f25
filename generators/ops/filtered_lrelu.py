"""Leaky ReLU at a raised sampling rate, between two low-pass filters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.ops import schema
from generators.ops.native import uses_native
from generators.ops.upfirdn2d import upfirdn2d_reference


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
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

    ``u = up^2 * (up_kernel * stuff_zeros(x + bias))``, padded before the convolution,
    ``v = clamp(gain * lrelu(u))``, and ``y = (down_kernel * v)`` at every `down`-th value.

    Args:
        x: [N, C, H, W], any floating dtype.
        bias: [C], or None for no bias.
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
        ShapeError: if x is no [N, C, H, W] that is larger than the filters (natively).

    Native on the devices and for the dtypes of `schema.fits`, in one pass that never stores the
    image at the raised rate; derivatives of any order keep two bits per value of it. Elsewhere,
    and where a filter needs a gradient, `filtered_lrelu_reference` runs.

    Source: Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021, section 3.2
    (filtered nonlinearities).
    """
    if not (schema.fits(x, bias, up_kernel, down_kernel) and uses_native(x)):
        return filtered_lrelu_reference(
            x, bias, up_kernel=up_kernel, down_kernel=down_kernel, up=up, down=down,
            padding=padding, gain=gain, slope=slope, clamp=clamp,
        )  # fmt: skip
    first = torch.ones(1, device=x.device) if up_kernel is None else up_kernel
    second = torch.ones(1, device=x.device) if down_kernel is None else down_kernel
    schema.check_factors("filtered_lrelu", up, down)
    schema.check_size(x, _room(x, first, second, up, padding), "filtered_lrelu")
    recorded = schema.needs_gradient(x, bias)
    return torch.ops.hpd.filtered_lrelu(
        x, bias, first, second, up, down, padding, gain, slope, clamp, recorded
    )[0]


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
        return x if down == 1 else x[:, :, ::down, ::down]
    return upfirdn2d_reference(x, down_kernel, down=down)
