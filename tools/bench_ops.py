"""Time every native operation against its reference, in the shapes of StyleGAN2 and StyleGAN-XL.

    OMP_NUM_THREADS=2 python tools/bench_ops.py --json ops.json

Native and reference runs take turns, forward without a gradient and backward, and medians are
given, with the median of the ratios of neighbouring runs: a machine that is busy slows both.
Where it is very busy, take the processor's time (of all threads) in place of the wall's.
`GB/s` is what the native operation moves, counting each input and result once; on a GPU the speed
of a copy of the same bytes stands beside it.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from stopwatch import CLOCKS, Clock, Stopwatch, clock_option, device_option
from torch import Tensor

from generators.families.filters import design_lowpass, design_radial_lowpass
from generators.ops import bias_act, filtered_lrelu, lowpass_filter, upfirdn2d
from generators.ops.bias_act import bias_act_reference
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.native import uses_native
from generators.ops.upfirdn2d import upfirdn2d_reference

Operation = Callable[[Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One operation in one shape, [N, C, H, W], natively and by its reference."""

    name: str
    shape: tuple[int, int, int, int]
    native: Operation
    reference: Operation


def alias_free(size: int, up: int, padding: tuple[int, int, int, int], device: str) -> dict:
    """Return options of the filtered leaky ReLU of a StyleGAN-XL layer that downsamples by 2."""
    before, after = (
        design_lowpass(6 * factor, cutoff=8, width=8, sampling_rate=64).to(device)
        for factor in (up, 2)
    )
    return {
        "bias": None, "up_kernel": before, "down_kernel": after, "up": up, "down": 2,
        "padding": padding, "clamp": 256.0,
    }  # fmt: skip


def cases(images: int, device: str) -> list[Case]:
    """Return the layers that cost most: a stem of StyleGAN-XL at 32 px, StyleGAN2 to 256 px."""
    found = []
    for size, channels, up, padding in (
        (42, 256, 2, (9, 8, 9, 8)), (26, 256, 2, (9, 8, 9, 8)), (26, 256, 4, (6, 3, 6, 3)),
        (86, 128, 2, (9, 8, 9, 8)), (150, 64, 2, (9, 8, 9, 8)),
    ):  # fmt: skip
        options = alias_free(size, up, padding, device)
        found.append(
            Case(
                f"filtered_lrelu up {up} down 2",
                (images, channels, size, size),
                functools.partial(filtered_lrelu, **options),
                functools.partial(filtered_lrelu_reference, **options),
            )
        )
    options = alias_free(52, 2, (9, 8, 9, 8), device)
    options["down_kernel"] = design_radial_lowpass(
        12, cutoff=8, width=8, sampling_rate=64
    ).to(device)  # fmt: skip
    found.append(
        Case(
            "filtered_lrelu matrix down 2",
            (images, 128, 52, 52),
            functools.partial(filtered_lrelu, **options),
            functools.partial(filtered_lrelu_reference, **options),
        )
    )
    kernel = lowpass_filter().to(device)
    for size, channels in ((16, 512), (32, 512), (64, 256), (256, 32)):
        for name, options in (
            ("up 2", {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}),
            ("filter", {"padding": (1, 1, 1, 1), "gain": 4.0}),
            ("down 2", {"down": 2, "padding": (1, 1, 1, 1)}),
        ):
            native, reference = (
                functools.partial(f, kernel=kernel, **options)
                for f in (upfirdn2d, upfirdn2d_reference)
            )
            shape = (images, channels, size, size)
            found.append(Case(f"upfirdn2d {name}", shape, native, reference))
        bias = torch.zeros(channels, device=device)
        for name, clamp in (("", None), (" clamp", 256.0)):
            native, reference = (
                functools.partial(f, bias=bias, activation="lrelu", clamp=clamp)
                for f in (bias_act, bias_act_reference)
            )
            shape = (images, channels, size, size)
            found.append(Case(f"bias_act lrelu{name}", shape, native, reference))
    return found


