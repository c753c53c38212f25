"""Native operations against their references: results and gradients, by dtype and shape."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from generators.families.filters import design_lowpass, design_radial_lowpass
from generators.ops import bias_act, filtered_lrelu, lowpass_filter, native, upfirdn2d
from generators.ops.bias_act import bias_act_reference
from generators.ops.cuda import nvrtc
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.status import status as look_at_operations
from generators.ops.toolchain import read_recipe
from generators.ops.upfirdn2d import upfirdn2d_reference
from gpu_parts.part import Place, Row, guarded, judged
from hpd.errors import OpsError
from hpd.machine.device import open_device

# of the largest value of the reference, which computes in float32: as in the tests of the kernels
LAST = torch.channels_last
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Problem:
    """An operation in a shape, [N, C, H, W].

    Args:
        name: of it.
        operation: which.
        shape: of its input.
        options: of it, filters as tensors of the CPU.
        bias: whether it takes one, of which it has the gradient, too.
        scales: whether it takes scales before and after, likewise, beside a bias.
        layout: of its input in memory.
    """

    name: str
    operation: str
    shape: tuple[int, int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = False
    scales: bool = False
    layout: torch.memory_format = torch.contiguous_format

    def both(self, device: torch.device) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return the native operation and its reference, with their options on a device."""
        there = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.options.items()
        }
        own, reference = _OPERATIONS[self.operation]
        if self.scales:
            return (
                lambda x, bias, b, a: own(x, bias=bias, before=b, after=a, **there),
                lambda x, bias, b, a: reference(x, bias=bias, before=b, after=a, **there),
            )
        if self.bias:
            return (
                lambda x, bias: own(x, bias=bias, **there),
                lambda x, bias: reference(x, bias=bias, **there),
            )
        return functools.partial(own, **there), functools.partial(reference, **there)


_OPERATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "filtered_lrelu": (filtered_lrelu, filtered_lrelu_reference),
    "upfirdn2d": (upfirdn2d, upfirdn2d_reference),
    "bias_act": (bias_act, bias_act_reference),
}


def problems(tiny: bool) -> list[Problem]:
    """Return layers of StyleGAN2, StyleGAN3-T and -R and StyleGAN-XL, and odd shapes."""
    share = 16 if tiny else 1
    return [*_alias_free(share), *_stylegan2(share), *_odd()]


