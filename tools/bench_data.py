"""Weigh and time how data sets start: cold, from the cache, by some of their classes.

    python tools/bench_data.py --json data.json
    python tools/bench_data.py --only photos --folder /tmp/pictures

``many``: 20,000 PNGs of 32 px in 1,000 classes; ``large``: 100,000 JPEGs of 128 px in 100 classes
(0.8 GB of files, 4.9 GB of rows); ``photos``: 100 JPEGs of 12 megapixels, brought to 64 px. Each
start is a process of its own, and what it costs is counted above the import of the package:
seconds, the peak of its memory, and that without pages of files, which the system takes back when
it needs them.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from commands import tool
from PIL import Image

# what a started process does: imports, then the start of a set, then perhaps steps
_START = """
import json, os, sys, threading, time
from pathlib import Path

def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0

root, options, steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
import torch
import hpd
from hpd.api import load_dataset
from hpd.data import DATASETS
import PIL.JpegImagePlugin, PIL.PngImagePlugin
opened, scanned, real_scan = set(), set(), os.scandir
def scan(path="."):
    scanned.add(str(path))
    return real_scan(path)
os.scandir = scan
import hpd.data.pictures.decoding as decoding
real_read = decoding.read_with_facts
def read(entry, how):
    opened.add(entry.name)
    return real_read(entry, how)
decoding.read_with_facts = read
import resource
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
own = [status("RssAnon")]
def watch():
    while True:
        own.append(status("RssAnon"))
        time.sleep(0.005)
before, anonymous = peak(), own[0]
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
data = load_dataset(root, **options)
seconds = time.perf_counter() - started
images = len(data.train) + len(data.test)
result = {
    "seconds": seconds, "peak_bytes": peak() - before, "own_bytes": max(own) - anonymous,
    "images": images, "rows_bytes": images * data.train.rows[0].numel(),
    "pictures_read": len(opened), "folders_opened": len(scanned),
}
if steps:
    values = {
        "data": {"kind": "folder", "root": root, **options}, "device": "cpu",
        "source": {"kind": "pixel", "steps": steps},
        "objective": {"kind": "distribution", "student": {"kind": "convnet", "depth": 5}},
        "selection": "last",
    }
    started = time.perf_counter()
    hpd.distill(values)
    result |= {"steps_seconds": time.perf_counter() - started, "steps_own_bytes": max(own)}
print(json.dumps(result))
"""


def pictures(count: int, side: int, kind: str) -> list[bytes]:
    """Return different pictures as files of a kind: noise over colours, as photographs are."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(image).astype(np.int16) + rng.integers(-12, 13, (side, side, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, kind)
        found.append(file.getvalue())
    return found


def write(root: Path, classes: int, per_class: int, contents: list[bytes], suffix: str) -> None:
    """Write a folder a class, the same pictures over and over."""
    if root.is_dir():
        return
    for c in range(classes):
        folder = root / f"class{c:04}"
        folder.mkdir(parents=True)
        for i in range(per_class):
            content = contents[(c * per_class + i) % len(contents)]
            (folder / f"{i:05}{suffix}").write_bytes(content)


def photographs(root: Path) -> None:
    """Write 100 photographs of 12 megapixels in two classes; four differ, to save time."""
    if root.is_dir():
        return
    contents = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    write(root, 2, 50, contents, ".jpg")


class Bench:
    """Starts of one set.

    Args:
        root: its folder.
        cache: the folder of its rows.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache

    def start(
        self, cores: int | None = None, steps: int = 0, **options: object
    ) -> dict[str, float]:
        """Return what a start costs in a process of its own."""
        command = [sys.executable, "-c", _START, str(self.root), json.dumps(options), str(steps)]
        if cores is not None:
            command = ["taskset", "-c", ",".join(map(str, range(cores))), *command]
        environment = os.environ | {"HPD_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        if found.returncode:
            raise click.ClickException(found.stderr)
        return json.loads(found.stdout)

    def again(self, repeats: int = 5, **options: object) -> dict[str, float]:
        """Return the medians of several starts."""
        runs = [self.start(**options) for _ in range(repeats)]
        return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def many(folder: Path, cache: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure 20,000 small pictures in 1,000 classes."""
    root = folder / "many"
    write(root, 1000, 20, pictures(200, 32, "PNG"), ".png")
    ten = [f"class{c:04}" for c in range(10)]
    yield "ten of 1,000 classes, cold", Bench(root, cache / "ten").start(classes=ten)
    bench = Bench(root, cache)
    yield "first start", bench.start()
    yield "second start", bench.again()
    yield "ten of 1,000 classes", bench.again(classes=ten)


def large(folder: Path, cache: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure 100,000 pictures of 128 px, and a step of distribution matching on ten classes."""
    root = folder / "large"
    write(root, 100, 1000, pictures(500, 128, "JPEG"), ".jpg")
    bench = Bench(root, cache)
    yield "first start", bench.start()
    yield "second start", bench.again()
    ten = [f"class{c:04}" for c in range(0, 100, 10)]
    yield "ten of 100 classes, and a step", bench.start(steps=1, classes=ten)


def photos(folder: Path, cache: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure 100 photographs of 12 megapixels, on one core."""
    root = folder / "photos"
    photographs(root)
    bench = Bench(root, cache)
    yield "first start, one core", bench.start(cores=1, resolution=64)
    yield "second start", bench.again(resolution=64)


PARTS: dict[str, Callable[[Path, Path], Iterator[tuple[str, dict[str, float]]]]] = {
    "many": many, "large": large, "photos": photos,
}  # fmt: skip


@tool()
@click.option("--only", "names", multiple=True, type=click.Choice(list(PARTS)))
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps the pictures for next time.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Writes the figures.")
def main(names: tuple[str, ...], folder: Path | None, out: Path | None) -> None:
    """Weigh and time how data sets start."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = (folder or Path(temporary)).expanduser()
        for name in names or PARTS:
            cache = Path(temporary) / f"cache-{name}"
            for what, found in PARTS[name](place, cache):
                figures.setdefault(name, {})[what] = found
                share = found["peak_bytes"] / found["rows_bytes"]
                line = (
                    f"{name}: {what}: {found['seconds']:.2f} s, "
                    f"peak {found['peak_bytes'] / 1e6:.0f} MB ({share:.2f} of the rows), "
                    f"own {found['own_bytes'] / 1e6:.0f} MB, "
                    f"{found['pictures_read']:.0f} pictures read, "
                    f"{found['folders_opened']:.0f} folders opened"
                )
                if "steps_seconds" in found:
                    line += f"; the run {found['steps_seconds']:.1f} s, "
                    line += f"{found['steps_own_bytes'] / 1e6:.0f} MB of its own at most"
                click.echo(line)
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
