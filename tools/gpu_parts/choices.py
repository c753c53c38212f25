"""What was decided without a GPU, timed beside what could have been decided in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from generators.ops import filtered_lrelu, scale_planes, upfirdn2d
from generators.ops.cuda import nvrtc
from generators.ops.cuda.driver import Driver, OnDevice
from generators.ops.cuda.launches import Operations
from generators.ops.cuda.tiles import Room
from generators.ops.native import uses_native
from gpu_parts.bandwidth import seconds
from gpu_parts.kernels import Problem, problems
from gpu_parts.part import Place, Row, guarded, judged
from hpd.machine.device import open_device

# how much slower than the best of what could have been chosen a choice may be
MOST_SLOWER = 1.15
_LAST = torch.channels_last
_LIMITS_KIB = (48, 64, 81, 99, 113, 163, 227)
_LAYERS = (
    "filtered_lrelu, XL, 42 px", "filtered_lrelu, StyleGAN3-T, 86 px",
    "filtered_lrelu, StyleGAN3-T, 148 px", "filtered_lrelu, StyleGAN3-R, 52 px",
)  # fmt: skip
_RESAMPLED = ("upfirdn2d, up 2, 64 px", "upfirdn2d, filter, 64 px")


Look = Callable[[str, Problem, torch.dtype, torch.device], Row]


def _each(place: Place, what: str, names: tuple[str, ...], look: Look) -> Iterator[Row]:
    """Look at layers in two dtypes, where there is something to look at."""
    if place.device != "cuda":
        yield Row(what, "skipped", "decided for GPUs")
        return
    device = open_device(place.device)
    if not uses_native(torch.empty(0, device=device)):
        yield Row(what, "skipped", "no native operations run")
        return
    for name, problem in _chosen(names).items():
        for dtype in (torch.float32, torch.bfloat16):
            row = f"{name}, {str(dtype).removeprefix('torch.')}"
            yield from guarded(row, partial(look, row, problem, dtype, device))


def _chosen(names: tuple[str, ...]) -> dict[str, Problem]:
    return {p.name: p for p in problems(tiny=False) if p.name in names}


def _given(problem: Problem, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, dict]:
    """Return eight images of a layer, and its options, on a device."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, *problem.shape[1:], generator=rng).to(device, dtype)
    options = {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in problem.options.items()
    }
    return x, options


# ---- tiles


def tiles(place: Place) -> Iterator[Row]:
    """Time layers in the tiles that each limit of shared memory gives, and in the chosen ones."""

    def look(what: str, problem: Problem, dtype: torch.dtype, device: torch.device) -> Row:
        start = OnDevice(Driver.of_system(), nvrtc.code_of)
        return compared_tiles(what, problem, dtype, start, device)

    yield from _each(place, "tiles", _LAYERS, look)


def compared_tiles(
    what: str, problem: Problem, dtype: torch.dtype, start: OnDevice, device: torch.device
) -> Row:
    """Return how fast a layer is in the chosen tiles, and in others."""
    x, options = _given(problem, device, dtype)
    card = start.room(x)
    limits = [kib for kib in _LIMITS_KIB if kib * 1024 <= card.shared_bytes]
    found: dict[str, float] = {}
    for kib in limits:
        # a limit of its own, of which a block may take all
        room = Room(kib * 1024, card.processors)
        found[f"{kib} KiB"] = _timed_tiles(Whole(start, room), x, options, device)
    chosen = _timed_tiles(start, x, options, device)
    best = min(found.values())
    said = ", ".join(f"{name} {value * 1e6:.0f}" for name, value in found.items())
    says = f"chosen {chosen * 1e6:.0f} us; up to {said} us"
    return Row(what, judged(chosen <= MOST_SLOWER * best), says, found | {"chosen": chosen})


class Whole:
    """Starts kernels on a card of which a block may take all that it gives.

    Args:
        start: what starts them.
        room: which it has.
    """

    def __init__(self, start: OnDevice, room: Room) -> None:
        self._start = start
        self._room = Room(2 * room.shared_bytes + 1024, room.processors)

    def room(self, like: Tensor) -> Room:
        """Return twice of it, and what CUDA keeps: blocks take the half."""
        return self._room

    def __call__(self, launch: Any, like: Tensor) -> None:
        """Start a kernel."""
        self._start(launch, like)


def _timed_tiles(start: Any, x: Tensor, options: Mapping[str, Any], device: torch.device) -> float:
    operations = Operations(start)
    given = [options[k] for k in ("up_kernel", "down_kernel", "up", "down", "padding")]
    given += [options[k] for k in ("gain", "slope", "clamp")]
    return seconds(lambda: operations.filtered_lrelu(x, None, *given, False), device)


# ---- channels-last


def layouts(place: Place) -> Iterator[Row]:
    """Time operations on channels-last images, and on copies of planes with a copy back."""
    yield from _each(place, "layouts", (*_LAYERS, *_RESAMPLED), compared_layouts)


def compared_layouts(what: str, problem: Problem, dtype: torch.dtype, device: torch.device) -> Row:
    """Return how fast an operation reads channels-last images as they lie, and as copies."""
    x, options = _given(problem, device, dtype)
    own = filtered_lrelu if problem.operation == "filtered_lrelu" else upfirdn2d
    last = x.contiguous(memory_format=_LAST)

    def copied() -> Tensor:
        return own(last.contiguous(), **options).contiguous(memory_format=_LAST)

    ways: dict[str, Callable[[], Tensor]] = {
        "planes": lambda: own(x, **options), "as they lie": lambda: own(last, **options),
        "copied": copied,
    }  # fmt: skip
    with torch.no_grad():
        found = {name: seconds(way, device) for name, way in ways.items()}
    good = found["as they lie"] <= MOST_SLOWER * found["copied"]
    return Row(what, judged(good), _said(found), found)


# ---- scales


def scales(place: Place) -> Iterator[Row]:
    """Time layers with scales inside, and one after another, forward and with a derivative."""
    yield from _each(place, "scales", _LAYERS, compared_scales)


def compared_scales(what: str, problem: Problem, dtype: torch.dtype, device: torch.device) -> Row:
    """Return how fast a layer is with scales inside of it, and one after another."""
    x, options = _given(problem, device, dtype)
    before, after = (torch.ones(x.shape[:2], device=device) for _ in range(2))

    def apart(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        y = filtered_lrelu(scale_planes(x, before), **options)
        return scale_planes(y, after)

    def inside(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return filtered_lrelu(x, before=before, after=after, **options)

    found: dict[str, float] = {}
    for name, way in (("inside", inside), ("apart", apart)):
        with torch.no_grad():
            found[f"{name}, forward"] = seconds(partial(way, x, before, after), device)
        leaves = [t.detach().requires_grad_() for t in (x, before, after)]
        y = way(*leaves)
        derive = partial(torch.autograd.grad, y, leaves, torch.ones_like(y), retain_graph=True)
        found[f"{name}, backward"] = seconds(derive, device)
    good = all(found[f"inside, {p}"] <= found[f"apart, {p}"] for p in ("forward", "backward"))
    return Row(what, judged(good), _said(found), found)


def _said(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value * 1e6:.0f} us" for name, value in found.items())
