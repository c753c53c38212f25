"""What native operations move a second, as a share of what a copy moves on the same device."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bench_ops import Case, cases, copy_speed
from stopwatch import Stopwatch

from generators.ops.native import uses_native
from gpu_parts.part import Place, Row, guarded, judged
from hpd.machine.device import open_device

# a share below says that an operation waits for something else than memory; filters compute
LEAST = {"bias_act": 0.6, "upfirdn2d": 0.3, "filtered_lrelu": 0.1}
CHOSEN = (
    ("filtered_lrelu up 2 down 2", 86), ("filtered_lrelu up 2 down 2", 42),
    ("filtered_lrelu up 4 down 2", 26), ("filtered_lrelu matrix down 2", 52),
    ("upfirdn2d up 2", 64), ("upfirdn2d filter", 64), ("upfirdn2d down 2", 64),
    ("bias_act lrelu clamp", 64), ("bias_act lrelu", 256),
)  # fmt: skip
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def bandwidth(place: Place) -> Iterator[Row]:
    """Time each operation on as many bytes as leave the caches, forward and backward."""
    device = open_device(place.device)
    if not uses_native(torch.empty(0, device=device)):
        yield Row("operations", "skipped", "no native ones run")
        return
    target = 2**20 if place.tiny else 2**28
    speed = copy_speed(target, place.device)
    yield Row("copy", "told", f"{speed / 1e9:,.0f} GB/s", {"bytes_per_s": speed})
    known = {(case.name, case.shape[2]): case for case in cases(1, place.device)}
    for key in CHOSEN:
        for dtype in DTYPES[:1] if place.tiny else DTYPES:
            case, name = known[key], str(dtype).removeprefix("torch.")
            what = f"{case.name}, {key[1]} px, {name}"
            look = partial(_measured, case, dtype, device, target, speed, what)
            yield from guarded(what, look)


def _measured(
    case: Case, dtype: torch.dtype, device: torch.device, target: int, speed: float, what: str
) -> Row:
    found = moved(case, dtype, device, target)
    shares = {name: found[f"{name}_bytes_per_s"] / speed for name in ("forward", "backward")}
    least = LEAST[case.name.split()[0]]
    verdict = judged(min(shares.values()) >= least) if device.type == "cuda" else "told"
    says = ", ".join(
        f"{name} {found[f'{name}_bytes_per_s'] / 1e9:,.0f} GB/s ({share:.2f} of a copy)"
        for name, share in shares.items()
    )
    return Row(what, verdict, says, found | {f"{n}_share": s for n, s in shares.items()})


def moved(case: Case, dtype: torch.dtype, device: torch.device, target: int) -> dict[str, Any]:
    """Return bytes per second, inputs and results counted once, on `target` bytes of input."""
    size = torch.empty((), dtype=dtype).element_size()
    images = max(1, round(target / (math.prod(case.shape[1:]) * size)))
    x = torch.zeros((images, *case.shape[1:]), dtype=dtype, device=device)
    x.normal_(generator=torch.Generator(device).manual_seed(0)).requires_grad_()
    y = case.native(x)
    grad = torch.ones_like(y)
    with torch.no_grad():
        forward = seconds(lambda: case.native(x), device)
    backward = seconds(lambda: torch.autograd.grad(y, x, grad, retain_graph=True), device)
    there = back = (x.numel() + y.numel()) * size
    if case.name.startswith("bias_act"):
        # its derivative reads the input once more
        back += x.numel() * size
    return {
        "images": images, "bytes": there, "forward_s": forward, "backward_s": backward,
        "forward_bytes_per_s": there / forward, "backward_bytes_per_s": back / backward,
    }  # fmt: skip


def seconds(call: Callable[[], Any], device: torch.device, calls: int = 5) -> float:
    """Return the seconds of a call, of which several are under way at a time."""
    call()
    taken = []
    for _ in range(5):
        watch = Stopwatch(device)
        for _ in range(calls):
            call()
        watch.mark()
        taken.append(watch.seconds()[0] / calls)
    return statistics.median(taken)
