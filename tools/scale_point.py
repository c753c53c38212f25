"""One point of `bench_scale.py`, measured in a process of its own: what a run of a size takes.

    python tools/scale_point.py POINT.json RESULT.json

Time is that of the processor, so that other work on the machine counts as little as it can. Memory
is what belongs to the process, without pages of files, above the fixed part: what it has when it
has done the same with two classes of 8 px, which loads all that runs load.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from commands import tool

PER_CLASS_OF_TEST, REAL_BATCH, WIDTH, STEPS = 2, 32, 16, 6
# real images are a view of so many different rows
STORED_ROWS = 2000
_PAGE = 4096
_STUDENT = {"kind": "convnet", "width": WIDTH}


@dataclass(frozen=True)
class Point:
    """What is measured.

    Args:
        work: ``pixels``: pixels matched by distributions; ``levels``: the same through three
            levels of a generator of random weights.
        classes: number of classes.
        images: synthetic images of each.
        side: of the images, in pixels.
        rows: real images, all classes together.
        ranks: processes that share the run.
    """

    work: str = "pixels"
    classes: int = 10
    images: int = 1
    side: int = 32
    rows: int = 32_000
    ranks: int = 1


SMALLEST = {"images": 1, "side": 8, "rows": 400}
"""What a process does first, with two classes a rank: its memory is the fixed part."""


def own_bytes() -> int:
    """Return the memory of this process that no file stands behind."""
    resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(shared)) * _PAGE


class Memory:
    """Watches what this process occupies, in a thread of its own."""

    def __init__(self) -> None:
        self._most = own_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, own_bytes())
            time.sleep(0.002)

    def most(self) -> int:
        """Return the most since it was asked last."""
        most = max(self._most, own_bytes())
        gc.collect()
        self._most = own_bytes()
        return most


class Steps:
    """An observer that keeps the seconds of steps, and the moment of the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.first = 0.0

    def on_step(self, report: Any) -> None:
        """Keep a step's; the first one also prepares what all of them need."""
        self.first = self.first or time.thread_time() - report.seconds - report.curve_seconds
        self.seconds.append(report.seconds)

    def on_stage(self, report: Any) -> None:
        """Hear of a stage."""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[2:] or self.seconds)


def random_rows(folder: Path, side: int) -> np.ndarray[Any, Any]:
    """Return random rows as a file of them is mapped, [N, 3, side, side]; made once a folder."""
    shape, path = (STORED_ROWS, 3, side, side), folder / f"{side}.rows"
    if not path.is_file():
        rng, draft = np.random.default_rng(0), path.with_suffix(f".{os.getpid()}")
        with draft.open("wb") as file:
            for _ in range(STORED_ROWS):
                file.write(rng.bytes(int(np.prod(shape[1:]))))
        draft.replace(path)
    return np.memmap(path, np.uint8, mode="c", shape=shape)


def settings_of(point: Point, folder: Path, **more: Any) -> Any:
    """Return the settings of a run at a point, on a data set and a generator that are random."""
    from hpd.config import load_config

    names = [f"c{i}" for i in range(point.classes)]
    source: dict[str, Any] = {"kind": "pixel", "images_per_class": point.images, "steps": STEPS}
    if point.work == "levels":
        source |= {
            "kind": "gan", "generator": str(generator(folder, point)), "init": "sample",
            "generator_classes": list(range(len(names))), "levels": levels_of(point.side),
            "steps": STEPS // 3,
        }  # fmt: skip
    return load_config(
        {
            "data": {
                "kind": "bench_rows", "folder": str(folder), "point": json.dumps(asdict(point)),
            },
            "device": "cpu", "source": source, "selection": "last", "curve_every": 0,
            "objective": {"kind": "distribution", "real_batch": REAL_BATCH, "student": _STUDENT},
            "evaluation": {
                "students": [_STUDENT], "seeds": 1, "training": {"steps": 10},
                "full_training": {"steps": 10}, "baselines": ["random_real"],
            },
            **more,
        }
    )  # fmt: skip


