"""The normalisation that a convolutional student has after each convolution."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["instance", "batch", "group", "layer", "none"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return a normalisation layer with learnt scale and shift."""
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"instance": channels, "layer": 1, "group": 4 if channels % 4 == 0 else 1}
    return nn.GroupNorm(groups[norm], channels)


def is_instance_norm(layer: nn.Module) -> bool:
    """Return whether a layer normalises each map of each image by itself."""
    return isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels
