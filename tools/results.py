"""Measure the results table, and any other configuration: sets of several seeds, students on each.

    python tools/results.py --data FOLDER --out docs/results.json --runs runs/results
    python tools/results.py ... --row "H-PD, DM" --dataset cifar10 --images 1
    python tools/results.py ... cifar10-seeds "cifar10-hmn source.steps=2000"

Without arguments it measures the rows of the table; each argument is a configuration and what it
changes. A set of each seed is distilled (its run folder is kept, and goes on if it was
interrupted), and as many students are trained on each; on random real images, samples and such,
where the row has them beside it, for the first set alone. The file is written after each set, and
the same command does what is missing; several processes can share the rows out (``--part``). Sets
whose settings have changed are measured anew. Each set has a process of its own, whose memory is
counted, and one thread, so that numbers do not depend on the cores. In the end it prints a line for
each: the mean over sets, and the deviation between them.

The first set of every level of GLaD is measured, and the others of the best one alone. With
``--best 10`` a wide student and those of other architectures are trained on the first set of the
ten best rows of each data set and budget.

FOLDER holds the data in torchvision's layout, and Imagenette's pictures in `imagenette128`. Its
rows of an autoencoder read `taef2_decoder.pth` and `taef2_encoder.pth` where the tool is started.
Teachers, experts and banks of networks are trained where they are missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_sets import Sets, Wanted, lines_of, summarise
from results_rows import BUDGETS, DATA, Row, all_rows, best_level, best_rows, on_others

import hpd
from hpd.config import RunSettings
from hpd.data import DATASETS
from hpd.errors import ConfigError
from hpd.machine.allocator import keep_freed_memory


class Work:
    """What is measured, and how.

    Args:
        sets: the file.
        runs: folder of the run folders.
        count: sets of each row.
        students: of each set.
        data: folder of the data; None where configurations know.
    """

    def __init__(self, sets: Sets, runs: Path, count: int, students: int, data: str | None) -> None:
        self.sets, self.runs, self.data = sets, runs, data
        self.count, self.students = count, students

    def missing(self, line: str, seeds: Sequence[int], folder: str = "") -> Iterator[Wanted]:
        """Yield the sets of a line that are not measured.

        Args:
            line: a configuration and what it changes.
            seeds: of the sets.
            folder: where the data lie in that of all.
        """
        data = None if self.data is None else str(Path(self.data, folder))
        for seed in seeds:
            wanted = Wanted(line, seed, self.students, data)
            if not self.sets.has(wanted):
                yield wanted

    def of_row(self, row: Row) -> Iterator[Wanted]:
        """Yield what is missing of a row: of a level that is not the best one, the first set."""
        folder = DATA[row.data].folder
        yield from self.missing(row.line, [0], folder)
        if row.level is None or row.line == best_level(row, summarise(self.sets.sets)):
            yield from self.missing(row.line, range(1, self.count), folder)

    def measure(self, wanted: Wanted, *, baselines: bool) -> None:
        """Measure a set and say what came out."""
        ensure_teacher(wanted.settings())
        found = in_a_process(wanted, self.runs, baselines)
        self.sets.add(found)
        click.echo("\n".join(lines_of(summarise([found]))))


def in_a_process(wanted: Wanted, runs: Path, baselines: bool) -> dict[str, Any]:
    """Measure a set in a process of its own, so that the most memory is that of this set."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, wanted, runs, baselines).result()


def measured(wanted: Wanted, runs: Path, baselines: bool) -> dict[str, Any]:
    """Measure a set with one thread: how sums are split among threads rounds them."""
    keep_freed_memory()
    torch.set_num_threads(1)
    return wanted.measure(runs, baselines=baselines)


def ensure_teacher(settings: RunSettings) -> None:
    """Train the teacher of a row, where it is missing."""
    named = {getattr(part, "teacher", None) for part in (settings.relabel, settings.source)}
    for data in DATA.values():
        for folder, options in data.teachers.items():
            if folder in named and not Path(folder).exists():
                hpd.squeeze(DATASETS.dump(settings.data), *options, out=folder, device="cpu")


