"""Convolutions whose weights each image scales by its styles, as StyleGAN2 has them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from generators.families.layers import up_convolve


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up_kernel: Tensor | None = None,
) -> Tensor:
    """Convolve [N, I, H, W] with weights that each image scales by its own styles.

    Scaling the activations before and after the one shared convolution gives what a copy of the
    weights per image gives, without the copies:
    ``y[n, o] = d[n, o] * sum_i w[o, i] * (s[n, i] x[n, i])`` with
    ``d[n, o] = (sum_i s[n, i]^2 sum_kk w[o, i]^2 + 1e-8)^(-1/2)``.

    Args:
        x: [N, I, H, W]; its dtype is that of the convolution and the result.
        weight: [O, I, k, k].
        styles: [N, I].
        demodulate: whether to divide by the norm of the scaled weights.
        up_kernel: low-pass filter of an upsampling layer, or None to keep the size.

    Source: Karras et al., 2020, equations 1 and 3.
    """
    energies = energies_of(weight) if demodulate else None
    return convolve_scaled(x, weight.to(x.dtype), styles, energies, up_kernel)


def energies_of(weight: Tensor) -> Tensor:
    """Return ``sum_kk w[o, i]^2`` of a weight [O, I, k, k], as [I, O]."""
    return weight.square().sum(dim=(2, 3)).t()


def convolve_scaled(
    x: Tensor, weight: Tensor, styles: Tensor, energies: Tensor | None, up_kernel: Tensor | None
) -> Tensor:
    """Return `modulated_convolution` with a weight in the dtype of x.

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k].
        styles: [N, I].
        energies: from `energies_of`; None: without demodulation.
        up_kernel: as there.
    """
    x = x * styles.to(x.dtype).unflatten(1, (-1, 1, 1))
    if up_kernel is None:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    else:
        x = up_convolve(x, weight, up_kernel)
    if energies is not None:
        energy = styles.square() @ energies
        x = x * (energy + 1e-8).rsqrt().to(x.dtype).unflatten(1, (-1, 1, 1))
    return x
