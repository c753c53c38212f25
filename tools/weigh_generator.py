"""Weigh a step on a generator's levels: the most bytes of tensors alive, by images a class.

    python tools/weigh_generator.py --images 1 --images 50 --json memory.json

The generator is a StyleGAN2 of 32 px with random weights, of the layout given; ten classes; one
step of distribution matching through a ConvNet-3 of width 128, with eight real images a class, the
optimiser, the best state and a score before and after included. Scratch memory inside operations
is not. Bytes repeat from run to run. On a GPU they are what its allocator handed out at most, with
that scratch memory.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import click
import torch
from commands import tool
from peak_memory import peak_bytes
from stopwatch import device_option, forget_peak, peak_of

from generators import StoredGenerator
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.data import ImageSet, Normalisation
from hpd.engine import SELECTORS, OptimizerSettings, StageReport, StepReport, optimise
from hpd.machine.device import open_device
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources.gan.settings import GanSettings

CLASSES, REAL_IMAGES, MEBIBYTE = 10, 20, 2**20
CPU = torch.device("cpu")


class Quiet:
    """An observer that does nothing."""

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""


def random_generator(resolution: int, channel_base: int, channel_max: int) -> StoredGenerator:
    """Return a grey class-conditional StyleGAN2 with random weights."""
    settings = StyleGAN2Settings(
        resolution=resolution, channels=1, z_dim=64, w_dim=64, num_classes=CLASSES,
        mapping_layers=2, channel_base=channel_base, channel_max=channel_max,
    )  # fmt: skip
    network = settings.build(tuple("0123456789"))
    network.initialise(torch.Generator().manual_seed(0))
    return StoredGenerator.of(network.requires_grad_(False))


def random_images(resolution: int) -> ImageSet:
    """Return random grey images of ten classes."""
    rng = torch.Generator().manual_seed(1)
    shape = (CLASSES * REAL_IMAGES, 1, resolution, resolution)
    pixels = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    labels = torch.arange(CLASSES).repeat_interleave(REAL_IMAGES)
    return ImageSet(pixels, labels, tuple("0123456789"), Normalisation.of(pixels))


def weigh(
    stored: StoredGenerator, images_per_class: int, level: int, chunk_images: int, width: int,
    device: torch.device = CPU,
) -> int:  # fmt: skip
    """Return the peak bytes of one step at one level, with the weights that it prepares."""
    # a network that has taken a step has prepared its weights before
    stored = StoredGenerator.of(copy.deepcopy(stored.generator))
    train = random_images(stored.generator.spec.resolution)
    settings = GanSettings(
        generator="in memory", images_per_class=images_per_class, init="sample", levels=[level],
        steps=1, chunk_images=chunk_images,
    )  # fmt: skip
    student = {"kind": "convnet", "width": width}
    matching = {"kind": "distribution", "real_batch": 8, "student": student}
    scoring = {"kind": "class_relevant", "extractor": "random"}

    def step() -> None:
        source = settings.build_from(stored, train, device, Streams(0))
        objective = OBJECTIVES.parse(matching).build(train, device, Streams(1))
        selector = SELECTORS.parse(scoring).build(train, device, Streams(2), objective)
        optimise(source, objective, selector, OptimizerSettings(), Quiet(), select_every=1)

    if device.type != "cuda":
        return peak_bytes(step)
    forget_peak(device)
    step()
    return peak_of(device)


@tool(__doc__)
@click.option("--images", multiple=True, type=click.IntRange(1), default=(1, 50), show_default=True)
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.IntRange(0),
    help="Levels to weigh; all of them if none is given.",
)
@click.option("--chunk-images", type=click.IntRange(1), default=64, show_default=True)
@click.option("--channel-base", type=click.IntRange(1), default=512, show_default=True)
@click.option("--channel-max", type=click.IntRange(1), default=96, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@device_option
def main(images: tuple[int, ...], levels: tuple[int, ...], chunk_images: int, channel_base: int,
         channel_max: int, path: Path | None, device: str) -> None:  # fmt: skip
    """Print a table, and write it as JSON."""
    there = open_device(device)
    stored = random_generator(32, channel_base, channel_max)
    spec = stored.generator.spec
    figures = {}
    click.echo("level           " + "".join(f"{count:>9}" for count in images) + "  images a class")
    for level in levels or range(spec.last_level + 1):
        name = f"{level} {spec.levels[level].name}"
        row = {str(n): weigh(stored, n, level, chunk_images, 128, there) for n in images}
        figures[name] = row
        click.echo(f"{name:16}" + "".join(f"{n / MEBIBYTE:9.0f}" for n in row.values()) + "  MiB")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
