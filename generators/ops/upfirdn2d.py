"""Upsample by zeros, pad, filter, downsample: the resampling of StyleGAN networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
        kernel: [k, k], applied as a true convolution (flipped against torch's correlation).
        up: each value is followed by ``up - 1`` zeros, in both directions.
        down: stride of the result.
        padding: left, right, top, bottom, in pixels after upsampling; negative values crop.
        gain: factor on the result.

    Source: Karras et al., 2020; the algorithm is that of scipy.signal.upfirdn, in two dimensions.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(n, c, h * up, w * up)
    if any(padding):
        x = F.pad(x, tuple(padding))
    weight = (kernel.flip(0, 1) * gain).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, weight, stride=down, groups=c)


def upsample2d(x: Tensor, kernel: Tensor, factor: int = 2) -> Tensor:
    """Upsample [N, C, H, W] by `factor`, keeping the mean and the centre of the image."""
    k = kernel.shape[-1]
    before, after = (k + factor - 1) // 2, (k - factor) // 2
    padding = (before, after, before, after)
    return upfirdn2d(x, kernel, up=factor, padding=padding, gain=factor**2)
