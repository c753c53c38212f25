"""Time a step of H-PD, by objective and by what the generator and the real images run in.

    python tools/bench_step.py --json step.json

Ten images of 32 px at level 1 are matched to ten classes of 256 real images through a ConvNet-3 of
width 128. `reference` runs the operations of the generator in plain torch, `float32` natively, and
`bfloat16` in that type; `--compile` compiles the student of the last two, which pays in bfloat16.
Each way has a process of its own, so that its peak memory is its own; the ways take their steps in
turn, and medians are given. `image_deviation` is the largest difference from the images of the
reference, whose values lie in [0, 1].
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from commands import tool
from torch import Tensor

from generators import StoredGenerator
from generators.base import FAMILIES, Generator
from generators.layers import initialise_layers
from hpd.allocator import keep_freed_memory
from hpd.data import ImageSet, Normalisation
from hpd.engine import OptimizerSettings
from hpd.objectives import OBJECTIVES
from hpd.precision import has_fast_bfloat16
from hpd.rng import Streams
from hpd.sources.gan import GanSettings
from hpd.typing import Step

# the stem of a StyleGAN-XL for CIFAR-10, of 7.8 million parameters
XL_STEM = {
    "kind": "stylegan_xl", "resolution": 32, "channels": 3, "z_dim": 64, "w_dim": 512,
    "num_classes": 10, "num_embeddings": 10, "mapping_layers": 2, "channel_base": 16384,
    "channel_max": 256, "num_layers": 10, "num_critical": 2, "margin": 4, "conv_kernel": 3,
}  # fmt: skip
STYLEGAN2 = {
    "kind": "stylegan2", "resolution": 32, "channels": 3, "z_dim": 512, "w_dim": 512,
    "num_classes": 10, "mapping_layers": 2, "channel_base": 16384, "channel_max": 512,
}  # fmt: skip
NETWORKS = {"xl": XL_STEM, "stylegan2": STYLEGAN2}
OBJECTIVE_OF = {"dm": "distribution", "dc": "gradient"}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Work:
    """What a step is made of."""

    network: Mapping[str, Any]
    objective: Mapping[str, Any]
    level: int = 1
    real_batch: int = 256


@dataclass(frozen=True)
class Way:
    """How a step is computed: the value of HPD_OPS, and whether in bfloat16 and compiled."""

    ops: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


def ways(compiled: bool) -> dict[str, Way]:
    """Return the ways that are compared."""
    fast = {"precision": "float32", "compile": compiled}
    return {
        "reference": Way("reference", fast | {"compile": False}),
        "float32": Way("auto", fast),
        "bfloat16": Way("auto", fast | {"precision": "bfloat16"}),
    }


def random_images(per_class: int, channels: int, size: int) -> ImageSet:
    """Return a data set of smooth random images."""
    rng = torch.Generator().manual_seed(0)
    parts = [
        F.interpolate(torch.randn(10 * per_class, channels, s, s, generator=rng), size=size)
        for s in (size // 8, size)
    ]
    images = ((parts[0] + parts[1]) * 32 + 128).clamp(0, 255).byte()
    classes = tuple(str(c) for c in range(10))
    normalisation = Normalisation.of(images)
    return ImageSet(images, torch.arange(10).repeat_interleave(per_class), classes, normalisation)


class Stepper:
    """A source at one level and an objective, and their steps.

    Args:
        work: what a step is made of.
        options: `precision` and `compile`.
    """

    def __init__(self, work: Work, options: Mapping[str, Any]) -> None:
        network: Generator = FAMILIES.parse(dict(work.network)).build()
        initialise_layers(network, torch.Generator().manual_seed(0))
        spec = network.requires_grad_(False).spec
        train = random_images(work.real_batch, spec.channels, spec.resolution)
        device, streams = torch.device("cpu"), Streams(0)
        self.source = GanSettings(
            generator="in memory", generator_classes=list(range(10)), levels=[work.level],
            average_draws=10, precision=options["precision"],
        ).build_from(StoredGenerator.of(network), train, device, streams)  # fmt: skip
        self.objective = OBJECTIVES.parse(
            dict(work.objective)
            | {"real_batch": work.real_batch, "compile": options["compile"]}
            | {"real_dtype": options["precision"]}
        ).build(train, device, streams)
        self.optimizer = OptimizerSettings().build(self.source.enter(0))
        self.steps = 0

    def images(self) -> Tensor:
        """Return the images of the moment."""
        return self.source.render(torch.arange(10))[0]

    def step(self) -> dict[str, float]:
        """Take a step and return the seconds of it and of its parts."""
        times = [time.perf_counter()]
        images, pullback = self.source.render(torch.arange(10))
        times.append(time.perf_counter())
        matched = self.objective(images, self.source.labels, Step(0, self.steps))
        times.append(time.perf_counter())
        self.optimizer.zero_grad()
        pullback(matched.image_grad)
        self.optimizer.step()
        times.append(time.perf_counter())
        self.steps += 1
        forward, match, backward = (b - a for a, b in itertools.pairwise(times))
        return {
            "seconds_per_step": times[-1] - times[0], "generator_seconds": forward + backward,
            "generator_forward_seconds": forward, "objective_seconds": match,
        }  # fmt: skip


def serve(connection: Connection, work: Work, way: Way) -> None:
    """Take steps as asked, in a process of its own; the answer to None is the peak memory."""
    keep_freed_memory()
    os.environ["HPD_OPS"] = way.ops
    stepper = Stepper(work, way.options)
    connection.send(stepper.images().numpy())
    stepper.step()  # compiles
    connection.send(None)
    while connection.recv() is not None:
        connection.send(stepper.step())
    # kibibytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def measure(work: Work, named: Mapping[str, Way], repeats: int) -> dict[str, dict[str, float]]:
    """Time the steps of each way, in turn.

    Returns:
        for each way seconds per step, its parts, peak bytes of the process and deviation of its
        first images from those of the first way.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    images: dict[str, Tensor] = {}
    for name, way in named.items():
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, work, way), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        images[name] = torch.from_numpy(pipes[name].recv())
        pipes[name].recv()
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in named}
    for _ in range(repeats):
        for name, pipe in pipes.items():
            pipe.send("step")
            steps[name].append(pipe.recv())
    found = {}
    first = next(iter(images.values()))
    for name, pipe in pipes.items():
        pipe.send(None)
        taken = steps[name]
        found[name] = {k: round(statistics.median(s[k] for s in taken), 4) for k in taken[0]}
        found[name]["peak_bytes"] = pipe.recv()
        found[name]["image_deviation"] = float((images[name] - first).abs().max())
    for process in processes:
        process.join()
    return found


