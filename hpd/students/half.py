"""Students in bfloat16: instance norm that a CPU is quick at, and where all of it pays."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpd.machine.host import computes_on_host
from hpd.machine.precision import Precision, resolve_precision
from hpd.students.base import ImageShape, Student
from hpd.students.footprint import Footprint
from hpd.students.networks.convolutional import Convolutional
from hpd.students.networks.norms import is_instance_norm

_Module = TypeVar("_Module", bound=nn.Module)

# Measured on a CPU with AVX512-BF16: the values of all layers of one image from which on bfloat16
# takes less time than float32 (tools/bench_students.py). Of images that need a gradient each class
# has few; a ViT with frozen weights copies them for each of its tokens there, which takes longer.
_REAL_VALUES, _TRACED_VALUES = 100_000, 400_000
# What is rounded to eight bits is rounded again and again by one instance norm after another, and
# among few positions one of them counts much. Up to here derivatives were measured to point the
# same way in bfloat16, with a cosine of 0.99 or more; ResNet-18 (20 norms) and VGG-11 (of 2x2
# positions) have some of less than 0.9.
_MOST_NORMS, _LEAST_POSITIONS = 6, 16


def student_dtype(
    precision: Precision, student: Student, image_shape: ImageShape, device: torch.device,
    *, traced: bool = False,
) -> torch.dtype:  # fmt: skip
    """Return what a student computes in on a device.

    ``auto`` is bfloat16 where the device has units for it, where that was measured to be faster,
    and where derivatives in it point the same way.

    Args:
        precision: what is asked for.
        student: on the meta device, in eval mode.
        image_shape: (C, H, W).
        device: where it computes.
        traced: whether images need a gradient.
    """
    dtype = resolve_precision(precision, device)
    if precision != "auto" or dtype == torch.float32:
        return dtype
    slower = computes_on_host(device) and not _faster(student, image_shape, traced)
    return torch.float32 if slower or not _steady(student, image_shape) else dtype


def _faster(student: Student, image_shape: ImageShape, traced: bool) -> bool:
    """Return whether a CPU with units for bfloat16 takes less time in it."""
    if traced and not isinstance(student, Convolutional):
        return False
    least = _TRACED_VALUES if traced else _REAL_VALUES
    return Footprint.of(student, image_shape).values >= least


def _steady(student: Student, image_shape: ImageShape) -> bool:
    """Return whether derivatives stay what they are when all is rounded to bfloat16."""
    positions: list[int] = []
    handles = [
        layer.register_forward_hook(lambda norm, x, maps: positions.append(maps[0, 0].numel()))
        for layer in student.modules()
        if is_instance_norm(layer)
    ]
    try:
        with torch.no_grad():
            student(torch.empty(1, *image_shape, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    few = min(positions, default=_LEAST_POSITIONS) < _LEAST_POSITIONS
    return not few and len(positions) <= _MOST_NORMS


def with_half_norms(module: _Module) -> _Module:
    """Put a `HalfNorm` in the place of each instance norm, and return the module.

    The names of its parameters stay.
    """
    for name, layer in module.named_children():
        if is_instance_norm(layer):
            assert isinstance(layer, nn.GroupNorm)
            setattr(module, name, HalfNorm(layer))
        else:
            with_half_norms(layer)
    return module


class HalfNorm(nn.Module):
    """Instance norm of maps that lie channels last, with sums in float32; to first order.

    Convolutions in bfloat16 want them so, and torch's own norm of them takes three quarters of a
    ConvNet's time. Batch norm of a single image is the same thing, and does not. Accelerators, and
    float64, take torch's own.

    Args:
        norm: whose parameters and epsilon these are.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, maps: Tensor) -> Tensor:
        """Return normalised maps [N, C, H, W]."""
        if not computes_on_host(maps.device) or maps.dtype == torch.float64:
            return F.group_norm(maps, maps.shape[1], self.weight, self.bias, self.eps)
        normalised: Tensor = _ImageByImage.apply(
            maps, self.weight.float(), self.bias.float(), self.eps
        )
        return normalised


class _ImageByImage(torch.autograd.Function):
    """Batch norm of each of some maps [N, C, H, W], with scale and shift [C] in float32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        maps = maps.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(maps)
        means, inverses = scale.new_empty(2, *maps.shape[:2]).unbind()
        rows = zip(maps.split(1), out.split(1), means.unbind(), inverses.unbind(), strict=True)
        for image, own, mean, inverse in rows:
            torch.ops.aten.native_batch_norm.out(
                image, scale, shift, None, None, True, 0.0, eps,
                out=own, save_mean=mean, save_invstd=inverse,
            )  # fmt: skip
        ctx.save_for_backward(maps, scale, means, inverses)
        ctx.eps = eps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, scale, means, inverses = ctx.saved_tensors
        out = torch.empty_like(maps)
        by_scale, by_shift = torch.zeros_like(scale), torch.zeros_like(scale)
        grad = grad.contiguous(memory_format=torch.channels_last)
        rows = zip(
            grad.split(1), maps.split(1), out.split(1), means.unbind(), inverses.unbind(),
            strict=True,
        )  # fmt: skip
        for theirs, image, own, mean, inverse in rows:
            by_image, by_its_scale, by_its_shift = torch.ops.aten.native_batch_norm_backward(
                theirs, image, scale, None, None, mean, inverse, True, ctx.eps, [True, True, True]
            )
            own.copy_(by_image)
            by_scale += by_its_scale
            by_shift += by_its_shift
        return out, by_scale, by_shift, None