def levels_of(side: int) -> list[int]:
    """Return three levels of the generator: the ws, features in the middle, pixels."""
    layers = 2 * (side.bit_length() - 2) - 1
    return [0, max(1, layers // 2), layers]


def generator(folder: Path, point: Point) -> Path:
    """Return the folder of a StyleGAN2 with few features and random weights."""
    from generators import save_generator
    from generators.families.stylegan2 import StyleGAN2Settings

    path = folder / f"generator-{point.side}-{point.classes}"
    if not (path / "generator.json").is_file():
        options = StyleGAN2Settings(
            resolution=point.side, channels=3, z_dim=32, w_dim=32, num_classes=point.classes,
            mapping_layers=2, channel_base=1024, channel_max=32,
        )  # fmt: skip
        network = options.build()
        network.initialise(torch.Generator().manual_seed(0))
        save_generator(network.requires_grad_(False), options, path, licence="MIT", provenance={})
    return path


def register_rows() -> None:
    """Make the random rows a data set that a configuration can name."""
    from hpd.data import DATASETS, Dataset, ImageSet, Normalisation
    from hpd.data.registry import DatasetSettings

    class BenchRows(DatasetSettings):
        """Random rows of a point."""

        folder: str
        point: str

        def build(self) -> Dataset:
            """Map them; mean and deviation of all bytes are known."""
            point = Point(**json.loads(self.point))
            rows = torch.from_numpy(random_rows(Path(self.folder), point.side))
            names = tuple(f"c{i}" for i in range(point.classes))
            usual = Normalisation((0.5,) * 3, (0.29,) * 3)
            counts = (point.rows, PER_CLASS_OF_TEST * point.classes)
            numbers = [torch.arange(count) for count in counts]
            return Dataset(
                *(
                    ImageSet(
                        rows, own % point.classes, names, usual, own % len(rows), "of the bench"
                    )
                    for own in numbers
                )
            )

    DATASETS.register("bench_rows")(BenchRows)


@contextmanager
def watched_writing() -> Iterator[list[tuple[float, int]]]:
    """Keep what writing a checkpoint takes of the thread that does: seconds, and its bytes."""
    from hpd.artifacts.checkpoints import Checkpoint, CheckpointFolder

    taken: list[tuple[float, int]] = []
    write = CheckpointFolder.write_part

    def timed(
        folder: CheckpointFolder, checkpoint: Checkpoint, rank: int = 0, count: int = 1
    ) -> str:
        started = time.thread_time()
        digest = write(folder, checkpoint, rank, count)
        size = folder.part(checkpoint, rank, count).stat().st_size
        taken.append((time.thread_time() - started, size))
        return digest

    CheckpointFolder.write_part = timed  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        CheckpointFolder.write_part = write  # type: ignore[method-assign]


def take(point: Point, folder: Path, processes: Any, mark: Callable[[str], None]) -> dict[str, Any]:
    """Distil, with checkpoints and without, and evaluate; return what that took.

    Args:
        point: of which size.
        folder: of rows and generators.
        processes: that share the run.
        mark: hears of each part when it is over.
    """
    import hpd

    found: dict[str, float] = {}
    steps, called = Steps(), time.thread_time()
    hpd.distill(
        settings_of(point, folder), processes=processes, observers=[steps],
        on_setup=lambda stages, done: mark("start"),
    )  # fmt: skip
    mark("step")
    if steps.seconds:  # the first process alone hears of them
        found |= {"step": steps.median, "start": steps.first - called}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = processes.first(lambda: str(Path(name) / "run"))
        with watched_writing() as written:
            settings = settings_of(point, folder, checkpoint_every=1)
            done = hpd.distill(settings, processes=processes, out=run)
        mark("checkpoint")
        taking = done.cost["checkpoints_seconds"]
        found["checkpoint"] = (taking + sum(seconds for seconds, _ in written)) / len(written)
        result = {"seconds": found, "state_bytes": max(size for _, size in written)}
        # which does not depend on how the images were made
        if processes.count == 1 and point.work == "pixels":
            started = time.thread_time()
            hpd.evaluate(run)
            hpd.report(run)
            found["evaluation"] = time.thread_time() - started
            mark("evaluation")
        processes.any(False)  # the folder stays until all are done
    return result


def measure(point: Point, folder: Path, *, memory: bool) -> Mapping[str, Any]:
    """Measure times at a point, or memory.

    Args:
        point: which.
        folder: of rows and generators.
        memory: what is measured; freed memory is then to be given back at once.
    """
    from hpd.machine.allocator import keep_freed_memory
    from hpd.machine.device import Processes

    torch.set_num_threads(1)
    if not memory:
        keep_freed_memory()  # as the command line does
        time.perf_counter = time.thread_time
    processes = Processes.started(cpu=True)
    register_rows()
    watch = Memory() if memory else None
    found: dict[str, int] = {}

    def mark(name: str) -> None:
        if watch is not None:
            found[name] = watch.most()

    # loads what all runs load
    take(Point(**asdict(point) | SMALLEST | {"classes": 2 * point.ranks}), folder, processes, mark)
    gc.collect()
    fixed = own_bytes()
    found.clear()
    result = take(point, folder, processes, mark)
    result |= {"rank": processes.rank}
    if memory:
        above = {name: most - fixed for name, most in found.items()}
        return result | {"bytes": above, "fixed_bytes": fixed}
    return result


@tool(__doc__)
@click.argument("point", type=click.Path(exists=True, path_type=Path))
@click.argument("result", type=click.Path(path_type=Path))
def main(point: Path, result: Path) -> None:
    """Measure the point of a file, and write what was found; of several ranks each its own."""
    asked = json.loads(point.read_text(encoding="utf-8"))
    found = measure(Point(**asked["point"]), Path(asked["folder"]), memory=asked["memory"])
    name = f"{result.stem}.{found['rank']}{result.suffix}"
    result.with_name(name).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
