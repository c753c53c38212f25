"""Time the real side of gradient matching, and weigh the ways to match trajectories.

    python tools/bench_objectives.py --json objectives.json

The real side is ten classes of 256 real images of 32 px through a ConvNet-3 of width 128: the
gradient of its weights, plainly (one forward and backward in float32), by the student's own
derivatives, which is what objectives take on a CPU, compiled, and compiled in bfloat16. The ways
are timed in turn, and medians are given. `min_cosine` is the least likeness of any weight's
gradient, by any of the ways, to the plain one.

Trajectory matching is weighed at 1, 5, 10, 20 and 40 student steps: the most bytes of tensors alive
at once, which repeats to the byte.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from commands import tool
from peak_memory import peak_bytes
from torch import Tensor

from hpd.allocator import keep_freed_memory
from hpd.objectives.gradient import counted
from hpd.objectives.trajectory import Span, trajectory_loss
from hpd.objectives.unrolling import METHODS, Batch, UnrolledStudent
from hpd.precision import has_fast_bfloat16
from hpd.students import Student
from hpd.students.convnet import ConvNetSettings
from hpd.students.parameters import flatten
from hpd.students.response import Response

CLASSES, REAL_BATCH, SHAPE = 10, 256, (3, 32, 32)
STEPS = (1, 5, 10, 20, 40)
MEBIBYTE = 2**20
# without units for it a bfloat16 convolution takes some thirty times as long: one class will do
FAST_BFLOAT16 = has_fast_bfloat16(torch.device("cpu"))


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


def real_side(repeats: int) -> dict[str, Any]:
    """Time the real side of a step; see the head of this file."""
    rng = torch.Generator().manual_seed(1)
    student = build_student()
    names = counted(student, "weights")
    # each class has an offset of its own, as classes of photographs do
    batches = [smooth_images(REAL_BATCH, rng) + smooth_images(1, rng) for _ in range(CLASSES)]
    labels = [torch.full((REAL_BATCH,), c) for c in range(CLASSES)]

    def plain(part: int) -> list[Tensor]:
        weights = dict(student.named_parameters())
        loss = F.cross_entropy(student(batches[part]), labels[part])
        return list(torch.autograd.grad(loss, [weights[name] for name in names]))

    def by(response: Response) -> Callable[[int], list[Tensor]]:
        return lambda part: response.weight_gradient(student, batches[part], labels[part], names)

    def make() -> Student:
        return ConvNetSettings().make(SHAPE, CLASSES)

    half_classes = CLASSES if FAST_BFLOAT16 else 1
    ways: dict[str, tuple[Callable[[int], list[Tensor]], int]] = {
        "float32_eager_s": (plain, CLASSES),
        "float32_s": (by(Response(make)), CLASSES),
        "float32_compiled_s": (by(Response(make, compiled=True)), CLASSES),
        "bfloat16_s": (by(Response(make, compiled=True, dtype=torch.bfloat16)), half_classes),
    }
    exact = [plain(c) for c in range(CLASSES)]
    cosines = [
        F.cosine_similarity(got.flatten(), want.flatten(), dim=0).item()
        for way, classes in ways.values()
        for c in range(classes)
        for got, want in zip(way(c), exact[c], strict=True)
    ]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (way, classes) in ways.items():
            if name == "bfloat16_s" and times[name] and not FAST_BFLOAT16:
                continue
            started = time.perf_counter()
            for c in range(classes):
                way(c)
            times[name].append((time.perf_counter() - started) * CLASSES / classes)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    return {**medians, "min_cosine": round(min(cosines), 6), "fast_bfloat16": FAST_BFLOAT16}


def trajectory_memory() -> dict[str, dict[str, int]]:
    """Return the peak bytes of matching ten images of 32 px, by method and student steps."""
    rng = torch.Generator().manual_seed(0)
    student = UnrolledStudent(lambda: ConvNetSettings().make(SHAPE, CLASSES))
    start = flatten(build_student())
    span = Span(start, start + 0.01)
    images, labels = torch.randn(CLASSES, *SHAPE, generator=rng), torch.arange(CLASSES)

    def match(method: str, steps: int) -> None:
        leaf = images.clone().requires_grad_()
        batches = [Batch(leaf, labels, torch.arange(CLASSES), None)] * steps
        end = METHODS[method](student, start, batches, torch.tensor(0.01))  # type: ignore[index]
        torch.autograd.grad(trajectory_loss(end, span), leaf)

    return {
        method: {str(steps): peak_bytes(lambda m=method, s=steps: match(m, s)) for steps in STEPS}  # type: ignore[misc]
        for method in METHODS
    }


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--memory/--no-memory", default=True, help="Weigh trajectory matching, too.")
def main(path: Path | None, repeats: int, memory: bool) -> None:
    """Print a table, and write it as JSON."""
    keep_freed_memory()
    figures: dict[str, Any] = {"real_side": real_side(repeats)}
    times = figures["real_side"]
    for name in [key for key in times if key.endswith("_s")]:
        ratio = times[name] / times["float32_eager_s"]
        click.echo(f"{name:18} {times[name]:8.2f} s  {ratio:6.2f} of eager")
    click.echo(f"min_cosine         {times['min_cosine']:.6f}")
    if memory:
        figures["trajectory_memory_bytes"] = trajectory_memory()
        click.echo("student steps    " + "".join(f"{steps:>9}" for steps in STEPS))
        for method, row in figures["trajectory_memory_bytes"].items():
            sizes = "".join(f"{size / MEBIBYTE:9.0f}" for size in row.values())
            click.echo(f"{method:17}{sizes} MiB")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
