"""Time the real side of gradient matching, and weigh the ways to match trajectories.

    python tools/bench_objectives.py --json objectives.json
    python tools/bench_objectives.py --device cuda

The real side is ten classes of 256 real images of 32 px through a ConvNet-3 of width 128: the
gradient of its weights, plainly (one forward and backward in float32), by the student's own
derivatives, which is what objectives take on a CPU, compiled, in bfloat16, and in that compiled.
The ways are timed in turn, and medians are given. `min_cosine` is the least likeness of any
weight's gradient, by any of the ways, to the plain one.

Trajectory matching is weighed at 1, 5, 10, 20 and 40 student steps: the most bytes of tensors alive
at once, which repeats to the byte; on a GPU the most that its allocator handed out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from commands import tool
from peak_memory import peak_bytes
from stopwatch import (
    CLOCKS,
    Stopwatch,
    clock_option,
    device_option,
    forget_peak,
    peak_of,
    wait,
)
from torch import Tensor

from hpd.machine.allocator import keep_freed_memory
from hpd.machine.device import open_device
from hpd.machine.precision import has_fast_bfloat16
from hpd.objectives.gradient import counted
from hpd.objectives.trajectory import Span, trajectory_loss
from hpd.objectives.unrolling import METHODS, Batch, UnrolledStudent
from hpd.students import Student
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.parameters import flatten
from hpd.students.response import Response

CLASSES, REAL_BATCH, SHAPE = 10, 256, (3, 32, 32)
STEPS = (1, 5, 10, 20, 40)
MEBIBYTE = 2**20
CPU = torch.device("cpu")
Way = Callable[[int], list[Tensor]]


def build_student() -> Student:
    """Return a fresh ConvNet-3 of width 128 in eval mode."""
    rng = torch.Generator().manual_seed(0)
    return ConvNetSettings().build(SHAPE, CLASSES, rng).eval()


def smooth_images(count: int, rng: torch.Generator) -> Tensor:
    """Return random images with the statistics of photographs: neighbours alike, mean 0, std 1."""
    images = sum(
        F.interpolate(torch.randn(count, 3, size, size, generator=rng), size=32, mode="bilinear")
        for size in (2, 4, 8, 16, 32)
    )
    assert isinstance(images, Tensor)
    return (images - images.mean()) / images.std()


def real_ways(device: torch.device) -> dict[str, Way]:
    """Return what takes the gradient of a class, by name."""
    rng = torch.Generator().manual_seed(1)
    student = build_student().to(device)
    names = counted(student, "weights")
    # each class has an offset of its own, as classes of photographs do
    batches = [
        (smooth_images(REAL_BATCH, rng) + smooth_images(1, rng)).to(device) for _ in range(CLASSES)
    ]
    labels = [torch.full((REAL_BATCH,), c, device=device) for c in range(CLASSES)]

    def plain(part: int) -> list[Tensor]:
        weights = dict(student.named_parameters())
        loss = F.cross_entropy(student(batches[part]), labels[part])
        return list(torch.autograd.grad(loss, [weights[name] for name in names]))

    def by(response: Response) -> Way:
        return lambda part: response.weight_gradient(student, batches[part], labels[part], names)

    def make() -> Student:
        return ConvNetSettings().make(SHAPE, CLASSES)

    return {
        "float32_eager_s": plain,
        "float32_s": by(Response(make)),
        "float32_compiled_s": by(Response(make, compiled=True)),
        "bfloat16_s": by(Response(make, dtype=torch.bfloat16)),
        "bfloat16_compiled_s": by(Response(make, compiled=True, dtype=torch.bfloat16)),
    }


def real_side(repeats: int, device: torch.device = CPU, clock: str = "wall") -> dict[str, Any]:
    """Time the real side of a step; see the head of this file."""
    # without units for it a bfloat16 convolution takes some thirty times as long: one class will do
    fast = has_fast_bfloat16(device)
    ways = {
        name: (way, 1 if name.startswith("bfloat16") and not fast else CLASSES)
        for name, way in real_ways(device).items()
    }
    exact = [ways["float32_eager_s"][0](c) for c in range(CLASSES)]
    cosines = [
        F.cosine_similarity(got.flatten(), want.flatten(), dim=0).item()
        for way, classes in ways.values()
        for c in range(classes)
        for got, want in zip(way(c), exact[c], strict=True)
    ]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (way, classes) in ways.items():
            if name.startswith("bfloat16") and times[name] and not fast:
                continue
            watch = Stopwatch(device, CLOCKS[clock])
            for c in range(classes):
                way(c)
            watch.mark()
            times[name].append(watch.seconds()[0] * CLASSES / classes)
    medians = {name: round(statistics.median(values), 6) for name, values in times.items()}
    return {**medians, "min_cosine": round(min(cosines), 6), "fast_bfloat16": fast}


def most_bytes(run: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes of tensors alive at once: counted, or as a GPU's allocator says."""
    if device.type != "cuda":
        return peak_bytes(run)
    wait(device)
    before = torch.cuda.memory_allocated(device)
    forget_peak(device)
    run()
    return peak_of(device) - before


def trajectory_memory(device: torch.device = CPU) -> dict[str, dict[str, int]]:
    """Return the peak bytes of matching ten images of 32 px, by method and student steps."""
    rng = torch.Generator().manual_seed(0)
    student = UnrolledStudent(lambda: ConvNetSettings().make(SHAPE, CLASSES))
    start = flatten(build_student()).to(device)
    span = Span(start, start + 0.01)
    images = torch.randn(CLASSES, *SHAPE, generator=rng).to(device)
    labels = torch.arange(CLASSES, device=device)
    lr = torch.tensor(0.01, device=device)

    def match(method: str, steps: int) -> None:
        leaf = images.clone().requires_grad_()
        batches = [Batch(leaf, labels, labels, None)] * steps
        end = METHODS[method](student, start, batches, lr)  # type: ignore[index]
        torch.autograd.grad(trajectory_loss(end, span), leaf)

    return {
        method: {
            str(steps): most_bytes(lambda m=method, s=steps: match(m, s), device)  # type: ignore[misc]
            for steps in STEPS
        }
        for method in METHODS
    }


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--memory/--no-memory", default=True, help="Weigh trajectory matching, too.")
@device_option
@clock_option
def main(path: Path | None, repeats: int, memory: bool, device: str, clock: str) -> None:
    """Print a table, and write it as JSON."""
    keep_freed_memory()
    there = open_device(device)
    times = real_side(repeats, there, clock)
    figures: dict[str, Any] = {"device": device, "clock": clock, "real_side": times}
    for name in [key for key in times if key.endswith("_s")]:
        ratio = times[name] / times["float32_eager_s"]
        click.echo(f"{name:20} {times[name]:9.4f} s  {ratio:6.2f} of eager")
    click.echo(f"min_cosine          {times['min_cosine']:.6f}")
    if memory:
        figures["trajectory_memory_bytes"] = trajectory_memory(there)
        click.echo("student steps    " + "".join(f"{steps:>9}" for steps in STEPS))
        for method, row in figures["trajectory_memory_bytes"].items():
            sizes = "".join(f"{size / MEBIBYTE:9.0f}" for size in row.values())
            click.echo(f"{method:17}{sizes} MiB")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
