"""Generators captured as graphs of CUDA, beside the same without: bits, seconds and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from bench_step import NETWORKS
from stopwatch import forget_peak, peak_of
from torch import Tensor

from generators.base import FAMILIES, Generator
from generators.captured import Captured
from generators.families.layers import initialise_layers
from generators.ops.cuda import recording
from gpu_parts.bandwidth import seconds
from gpu_parts.part import Place, Row, guarded, judged
from hpd.machine.device import open_device

_IMAGES, _LEVELS = 10, (0, 1, 4)
_DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


def graphs(place: Place) -> Iterator[Row]:
    """Compare ten images and their derivatives at several levels, in two precisions."""
    if place.device != "cuda":
        yield Row("graphs", "skipped", "they are recorded on a GPU only")
        return
    device = open_device(place.device)
    for name, network in NETWORKS.items():
        for dtype in _DTYPES:
            for level in _LEVELS:
                what = f"{name}, level {level}, {dtype}"
                yield from guarded(what, partial(compared, what, network, dtype, level, device))


def compared(
    what: str, settings: Mapping[str, Any], dtype: str, level: int, device: torch.device
) -> Row:
    """Return whether graphs give the same bits, and how much sooner."""
    network: Generator = FAMILIES.parse(dict(settings)).build()
    initialise_layers(network, torch.Generator().manual_seed(0))
    network.requires_grad_(False).to(device).compute_dtype = _DTYPES[dtype]
    captured, steps = Captured(network), []
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        ws = torch.randn(_IMAGES, network.spec.num_ws, network.spec.w_dim, generator=rng)
        steps.append(ws.to(device))
    found: dict[str, Any] = {}
    results: dict[str, list[list[Tensor]]] = {}
    for way in ("off", "on"):
        os.environ[recording.VARIABLE] = way
        forget_peak(device)
        results[way] = [_derived(captured, network, ws, level) for ws in steps]
        found[f"{way}_s"] = seconds(lambda: _derived(captured, network, steps[0], level), device)
        found[f"{way}_peak_bytes"] = peak_of(device)
    recorded = any(record is not None for record in captured._recorded.values())
    pairs = [
        pair
        for with_them, without in zip(results["on"], results["off"], strict=True)
        for pair in zip(with_them, without, strict=True)
    ]
    equal = all(torch.equal(a, b) for a, b in pairs)
    off = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    found |= {"recorded": recorded, "equal": equal, "deviation": off}
    says = (
        f"{found['off_s'] * 1e3:.2f} ms without, {found['on_s'] * 1e3:.2f} with graphs; "
        + ("the same bits" if equal else f"deviates by {off:.1e}")
        + ("" if recorded else "; nothing was recorded")
    )
    return Row(what, judged(recorded and equal and found["on_s"] < found["off_s"]), says, found)


def _derived(captured: Captured, network: Generator, ws: Tensor, level: int) -> list[Tensor]:
    """Return images and the derivatives by ws and by the state at the level."""
    with torch.no_grad():
        state = network.advance((), ws, 0, level)
    leaves = tuple(t.detach().requires_grad_() for t in (ws, *state))
    images = captured.images(leaves[1:], leaves[0], level)
    grads = torch.autograd.grad(images.square().sum(), leaves)
    return [images.detach(), *grads]