def show(title: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the figures of one objective."""
    click.echo(f"{title:22}  s/step  generator  objective  peak MiB  deviation")
    for name, row in found.items():
        click.echo(
            f"  {name:20} {row['seconds_per_step']:7.2f} {row['generator_seconds']:10.2f} "
            f"{row['objective_seconds']:10.2f} {row['peak_bytes'] / MEBIBYTE:9.0f} "
            f"{row['image_deviation']:10.1e}"
        )


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--network", type=click.Choice([*NETWORKS]), default="xl", show_default=True,
    help="A StyleGAN-XL stem of 7.8 M parameters, or a StyleGAN2.",
)  # fmt: skip
@click.option(
    "--bfloat16/--no-bfloat16", default=has_fast_bfloat16(torch.device("cpu")),
    help="Also in bfloat16; by default where the CPU has units for it.",
)  # fmt: skip
@click.option("--compile/--no-compile", "compiled", default=False, help="Compile the student.")
def main(path: Path | None, repeats: int, network: str, bfloat16: bool, compiled: bool) -> None:
    """Print a table for each objective, and write it as JSON."""
    figures: dict[str, Any] = {"network": network}
    for name, kind in OBJECTIVE_OF.items():
        chosen = ways(compiled)
        if not bfloat16:
            del chosen["bfloat16"]
        figures[name] = measure(Work(NETWORKS[network], {"kind": kind}), chosen, repeats)
        show(f"{network}, {name}", figures[name])
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
