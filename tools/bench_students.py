"""Time students by what they compute in, and say how near that is to float64.

    OMP_NUM_THREADS=1 python tools/bench_students.py --json students.json
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python tools/bench_students.py --no-bfloat16

For each student: embeddings of real images and the gradient of its weights (`Response`), and the
gradient of ten images through their mean embedding (`Traced`), as distribution matching takes it.
`float32` is what objectives take by default, on a CPU a stack for the ConvNets of the field;
`torch` are torch's own layers in float32, and `direct` the same channels last, with instance norms
that are quick there (`HalfNorm`), as in `bfloat16`. The ways take turns, and medians of the ratios
of neighbours are given, of processor seconds, so that others on the machine count little. `cosine`
is the likeness of the bfloat16 gradient to that in float64, the least of any weight's.

The environment of the second line holds convolutions to what a CPU without AVX-512 has.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from bench_objectives import smooth_images
from commands import tool
from torch import Tensor

from hpd.machine.allocator import keep_freed_memory
from hpd.machine.precision import has_fast_bfloat16
from hpd.objectives.gradient import counted
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.half import with_half_norms
from hpd.students.response import Response
from hpd.students.traced import Traced

CPU = torch.device("cpu")
TRACED = 10
# settings, image shape, real images
CASES: Mapping[str, tuple[Mapping[str, Any], tuple[int, int, int], int]] = {
    "ConvNet-3, 8 px, width 64": ({"kind": "convnet", "width": 64}, (1, 8, 8), 64),
    "ConvNet-3, 16 px, width 64": ({"kind": "convnet", "width": 64}, (1, 16, 16), 64),
    "ConvNet-3, 32 px, width 32": ({"kind": "convnet", "width": 32}, (3, 32, 32), 64),
    "ConvNet-3, 28 px": ({"kind": "convnet"}, (1, 28, 28), 64),
    "ConvNet-3, 32 px": ({"kind": "convnet"}, (3, 32, 32), 64),
    "ConvNet-3, 32 px, batch norm": ({"kind": "convnet", "norm": "batch"}, (3, 32, 32), 64),
    "ConvNet-4, 64 px": ({"kind": "convnet"}, (3, 64, 64), 32),
    "ConvNet-5, 128 px": ({"kind": "convnet"}, (3, 128, 128), 8),
    "AlexNet": ({"kind": "alexnet"}, (3, 32, 32), 32),
    "ResNet-18": ({"kind": "resnet18"}, (3, 32, 32), 8),
    "VGG-11": ({"kind": "vgg11"}, (3, 32, 32), 16),
    "ViT": ({"kind": "vit"}, (3, 32, 32), 8),
}
Work = Callable[[], list[Tensor]]


class Bench:
    """A student and images, and the ways to what an objective asks of it.

    Args:
        settings: of the student.
        shape: of the images (C, H, W).
        count: real images.
    """

    def __init__(self, settings: StudentSettings, shape: tuple[int, int, int], count: int) -> None:
        rng = torch.Generator().manual_seed(1)
        self._make = lambda: settings.make(shape, 10)
        self._build = lambda: settings.build(shape, 10, torch.Generator().manual_seed(0)).eval()
        scaled = F.interpolate(smooth_images(count + TRACED + 1, rng), size=shape[1:])
        images = scaled[:, : shape[0]]
        # of one class: neighbours have something in common
        self._real, self._made = (images[:-1] + images[-1:]).tensor_split([count])
        self._labels = torch.full((count,), 3)
        self._names = counted(self._build(), "weights")

    def ways(self, *, half: bool) -> dict[str, dict[str, Work]]:
        """Return what is timed, by the question and the way."""
        plain = self._works(self._build(), Response(self._make), Traced(self._make))
        torchs = self._works(self._build(), Response(self._make, stacked=False), Traced(self._make))
        direct = self._direct()
        found = {
            what: {"float32": plain[what], "torch": torchs[what], "direct": direct[what]}
            for what in ("embeddings", "weights")
        }
        found["images"] = {"float32": plain["images"]}
        if half:
            dtype = torch.bfloat16
            rounded = self._works(
                self._build(), Response(self._make, dtype=dtype), Traced(self._make, dtype=dtype)
            )
            for what, ways in found.items():
                ways["bfloat16"] = rounded[what]
        return found

    def _works(self, student: Student, response: Response, traced: Traced) -> dict[str, Work]:
        frozen = self._build().requires_grad_(False)

        def by_images() -> list[Tensor]:
            return self._by_images(lambda x: traced.embed(frozen, x), self._made)

        return {
            "embeddings": lambda: [response.embed(student, self._real)],
            "weights": lambda: response.weight_gradient(
                student, self._real, self._labels, self._names
            ),
            "images": by_images,
        }

    def _direct(self) -> dict[str, Work]:
        """Return the works of torch's layers on float32 maps that lie channels last."""
        student = with_half_norms(self._build()).to(memory_format=torch.channels_last)
        named = dict(student.named_parameters())
        images = self._real.contiguous(memory_format=torch.channels_last)

        def embeddings() -> list[Tensor]:
            with torch.no_grad():
                return [student.embed(images)]

        def weights() -> list[Tensor]:
            loss = F.cross_entropy(student(images), self._labels)
            return list(torch.autograd.grad(loss, [named[name] for name in self._names]))

        return {"embeddings": embeddings, "weights": weights}

    @staticmethod
    def _by_images(embed: Callable[[Tensor], Tensor], images: Tensor) -> list[Tensor]:
        leaf = images.clone().requires_grad_()
        return list(torch.autograd.grad(embed(leaf).mean(dim=0).square().sum(), leaf))

    def exact(self) -> dict[str, list[Tensor]]:
        """Return the answers in float64."""
        student = self._build().double()
        named = dict(student.named_parameters())
        loss = F.cross_entropy(student(self._real.double()), self._labels)
        weights = torch.autograd.grad(loss, [named[name] for name in self._names])
        student.requires_grad_(False)
        return {
            "embeddings": [student.embed(self._real.double())], "weights": list(weights),
            "images": self._by_images(student.embed, self._made.double()),
        }  # fmt: skip


