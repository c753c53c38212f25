"""Upsample by zeros, pad, filter, downsample: the resampling of StyleGAN networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.ops import schema
from generators.ops.native import uses_native


def lowpass_filter(taps: Sequence[float] = (1, 3, 3, 1)) -> Tensor:
    """Return the separable filter with these taps as a [k, k] kernel of sum 1, float32."""
    row = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(row, row)
    return kernel / kernel.sum()


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros, pad, convolve every channel with one kernel, and keep every `down`-th value.

    The height becomes ``(H * up + top + bottom - k + down) // down``, the width likewise.

    Args:
        x: [N, C, H, W].
        kernel: [k, k], applied as a true convolution (flipped against torch's correlation), or
            [k] for the outer product of these taps with themselves, at 2k instead of k^2
            products a pixel.
        up: each value is followed by ``up - 1`` zeros, in both directions.
        down: stride of the result.
        padding: left, right, top, bottom, in pixels after upsampling; negative values crop.
        gain: factor on the result.

    Raises:
        ShapeError: if x is no [N, C, H, W] that is larger than the kernel (natively).

    Native on the devices and for the dtypes of `schema.fits`, without products with inserted
    zeros, and separably where the kernel is a product of two vectors; differentiable to any
    order. Elsewhere, and where the kernel needs a gradient, `upfirdn2d_reference` runs.

    Source: Karras et al., 2020; the algorithm is that of scipy.signal.upfirdn, in two dimensions.
    """
    if not (schema.fits(x, None, kernel) and uses_native(x)):
        return upfirdn2d_reference(x, kernel, up=up, down=down, padding=padding, gain=gain)
    schema.check_factors("upfirdn2d", up, down)
    left, right, top, bottom = padding
    size = (
        (x.shape[-2] * up + top + bottom - kernel.shape[0] + down) // down,
        (x.shape[-1] * up + left + right - kernel.shape[-1] + down) // down,
    )
    schema.check_size(x, size, "upfirdn2d")
    return torch.ops.hpd.upfirdn2d(x, kernel, up, down, (top, left), size, gain, True)


def upfirdn2d_reference(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Do what `upfirdn2d` does, in plain torch, for any device, dtype and derivative."""
    if kernel.ndim == 1:
        left, right, top, bottom = padding
        x = _resample(x, kernel * gain, 2, up, down, (top, bottom))
        return _resample(x, kernel, 3, up, down, (left, right))
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(n, c, h * up, w * up)
    if any(padding):
        x = F.pad(x, tuple(padding))
    weight = (kernel.flip(0, 1) * gain).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, weight, stride=down, groups=c)


def _resample(
    x: Tensor, taps: Tensor, dim: int, up: int, down: int, padding: tuple[int, int]
) -> Tensor:
    """Do along one dimension of [N, C, H, W] what `upfirdn2d` does along both."""
    before, after = padding
    channels, k = x.shape[1], len(taps)
    shape = (-1, 1) if dim == 2 else (1, -1)
    if up == 1:
        weight = taps.flip(0).to(x.dtype).reshape(1, 1, *shape).expand(channels, 1, -1, -1)
        x = _pad(x, dim, before, after)
        return F.conv2d(x, weight, stride=_along(dim, down), groups=channels)
    # a transposed convolution skips the products with the inserted zeros; it gives the full
    # convolution, which runs k - 1 values past either end
    weight = taps.to(x.dtype).reshape(1, 1, *shape).expand(channels, 1, -1, -1)
    x = F.conv_transpose2d(x, weight, stride=_along(dim, up), groups=channels)
    x = _pad(x, dim, before - (k - 1), after + up - k)
    return x if down == 1 else x[(slice(None),) * dim + (slice(None, None, down),)]


def _along(dim: int, value: int) -> tuple[int, int]:
    """Return a stride of `value` along the height (2) or width (3), and 1 along the other."""
    return (value, 1) if dim == 2 else (1, value)


def _pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Add zeros, or crop where negative, at both ends of one dimension."""
    if before == 0 == after:
        return x
    return F.pad(x, (0, 0, before, after) if dim == 2 else (before, after))


def upsample2d(x: Tensor, kernel: Tensor, factor: int = 2) -> Tensor:
    """Upsample [N, C, H, W] by `factor`, keeping the mean and the centre of the image."""
    k = kernel.shape[-1]
    before, after = (k + factor - 1) // 2, (k - factor) // 2
    padding = (before, after, before, after)
    return upfirdn2d(x, kernel, up=factor, padding=padding, gain=factor**2)
