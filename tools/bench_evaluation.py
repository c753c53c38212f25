"""Time students that learn together against students that learn one after another.

    python tools/bench_evaluation.py --json evaluation.json

Five ConvNets take the same epochs both ways, in turn; medians of seconds, of seconds of processor
time, and of the ratios of neighbours, which hold on a machine that has other things to do.

``digits_distilled`` and ``digits_full`` are the small sets and the whole training set of `hpd
distill digits`: width 64, 16 px, ten images, or batches of 64; ``rgb32`` is a ConvNet-3 of width
128 on ten images of 32 px. With --table the whole evaluation of `digits` is timed as well, on its
own initial set.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from commands import tool

from hpd.config import load_config
from hpd.machine.allocator import keep_freed_memory
from hpd.rng import Streams
from hpd.students import Lesson, TrainingSettings, train_students
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.training import train_plainly

STUDENTS = 5
AUGMENT = ["color", "crop", "cutout", "scale", "rotate"]


@dataclass(frozen=True)
class Work:
    """What the students learn."""

    shape: tuple[int, int, int]
    width: int
    images: int
    training: TrainingSettings


WORKS = {
    "digits_distilled": Work(
        (1, 16, 16), 64, 10, TrainingSettings.read({"epochs": 20, "augment": AUGMENT})
    ),
    "digits_full": Work(
        (1, 16, 16), 64, 320, TrainingSettings.read({"epochs": 1, "batch_size": 64})
    ),
    "rgb32": Work((3, 32, 32), 128, 10, TrainingSettings.read({"epochs": 4, "augment": AUGMENT})),
}


def lessons(work: Work) -> list[Lesson]:
    """Return fresh students and random images."""
    settings, rng = ConvNetSettings(width=work.width), torch.Generator().manual_seed(0)
    images = torch.randn(work.images, *work.shape, generator=rng)
    labels = torch.arange(work.images) % 10
    return [
        Lesson(settings.build(work.shape, 10, rng), images, labels, Streams(seed))
        for seed in range(STUDENTS)
    ]


def one_after_another(lessons: Sequence[Lesson], training: TrainingSettings) -> None:
    """Train each student by itself."""
    for own in lessons:
        train_plainly(own, training)


def measure(work: Work, repeats: int) -> dict[str, float]:
    """Return medians of both ways and of their ratios."""
    ways: dict[str, Callable[[Sequence[Lesson], TrainingSettings], None]] = {
        "alone": one_after_another, "together": train_students,
    }  # fmt: skip
    walls: dict[str, list[float]] = {name: [] for name in ways}
    processors: dict[str, list[float]] = {name: [] for name in ways}
    # the first round warms up
    for turn in range(repeats + 1):
        for name, way in ways.items():
            made = lessons(work)
            started = time.perf_counter(), time.process_time()
            way(made, work.training)
            if turn:
                walls[name].append(time.perf_counter() - started[0])
                processors[name].append(time.process_time() - started[1])
    found = {}
    for unit, times in (("seconds", walls), ("processor_seconds", processors)):
        for name in ways:
            found[f"{name}_{unit}"] = round(statistics.median(times[name]), 4)
        ratios = [a / b for a, b in zip(times["alone"], times["together"], strict=True)]
        found[f"{unit}_ratio"] = round(statistics.median(ratios), 2)
    return found


def whole_table() -> dict[str, float]:
    """Time the evaluation of `digits`, four rows of five students, on the set it starts from."""
    import hpd

    run = hpd.distill(load_config("digits", ["source.steps=1", "selection=last"]))
    started = time.perf_counter(), time.process_time()
    hpd.evaluate(run)
    return {
        "seconds": round(time.perf_counter() - started[0], 1),
        "processor_seconds": round(time.process_time() - started[1], 1),
    }


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--table/--no-table", default=False, help="Time a whole evaluation, too.")
def main(path: Path | None, repeats: int, table: bool) -> None:
    """Print a table, and write it as JSON."""
    keep_freed_memory()
    figures = {name: measure(work, repeats) for name, work in WORKS.items()}
    click.echo("                    alone s  together s   ratio   ratio of processor time")
    for name, row in figures.items():
        click.echo(
            f"{name:18} {row['alone_seconds']:8.2f} {row['together_seconds']:11.2f} "
            f"{row['seconds_ratio']:7.2f} {row['processor_seconds_ratio']:12.2f}"
        )
    if table:
        figures["digits_table"] = whole_table()
        click.echo(f"the table of digits: {figures['digits_table']['seconds']} s")
    figures["threads"] = {"torch": torch.get_num_threads()}
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