def timed(call: Callable[[], Any], device: str, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of a call, with all that it started; on a GPU between events."""
    watch = Stopwatch(torch.device(device), clock)
    call()
    watch.mark()
    return watch.seconds()[0]


def once(
    operation: Operation, x: Tensor, grad: Tensor, device: str, clock: Clock
) -> tuple[float, float]:
    """Return the seconds of a forward without gradient, and of a backward."""
    with torch.no_grad():
        forward = timed(lambda: operation(x), device, clock)
    y = operation(x)
    return forward, timed(lambda: torch.autograd.grad(y, x, grad), device, clock)


def measure(
    case: Case, repeats: int, dtype: torch.dtype, device: str, clock: Clock
) -> dict[str, Any]:
    """Return the medians of one case."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(case.shape, generator=rng).to(device, dtype).requires_grad_()
    grad = torch.randn(case.native(x).shape, generator=rng).to(device, dtype)
    ways = {"native": case.native, "reference": case.reference}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            seconds = once(way, x, grad, device, clock)
            if turn:
                times[name].append(seconds)
    row: dict[str, Any] = {"case": case.name, "shape": list(case.shape)}
    for i, part in enumerate(("forward", "backward")):
        for name in ways:
            row[f"{part}_{name}_s"] = statistics.median(t[i] for t in times[name])
        pairs = zip(times["native"], times["reference"], strict=True)
        row[f"{part}_ratio"] = statistics.median(slow[i] / fast[i] for fast, slow in pairs)
    moved = (x.numel() + grad.numel()) * x.element_size()
    row["forward_bytes_per_s"] = moved / row["forward_native_s"]
    if device == "cuda":
        row["copy_bytes_per_s"] = copy_speed(moved)
    return row


def copy_speed(moved: int, device: str = "cuda") -> float:
    """Return the bytes per second, read and written, of a copy on a device."""
    source = torch.empty(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return moved / statistics.median(timed(lambda: target.copy_(source), device) for _ in range(9))


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--images", type=click.IntRange(1), default=2, show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@device_option
@clock_option
@click.option("--only", default="", help="Only operations whose name begins so.")
def main(
    path: Path | None, repeats: int, images: int, dtype: str, device: str, clock: str, only: str
) -> None:
    """Print a table, and write it as JSON."""
    if not uses_native(torch.empty(0, device=device)):
        raise click.ClickException("no native operations: see 'hpd ops status'")
    click.echo(f"{'':29}{'':>17}   forward, ms          backward, ms")
    click.echo(
        f"{'operation':29}{'shape':>17} {'native':>7} {'ref':>7} {'x':>5}"
        f" {'native':>7} {'ref':>7} {'x':>5} {'GB/s':>6}"
    )
    rows = []
    for case in cases(images, device):
        if not case.name.startswith(only):
            continue
        row = measure(case, repeats, DTYPES[dtype], device, CLOCKS[clock])
        rows.append(row)
        cells = " ".join(
            f"{row[f'{part}_native_s'] * 1e3:7.2f} {row[f'{part}_reference_s'] * 1e3:7.2f} "
            f"{row[f'{part}_ratio']:5.1f}"
            for part in ("forward", "backward")
        )
        shape = "x".join(map(str, case.shape))
        copy = f" of {row['copy_bytes_per_s'] / 1e9:.0f}" if device == "cuda" else ""
        click.echo(
            f"{case.name:29}{shape:>17} {cells} {row['forward_bytes_per_s'] / 1e9:6.2f}{copy}"
        )
    means = {
        part: math.prod(row[f"{part}_ratio"] for row in rows) ** (1 / max(len(rows), 1))
        for part in ("forward", "backward")
    }
    click.echo(f"geometric mean of ratios: {means['forward']:.1f}, {means['backward']:.1f}")
    if path is not None:
        figures = {
            "device": device, "dtype": dtype, "clock": clock,
            "threads": torch.get_num_threads(), "cases": rows,
        }  # fmt: skip
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
