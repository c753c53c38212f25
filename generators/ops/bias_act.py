"""Bias, activation, gain and clamp in one call."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.ops import schema
from generators.ops.native import uses_native

Activation = Literal["linear", "lrelu"]
_ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2)}
_LEAK = 0.2


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias, apply an activation that preserves variance, scale and clamp.

    ``y = clamp(gain * g * act(x + bias))`` with ``g = sqrt(2)`` for leaky ReLU of slope 0.2 and
    1 for linear, clamped to ``[-clamp, clamp]`` (after the gain).

    Args:
        x: [N, C, ...], any floating dtype.
        bias: [C], or None for no bias.
        activation: ``"linear"`` or ``"lrelu"``.
        gain: factor on top of the activation's own.
        clamp: largest magnitude of the result, or None for no limit.

    Native, in one pass, on the devices and for the dtypes of `schema.fits`; differentiable to any
    order. The derivative keeps the result where that tells the signs, else x. Elsewhere
    `bias_act_reference` runs, and where there is nothing to fuse.

    Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020.
    """
    fused = (activation == "lrelu" or clamp is not None) and schema.fits(x, bias)
    if not (fused and uses_native(x)):
        return bias_act_reference(x, bias, activation=activation, gain=gain, clamp=clamp)
    slope = _LEAK if activation == "lrelu" else 1.0
    return torch.ops.hpd.bias_act(x, bias, gain * _ACTIVATION_GAIN[activation], slope, clamp)


def bias_act_reference(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """Do what `bias_act` does, in plain torch, for any device, dtype and derivative."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, _LEAK)
    scale = gain * _ACTIVATION_GAIN[activation]
    if scale != 1:
        x = x * scale
    return x if clamp is None else x.clamp(-clamp, clamp)