def least_cosine(got: list[Tensor], want: list[Tensor]) -> float:
    """Return the least cosine of any pair."""
    return min(
        F.cosine_similarity(a.double().flatten(), b.flatten(), dim=0).item()
        for a, b in zip(got, want, strict=True)
    )


def timed(ways: Mapping[str, Work], seconds: float, least: int = 3) -> dict[str, dict[str, float]]:
    """Return for each way the median of its processor seconds, and of its ratio to the first's.

    Args:
        ways: they take turns.
        seconds: as many turns as fit.
        least: turns.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    end = time.perf_counter() + seconds
    first = times[next(iter(ways))]
    while len(first) < least or time.perf_counter() < end:
        for name, work in ways.items():
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    return {
        name: {
            "seconds": round(statistics.median(own), 5),
            "ratio": round(statistics.median(a / b for a, b in zip(own, first, strict=True)), 3),
        }
        for name, own in times.items()
    }


def measure(name: str, seconds: float, *, half: bool) -> dict[str, Any]:
    """Measure a student; see the head of this file."""
    options, shape, count = CASES[name]
    bench = Bench(STUDENTS.parse(dict(options)), shape, count)
    exact, found = bench.exact(), {}
    for what, ways in bench.ways(half=half).items():
        found[what] = timed(ways, seconds)
        if half:
            cosine = least_cosine(ways["bfloat16"](), exact[what])
            found[what]["bfloat16"]["cosine"] = round(cosine, 5)
    return found


def show(name: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the figures of a student."""
    for what, ways in found.items():
        first, *others = ways.items()
        row = f"{name:30} {what:11} {1e3 * first[1]['seconds']:9.1f} ms"
        for way, figures in others:
            row += f"  {way} {figures['ratio']:.2f}"
            row += f" cosine {figures['cosine']:.4f}" if "cosine" in figures else ""
        click.echo(row)


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--only", type=click.Choice([*CASES]), multiple=True, help="Only these students.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=10.0, show_default=True,
    help="For each question about a student.",
)  # fmt: skip
@click.option(
    "--bfloat16/--no-bfloat16", default=None,
    help="Also in bfloat16; by default where the CPU has units for it.",
)  # fmt: skip
def main(
    path: Path | None, only: tuple[str, ...], seconds: float, bfloat16: bool | None
) -> None:  # fmt: skip
    """Print a row for each question about each student, and write them as JSON."""
    keep_freed_memory()
    half = has_fast_bfloat16(CPU) if bfloat16 is None else bfloat16
    figures = {}
    for name in only or CASES:
        figures[name] = measure(name, seconds, half=half)
        show(name, figures[name])
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
