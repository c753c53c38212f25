"""Naive twins: each formula written out with loops, in float64, from its definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def modulated_convolution_per_image(x, weight, styles, *, demodulate):
    """Scale a copy of the weights for each image, as the StyleGAN2 paper writes it."""
    images = []
    for image, style in zip(x, styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            norm = (scaled.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            scaled = scaled / norm
        images.append(F.conv2d(image[None], scaled, padding=weight.shape[-1] // 2))
    return torch.cat(images)


def upfirdn_loops(x, kernel, *, up, down, padding, gain):
    """Resample one pixel at a time."""
    left, right, top, bottom = padding
    n, c, h, w = x.shape
    k = len(kernel)
    wide = torch.zeros(n, c, h * up + top + bottom, w * up + left + right, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            wide[:, :, i * up + top, j * up + left] = x[:, :, i, j]
    rows, columns = (wide.shape[2] - k) // down + 1, (wide.shape[3] - k) // down + 1
    y = torch.zeros(n, c, rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            for a in range(k):
                for b in range(k):
                    taken = wide[:, :, i * down + k - 1 - a, j * down + k - 1 - b]
                    y[:, :, i, j] += gain * kernel[a, b] * taken
    return y
