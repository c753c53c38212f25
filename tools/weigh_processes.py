"""Weigh the processes of a run: the most memory that one of them occupies, by how many they are.

    OMP_NUM_THREADS=1 python tools/weigh_processes.py --json processes-memory.json

Each work is an ordinary run of ten classes that is written down every other step, to its end:
checkpoints, the result and its pictures are part of it. Processes are started by torchrun and share
out the classes. What a process occupies at most is read from the system. The same run of one image
a class says what is there whatever the images are: libraries, data, networks. What counts is the
largest process less that of the small run, beside the same of one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from PIL import Image

MEBIBYTE = 2**20
STUDENT = {"kind": "convnet", "width": 4, "depth": 3}
LEVELS = {
    "kind": "gan", "generator": "random", "init": "sample", "chunk_images": 5, "batch_images": 2,
}  # fmt: skip
WORKS: dict[str, dict[str, Any]] = {
    "features of a level": LEVELS | {"levels": [5], "steps": 4},
    "levels to pixels": LEVELS | {"levels": [3, 5, 7], "steps": 3},
    "pixels": {"kind": "pixel", "init": "noise", "chunk_images": 400, "steps": 4},
}
SIDES = {"pixels": (3, 64)}
"""Channels and pixels of images, where these are not those of the generator: 1 and 32."""


def run_one(work: str, images: int, folder: Path) -> None:
    """Distil in one of several processes, and write what it occupied."""
    from weigh_generator import random_generator

    import hpd
    from hpd.machine.device import Processes
    from hpd.machine.memory import peak_bytes

    processes, channels = Processes.started(cpu=True), SIDES.get(work, (1, 32))[0]
    config = {
        "data": {"kind": "folder", "root": str(folder / "data"), "channels": channels},
        "device": "cpu",
        "source": WORKS[work] | {"images_per_class": images},
        "objective": {"kind": "distribution", "student": STUDENT, "real_batch": 8},
        "selection": {"kind": "last", "every": 3}, "checkpoint_every": 2, "curve_every": 0,
    }  # fmt: skip
    generator = random_generator(32, 4096, 128) if WORKS[work]["kind"] == "gan" else None
    own = None if generator is None else generator.generator
    hpd.distill(config, out=folder / "run", processes=processes, generator=own)
    peaks = processes.objects(peak_bytes(torch.device("cpu")))
    if processes.is_first:
        (folder / "peaks.json").write_text(json.dumps(peaks))
    processes.end()


def write_images(root: Path, channels: int, side: int) -> None:
    """Write ten classes of random images."""
    rng = torch.Generator().manual_seed(1)
    for part in ("train", "test"):
        for label in range(10):
            (root / part / str(label)).mkdir(parents=True)
            for i in range(10):
                pixels = torch.randint(
                    256, (side, side, channels), generator=rng, dtype=torch.uint8
                )
                Image.fromarray(pixels.squeeze(2).numpy()).save(
                    root / part / str(label) / f"{i}.png"
                )


def peaks_of(work: str, count: int, images: int) -> list[int]:
    """Return what each of some processes occupies at most."""
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "data", *SIDES.get(work, (1, 32)))
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(count), __file__, "--folder", name),
            *("--work", work, "--images", str(images)),
        ]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        peaks: list[int] = json.loads((Path(name) / "peaks.json").read_text())
    return peaks


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--count", "counts", type=click.IntRange(1), multiple=True, default=[1, 2, 4])
@click.option("--work", "works", type=click.Choice([*WORKS]), multiple=True, default=[*WORKS])
@click.option("--images", type=click.IntRange(1), default=100, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    path: Path | None, counts: Sequence[int], works: Sequence[str], images: int,
    folder: Path | None,
) -> None:  # fmt: skip
    """Print a table, and write it as JSON."""
    if folder is not None:  # in one of the processes
        run_one(works[0], images, folder)
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    click.echo(f"{'':22} processes  fixed MB  images MB  beside one")
    for work in works:
        found[work] = {}
        for count in counts:
            fixed, whole = (max(peaks_of(work, count, n)) for n in (1, images))
            own = {"fixed": fixed / MEBIBYTE, "images": (whole - fixed) / MEBIBYTE}
            found[work][str(count)] = own
            beside = own["images"] / found[work][str(counts[0])]["images"]
            line = f"{work:22} {count:9}  {own['fixed']:8.0f}  {own['images']:9.0f}"
            click.echo(f"{line}  {beside:10.2f}")
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