def chosen(words: Sequence[str], datasets: Sequence[str], images: Sequence[int]) -> list[Row]:
    """Return the rows of these data sets and budgets whose name holds one of the words, or all.

    Raises:
        ConfigError: for a word that no row has.
    """
    rows = [row for row in all_rows() if row.data in datasets and row.budget in images]
    for word in words:
        if not any(word in row.name for row in rows):
            names = ", ".join(dict.fromkeys(row.name for row in rows))
            raise ConfigError(f"no row {word!r}", expected=names)
    return [row for row in rows if not words or any(word in row.name for word in words)]


def part_of(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the rows of one of several processes; levels of one generator stay together.

    >>> part_of([], "0/2")
    []
    """
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise ConfigError("no such part", got=part, expected="0/2 or 1/2 for one of two")
    groups = list(dict.fromkeys(_group(row) for row in rows))
    return [row for row in rows if groups.index(_group(row)) % int(count) == int(number)]


def _group(row: Row) -> tuple[object, ...]:
    return row.data, row.budget, row.objective, row.method if row.level is not None else row.line


@tool(__doc__)
@click.argument("lines", nargs=-1, metavar='["CONFIG [KEY=VALUE]..."]...')
@click.option("--data", help="Folder of the data set, in torchvision's layout.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option(
    "--runs", type=click.Path(path_type=Path), required=True, help="Folder of the run folders."
)
@click.option("--row", "words", multiple=True, help="Only rows whose name holds this.")
@click.option("--dataset", "datasets", multiple=True, type=click.Choice([*DATA]), default=[*DATA])
@click.option(
    "--images", multiple=True, type=click.Choice([*map(str, BUDGETS)]), default=["1", "10"]
)
@click.option("--part", default="0/1", show_default=True, help="0/2 and 1/2: for two processes.")
@click.option("--sets", "count", type=click.IntRange(1), default=3, show_default=True)
@click.option("--students", type=click.IntRange(1), default=5, show_default=True)
@click.option("--alone", is_flag=True, help="Leave out what stands beside a configuration.")
@click.option("--best", type=click.IntRange(0), default=0, help="Of so many rows, other students.")
@click.option("--minutes", type=float, help="Begin no set after so long.")
def main(
    lines: tuple[str, ...], data: str | None, out: Path, runs: Path, words: tuple[str, ...],
    datasets: tuple[str, ...], images: tuple[str, ...], part: str, count: int, students: int,
    alone: bool, best: int, minutes: float | None,
) -> None:  # fmt: skip
    """Measure what is missing, and write the file after each set."""
    work = Work(Sets(out), runs, count, students, data)
    until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    budgets = [int(one) for one in images]
    rows = part_of([] if lines else chosen(words, datasets, budgets), part)
    for wanted, baselines in _asked(work, lines, rows, best):
        if time.monotonic() > until:
            break
        work.measure(wanted, baselines=baselines and not alone)
    asked = [row for row in summarise(work.sets.sets) if row["config"] in lines]
    click.echo("\n".join(lines_of(asked)))


def _asked(
    work: Work, lines: Sequence[str], rows: Sequence[Row], best: int
) -> Iterator[tuple[Wanted, bool]]:
    """Yield what is missing, and whether baselines stand beside it."""
    for line in lines:
        for wanted in work.missing(line, range(work.count)):
            yield wanted, wanted.seed == 0
    for row in rows:
        for wanted in work.of_row(row):
            yield wanted, wanted.seed == 0 and row.is_reference
    # which level is the best one is known when all of them are there
    for row in rows:
        if row.level is not None:
            for wanted in work.of_row(row):
                yield wanted, False
    for row in best_rows(rows, summarise(work.sets.sets), best):
        for line in on_others(row):
            for wanted in work.missing(line, [0], DATA[row.data].folder):
                yield wanted, False


if __name__ == "__main__":
    main()
