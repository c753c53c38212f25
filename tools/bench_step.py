"""Time a step of H-PD, by objective and by what the generator and the student compute in.

    python tools/bench_step.py --json step.json
    python tools/bench_step.py --device cuda --repeats 20

Ten images of 32 px at level 1 are matched to ten classes of 256 real images through a ConvNet-3 of
width 128. `reference` runs the operations of the generator in plain torch, `float32` natively, and
`bfloat16` in that type, generator and student, on both sides; `--compile` compiles the student of
the last two for the real images.
Each way has a process of its own, so that its peak memory is its own, and one that fails ends no
other; the ways take their steps in turn, and medians are given, the last three of the ratios to
`float32` beside it: of the step, the generator, the objective. `image_deviation` is the largest
difference from the images of the reference, whose values lie in [0, 1]. On a GPU seconds
are those between events, and memory is that of its tensors; float32 is IEEE's there.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from commands import tool
from stopwatch import CLOCKS, Stopwatch, clock_option, device_option, peak_of
from torch import Tensor

from generators import StoredGenerator
from generators.base import FAMILIES, Generator
from generators.families.layers import initialise_layers
from hpd.data import ImageSet, Normalisation
from hpd.engine import OptimizerSettings
from hpd.engine.rendered import Rendered, every_index
from hpd.engine.watching.readings import Readings
from hpd.errors import RunError
from hpd.machine.allocator import keep_freed_memory
from hpd.machine.device import open_device
from hpd.machine.precision import Float32, has_fast_bfloat16
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources.gan.settings import GanSettings
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
OBJECTIVES_TIMED: dict[str, dict[str, Any]] = {
    "dm": {"kind": "distribution"}, "dc": {"kind": "gradient"},
    # of all classes together
    "regression": {"kind": "regression", "real_batch": 2560},
}  # fmt: skip
MEBIBYTE = 2**20
RATIOS = ("seconds_per_step", "generator_seconds", "objective_seconds")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """What a step is made of."""

    network: Mapping[str, Any]
    objective: Mapping[str, Any]
    level: int = 1
    real_batch: int = 256


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Args:
        ops: the value of HPD_OPS.
        options: `precision` and `compile`.
        float32: how a GPU multiplies such numbers.
        graphs: whether the generator is captured as graphs.
    """

    ops: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    float32: Float32 = "ieee"
    graphs: bool = False


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
        device: where they are computed.
    """

    def __init__(self, work: Work, options: Mapping[str, Any], device: torch.device = CPU) -> None:
        network: Generator = FAMILIES.parse(dict(work.network)).build()
        initialise_layers(network, torch.Generator().manual_seed(0))
        spec = network.requires_grad_(False).spec
        train = random_images(work.real_batch, spec.channels, spec.resolution)
        self.device, streams = device, Streams(0)
        self.source = GanSettings(
            generator="in memory", generator_classes=list(range(10)), levels=[work.level],
            average_draws=10, precision=options["precision"],
        ).build_from(StoredGenerator.of(network), train, device, streams)  # fmt: skip
        self.objective = OBJECTIVES.parse(
            {"real_batch": work.real_batch, "compile": options["compile"]}
            | {"real_dtype": options["precision"], "synthetic_dtype": options["precision"]}
            | dict(work.objective)
        ).build(train, device, streams)
        self.groups = self.source.enter(0)
        self.optimizer = OptimizerSettings().build(self.groups)
        self.steps = 0

    def images(self) -> Tensor:
        """Return the images of the moment, on the CPU."""
        return self.source.render(every_index(self.source))[0].cpu()

    def take(self, mark: Callable[[], None] = lambda: None) -> None:
        """Take a step, and mark the moments between its parts and its end."""
        step = Step(0, self.steps)
        rendered = Rendered.of(self.source, every_index(self.source))
        mark()
        matched = self.objective(rendered.images, self.source.labels, step)
        mark()
        self.optimizer.zero_grad()
        rendered.pull(matched)
        Readings.of(matched, self.groups, "in a benchmark")
        self.optimizer.step()
        mark()
        self.steps += 1

    def step(self, clock: str = "wall") -> dict[str, float]:
        """Take a step and return the seconds of it and of its parts."""
        watch = Stopwatch(self.device, CLOCKS[clock])
        self.take(watch.mark)
        forward, match, backward = watch.seconds()
        return {
            "seconds_per_step": forward + match + backward,
            "generator_seconds": forward + backward,
            "generator_forward_seconds": forward, "objective_seconds": match,
        }  # fmt: skip


def serve(connection: Connection, work: Work, way: Way, device: str) -> None:
    """Take steps by the clock that is asked for, in a process of its own, until that is None.

    The answer to that is the peak memory. What fails is the answer, as an error, and the last one.
    """
    try:
        keep_freed_memory()
        os.environ["HPD_OPS"] = way.ops
        os.environ["HPD_GRAPHS"] = "on" if way.graphs else "off"
        stepper = Stepper(work, way.options, open_device(device, way.float32))
        connection.send(stepper.images().numpy())
        stepper.step()  # compiles
        connection.send(None)
        while (clock := connection.recv()) is not None:
            connection.send(stepper.step(clock))
        connection.send(peak_of(stepper.device))
    # whatever it is, the others go on
    except Exception as error:
        connection.send(RunError(f"{type(error).__name__}: {' '.join(str(error).split())}"))


class Server:
    """A process that takes the steps of a way.

    Attributes:
        problem: why it takes none any more, None where it does.
    """

    def __init__(self, work: Work, way: Way, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.problem: str | None = None
        self._process = context.Process(target=serve, args=(theirs, work, way, device), daemon=True)
        self._process.start()
        theirs.close()
        self.images: Tensor | None = None
        self.steps: list[dict[str, float]] = []

    def get_ready(self) -> None:
        """Wait for its images, and for its first step, which compiles."""
        images = self._hear()
        self.images = None if images is None else torch.from_numpy(images)
        self._hear()

    def _hear(self) -> Any:
        """Return the next answer; None where there is none any more."""
        if self.problem is not None:
            return None
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = RunError("its process ended", got=f"exit code {self._process.exitcode}")
        if isinstance(answer, RunError):
            self.problem, answer = str(answer), None
        return answer

    def _ask(self, question: str | None) -> Any:
        """Return the answer to a question; None where there is none any more."""
        # of one that has ended, hearing it says so
        with contextlib.suppress(OSError):
            self._pipe.send(question)
        return self._hear()

    def step(self, clock: str) -> None:
        """Take a step."""
        taken = None if self.problem is not None else self._ask(clock)
        self.steps += [] if taken is None else [taken]

    def end(
        self, first: Tensor | None, plain: Sequence[Mapping[str, float]] = ()
    ) -> dict[str, Any]:
        """End it, and return medians, peak memory and deviation, or why there are none.

        Args:
            first: images to compare with.
            plain: steps of `float32`, each taken beside the one here of its number.
        """
        peak = None if self.problem is not None else self._ask(None)
        self._process.join()
        if self.problem is not None or self.images is None:
            return {"failed": self.problem}
        names = list(self.steps[0])
        found = {k: round(statistics.median(s[k] for s in self.steps), 6) for k in names}
        for name in RATIOS if len(plain) == len(self.steps) else ():
            pairs = zip(self.steps, plain, strict=True)
            ratio = statistics.median(own[name] / theirs[name] for own, theirs in pairs)
            found[name.replace("seconds", "ratio")] = round(ratio, 3)
        found["peak_bytes"] = peak
        if first is not None:
            found["image_deviation"] = float((self.images - first).abs().max())
        return found


def measure(
    work: Work, named: Mapping[str, Way], repeats: int, device: str = "cpu", clock: str = "wall"
) -> dict[str, dict[str, Any]]:
    """Time the steps of each way, in turn.

    Returns:
        for each way seconds per step, its parts, peak bytes and deviation of its first images from
        those of the first way that has any; the median of the ratios to `float32`, where that is
        one of the ways. `failed` in their place says why there are none.
    """
    servers = {name: Server(work, way, device) for name, way in named.items()}
    for server in servers.values():
        server.get_ready()
    for _ in range(repeats):
        for server in servers.values():
            server.step(clock)
    first = next((s.images for s in servers.values() if s.images is not None), None)
    plain = servers["float32"].steps if "float32" in servers else []
    return {name: server.end(first, plain) for name, server in servers.items()}


def show(title: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the figures of one objective."""
    click.echo(f"{title:22}   s/step  generator  objective  peak MiB  deviation  of float32")
    for name, row in found.items():
        if "failed" in row:
            click.echo(f"  {name:20} failed: {row['failed']}")
            continue
        ratios = [row.get(name.replace("seconds", "ratio")) for name in RATIOS]
        click.echo(
            f"  {name:20} {row['seconds_per_step']:8.4f} "
            f"{row['generator_seconds']:10.4f} {row['objective_seconds']:10.4f} "
            f"{row['peak_bytes'] / MEBIBYTE:9.0f} {row['image_deviation']:10.1e}  "
            + " ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        )


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--network", type=click.Choice([*NETWORKS]), default="xl", show_default=True,
    help="A StyleGAN-XL stem of 7.8 M parameters, or a StyleGAN2.",
)  # fmt: skip
@click.option(
    "--bfloat16/--no-bfloat16", default=None,
    help="Also in bfloat16; by default where the device has units for it.",
)  # fmt: skip
@click.option("--compile/--no-compile", "compiled", default=False, help="Compile the student.")
@click.option(
    "--objective", "chosen_objectives", type=click.Choice([*OBJECTIVES_TIMED]), multiple=True,
    help="Only these.",
)  # fmt: skip
@device_option
@clock_option
def main(
    path: Path | None, repeats: int, network: str, bfloat16: bool | None, compiled: bool,
    chosen_objectives: tuple[str, ...], device: str, clock: str,
) -> None:  # fmt: skip
    """Print a table for each objective, and write it as JSON."""
    figures: dict[str, Any] = {"network": network, "device": device, "clock": clock}
    wants_half = has_fast_bfloat16(open_device(device)) if bfloat16 is None else bfloat16
    for name in chosen_objectives or OBJECTIVES_TIMED:
        chosen = ways(compiled)
        if not wants_half:
            del chosen["bfloat16"]
        work = Work(NETWORKS[network], OBJECTIVES_TIMED[name])
        figures[name] = measure(work, chosen, repeats, device, clock)
        show(f"{network}, {name}", figures[name])
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