def _alias_free(share: int) -> Iterator[Problem]:
    def lowpass(taps: int, rate: float) -> Tensor:
        return design_lowpass(taps, cutoff=rate / 8, width=rate / 8, sampling_rate=rate)

    up_2, up_4, down_2 = lowpass(12, 64), lowpass(24, 128), lowpass(12, 64)
    radial = design_radial_lowpass(12, cutoff=8, width=8, sampling_rate=64)
    layers = (
        ("XL, 42 px", 256, 42, 2, up_2, down_2, (9, 8, 9, 8)),
        ("XL, 26 px to 52", 256, 26, 4, up_4, down_2, (6, 3, 6, 3)),
        ("StyleGAN3-T, 86 px", 128, 86, 2, up_2, down_2, (9, 8, 9, 8)),
        ("StyleGAN3-T, 148 px", 64, 148, 2, up_2, down_2, (9, 8, 9, 8)),
        ("StyleGAN3-R, 52 px", 128, 52, 2, up_2, radial, (9, 8, 9, 8)),
        ("StyleGAN3-R, 26 px to 52", 128, 26, 4, up_4, radial, (6, 3, 6, 3)),
    )
    for name, channels, size, up, before, after, padding in layers:
        options = {
            "up_kernel": before, "down_kernel": after, "up": up, "down": 2, "padding": padding,
            "clamp": 256.0, "gain": math.sqrt(2), "slope": 0.2,
        }  # fmt: skip
        shape = (2, max(channels // share, 2), size, size)
        what = f"filtered_lrelu, {name}"
        yield Problem(what, "filtered_lrelu", shape, options, bias=True)
        for words, layout in (("", torch.contiguous_format), (" and channels-last", LAST)):
            named = f"{what}, with scales{words}"
            yield Problem(named, "filtered_lrelu", shape, options, True, True, layout)
    to_rgb = {"gain": 1.0, "slope": 1.0, "clamp": 256.0}
    yield Problem("filtered_lrelu, to RGB", "filtered_lrelu", (2, 3, 36, 36), to_rgb, bias=True)


def _stylegan2(share: int) -> Iterator[Problem]:
    kernel = lowpass_filter()
    for size, channels in ((16, 512), (64, 256), (256, 32)):
        shape = (2, max(channels // share, 2), size, size)
        for name, options in (
            ("up 2", {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}),
            ("filter", {"padding": (1, 1, 1, 1), "gain": 4.0}),
            ("down 2", {"down": 2, "padding": (1, 1, 1, 1)}),
        ):
            what = f"upfirdn2d, {name}, {size} px"
            yield Problem(what, "upfirdn2d", shape, {"kernel": kernel, **options})
        clamped = {"activation": "lrelu", "gain": math.sqrt(2), "clamp": 256.0}
        yield Problem(f"bias_act, {size} px", "bias_act", shape, clamped, bias=True)


def _odd() -> Iterator[Problem]:
    rng = torch.Generator().manual_seed(1)
    taps = torch.randn(3, 5, generator=rng) / 4
    options = {
        "up_kernel": taps, "down_kernel": torch.ones(2) / 2, "up": 1, "down": 3, "clamp": 0.9,
        "padding": (2, 1, 3, -1), "gain": 1.4, "slope": 0.2,
    }  # fmt: skip
    odd = (2, 5, 42, 37)
    yield Problem("filtered_lrelu, odd", "filtered_lrelu", odd, options, bias=True)
    negative = options | {"gain": -1.0, "slope": -0.5}
    yield Problem("filtered_lrelu, negative", "filtered_lrelu", odd, negative, True, layout=LAST)
    resampling = {"kernel": taps, "up": 3, "down": 2, "padding": (6, 7, 8, 5)}
    yield Problem("upfirdn2d, odd", "upfirdn2d", (3, 7, 70, 33), resampling, layout=LAST)
    activation = {"activation": "lrelu", "clamp": 0.7, "gain": 0.5}
    yield Problem("bias_act, odd", "bias_act", (3, 7, 70, 33), activation, True, layout=LAST)


def deviations(problem: Problem, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Return the largest deviation of each result, as a share of the reference's largest value.

    The reference computes in float32 on the same values. Where scales are rounded in between, a
    value near 0 may get the other slope: then norms are compared, not the one value that is most
    off.
    """
    rng = torch.Generator().manual_seed(0)
    drawn = [torch.randn(problem.shape, generator=rng)]
    drawn += [torch.randn(problem.shape[1], generator=rng)] if problem.bias else []
    drawn += [torch.randn(problem.shape[:2], generator=rng) for _ in range(2 * problem.scales)]
    given = [t.to(device, dtype) for t in drawn]
    given[0] = given[0].contiguous(memory_format=problem.layout)
    leaves = [t.clone().requires_grad_() for t in given]
    twins = [t.float().requires_grad_() for t in given]
    own, reference = problem.both(device)
    got, want = own(*leaves), reference(*twins)
    probe = torch.randn(want.shape, generator=rng).to(device, dtype)
    found = (got.detach(), *torch.autograd.grad(got, leaves, probe))
    wanted = (want.detach(), *torch.autograd.grad(want, twins, probe.float()))
    names = ("forward", "backward", "bias", "before", "after")
    order = 2 if problem.scales else math.inf
    norm = functools.partial(torch.linalg.vector_norm, ord=order)
    return {
        name: float(norm(a.float() - b) / norm(b))
        for name, a, b in zip(names, found, wanted, strict=False)
    }


def compared(place: Place, by: str) -> Iterator[Row]:
    """Compare every problem in every dtype, a row each."""
    device = open_device(place.device)
    for problem in problems(place.tiny):
        for dtype, tolerance in TOLERANCE.items():
            # scales are two more products, each rounded where they come one after another
            most = tolerance * (2 if problem.scales else 1)
            what = f"{problem.name}, {str(dtype).removeprefix('torch.')}"

            def look(problem=problem, dtype=dtype, most=most, what=what) -> Row:
                found = deviations(problem, dtype, device)
                says = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
                # NaN is no number that is small enough
                good = all(value <= most for value in found.values())
                return Row(what, judged(good), f"{says}, at most {most:.0e}", found | {"by": by})

            yield from guarded(what, look)


def of_library(place: Place) -> Iterator[Row]:
    """Compare the kernels of the library that a compiler built."""
    os.environ[native.VARIABLE] = "native"
    device_type = "cuda" if place.device == "cuda" else "cpu"
    try:
        version = read_recipe(device_type).version
    except OpsError as error:
        yield Row("library", "skipped", str(error))
        return
    native.uses_native(torch.empty(0, device=place.device))
    status = next(s for s in look_at_operations() if s.device_type == device_type)
    if status.library is None:
        yield Row("library", "bad", f"not used: {status.reason}")
        return
    yield from compared(place, version)


def of_nvrtc(place: Place) -> Iterator[Row]:
    """Compare the kernels that NVRTC compiles, as on a machine without nvcc."""
    os.environ[native.VARIABLE] = "native"
    compiler = nvrtc.available()
    if place.device != "cuda" or compiler is None:
        reason = "no NVRTC" if compiler is None else "they run on a GPU only"
        yield Row("NVRTC", "skipped", reason)
        return
    with tempfile.TemporaryDirectory() as nothing:
        # where nvcc is looked for, and not found
        os.environ["CUDA_HOME"] = nothing
        native.uses_native(torch.empty(0, device=place.device))
        status = next(s for s in look_at_operations() if s.device_type == "cuda")
        if status.library is not None:
            yield Row("NVRTC", "bad", f"a library is used in its place: {status.library}")
            return
        yield from compared(place, compiler)
