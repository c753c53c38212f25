"""Operations of StyleGAN networks in plain torch, differentiable to any order."""

from generators.ops.bias_act import bias_act
from generators.ops.filtered_lrelu import filtered_lrelu
from generators.ops.scaled import scale_planes
from generators.ops.upfirdn2d import lowpass_filter, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "filtered_lrelu",
    "lowpass_filter",
    "scale_planes",
    "upfirdn2d",
    "upsample2d",
]
