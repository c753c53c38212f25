"""Measure the results table: every source on the bundled generators, at equal floats.

    python tools/results.py --data FOLDER --out docs/results.json --runs runs/results

Each row is a configuration of `configs/results/`. A set is distilled (its run folder is kept, and
goes on if it was interrupted), then students are trained on it: those of the first architecture
first, for all rows; then one of each other architecture, for all rows but the levels of GLaD, of
which only the best goes on. The file is written after every step, and the same command does what
is missing. Sets whose settings have changed are measured anew. Each process computes with one
thread, as `OMP_NUM_THREADS=1 hpd distill` does, so that numbers do not depend on the cores.

FOLDER holds the data in torchvision's layout. KEY=VALUE changes all rows: on a GPU,
`source.steps=...` for the published numbers.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import click
import torch
from commands import tool
from measured_rows import digest_of, read_measured
from results_rows import BASES, Set, best_of, is_level, levels, methods, summarise

import hpd
from hpd.allocator import keep_freed_memory
from hpd.config import RunSettings
from hpd.device import open_device
from hpd.engine.experts import MatchesExperts
from hpd.errors import ConfigError
from hpd.evaluation import Contender, EvaluationSettings, compare, of_random_real, of_set
from hpd.files import write_json
from hpd.rng import Streams

Networks = Literal["first", "others"]


@dataclass(frozen=True)
class Task:
    """What one process does: a set, as far as it is not there, and some of its students.

    Args:
        of: the set.
        networks: which students.
        overrides: ``"key=value"`` for the configuration.
        runs: folder of the run folders.
    """

    of: Set
    networks: Networks
    overrides: tuple[str, ...]
    runs: Path

    @cached_property
    def settings(self) -> RunSettings:
        """The configuration of the run."""
        return self.of.settings(self.overrides)

    @property
    def evaluation(self) -> EvaluationSettings:
        """How its students are trained."""
        settings = self.settings.evaluation
        if self.networks == "first":
            return settings.model_copy(update={"students": settings.students[:1]})
        return settings.model_copy(update={"students": settings.students[1:], "seeds": 1})

    @cached_property
    def digest(self) -> str:
        """Tells settings apart; see `digest_of`."""
        return digest_of(self.settings)

    @property
    def folder(self) -> Path:
        """Where the run is kept; rows that judge other images of the same run share it.

        Other settings have another folder, other students the same.
        """
        name = self.of.config.split(" ")[0].rpartition("/")[2]
        return self.runs / f"{name}-{digest_of(self.settings, 'evaluation')}"


def perform(task: Task) -> dict[str, Any]:
    """Return what a task adds to its set: cost, floats, accuracies; or why there is no such set."""
    try:
        return {"digest": task.digest, "config": task.of.config, **_measured(task)}
    except ConfigError as error:
        refusal = " ".join(str(error).split())
        return {"digest": task.digest, "config": task.of.config, "refused": refusal}


def _measured(task: Task) -> dict[str, Any]:
    settings, evaluation = task.settings, task.evaluation
    device, dataset = open_device(settings.device), settings.data.build()
    streams = Streams(settings.seed).fork("evaluation")
    found: dict[str, Any] = {}
    contender: Contender
    if task.of.method.part == "random_real":
        contender = of_random_real(
            "random_real", task.of.images, dataset.train, evaluation.training, streams
        )
    else:
        if isinstance(settings.objective, MatchesExperts):
            hpd.train_experts(settings)
        run = hpd.distill(settings, out=task.folder, resume=True)
        part = run.distilled
        if task.of.method.part == "initial":
            part = run.initial
        else:
            cost = json.loads((task.folder / "cost.json").read_text())
            found = {"seconds": cost["seconds"], "peak_bytes": cost.get("peak_bytes")}
        contender = of_set("set", part, evaluation.training)
    result = compare([contender], dataset, evaluation, device=device, streams=streams)
    return {
        **found,
        "made_images_per_class": contender.images_per_class,
        "stored_floats": contender.storage.images.floats,
        "accuracies": {row.network: [round(a, 3) for a in row.accuracies] for row in result.rows},
    }


class Sets:
    """The measured sets, on disk after each task.

    Args:
        path: of ``results.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sets: list[dict[str, Any]] = []
        if path.is_file():
            self.sets = read_measured(path, "sets")["sets"]

    def find(self, task: Task) -> dict[str, Any] | None:
        """Return what is known of a task's set; None where it is nothing, or of other settings."""
        key = task.of.key
        for one in self.sets:
            if all(one[name] == value for name, value in key.items()):
                return one if one["digest"] == task.digest else None
        return None

    def has(self, task: Task) -> bool:
        """Return whether a task is done."""
        one = self.find(task)
        if one is None or "refused" in one:
            return one is not None
        wanted = len(task.evaluation.students)
        known = len(one["accuracies"])
        return known >= 1 if task.networks == "first" else known >= 1 + wanted

    def add(self, task: Task, found: Mapping[str, Any]) -> None:
        """Add what a task found, and write the file."""
        key = task.of.key
        known = self.find(task) or {}
        self.sets = [o for o in self.sets if any(o[name] != value for name, value in key.items())]
        accuracies = {**known.get("accuracies", {}), **found.get("accuracies", {})}
        merged = {**key, **known, **found}
        self.sets.append({**merged, "accuracies": accuracies} if accuracies else merged)
        self.sets.sort(key=_place)
        write_json(self.path, {"rows": summarise(self.sets), "sets": self.sets})

    def best_level(self, dataset: str, images: int) -> str | None:
        """Return the name of the level of GLaD with the best mean accuracy of the first network."""
        found = levels(summarise(self.sets), dataset)
        best = best_of(row for row in found if row["images_per_class"] == images)
        return None if best is None else str(best["method"])


def _place(one: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return where a set stands in the file, which does not depend on what was measured first."""
    names = [method.name for method in methods(one["dataset"])]
    place = names.index(one["method"]) if one["method"] in names else len(names)
    return list(BASES).index(one["dataset"]), one["images_per_class"], place, one["seed"]


def measure(tasks: Sequence[Task], sets: Sets, workers: int) -> None:
    """Do what is missing of `tasks`, and write each result at once."""
    todo = [task for task in tasks if not sets.has(task)]
    for number, (task, found) in enumerate(in_processes(todo, workers), start=1):
        sets.add(task, found)
        click.echo(
            f"{number}/{len(todo)} {', '.join(map(str, task.of.key.values()))}: "
            f"{found.get('refused') or found['accuracies']}"
        )


def in_processes(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Perform each task in a process of its own, whose memory is its own; yield what is done."""
    if tasks:
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, _start, maxtasksperchild=1) as pool:
            yield from pool.imap_unordered(_with_task, tasks)


def _with_task(task: Task) -> tuple[Task, dict[str, Any]]:
    return task, perform(task)


def _start() -> None:
    keep_freed_memory()
    # how sums are split among threads rounds them, and a rounding can decide which state a
    # selection keeps: with one thread a row does not depend on how many cores there are
    torch.set_num_threads(1)


def planned(
    datasets: Sequence[str], images: Sequence[int], seeds: int, words: Sequence[str],
    data: str | None = None,
) -> list[Set]:  # fmt: skip
    """Return the sets to measure: of each row whose name holds one of `words`, or of all.

    Raises:
        ConfigError: for a word that no row has.
    """
    known = {row.name for dataset in datasets for row in methods(dataset)}
    for word in words:
        if not any(word in name for name in known):
            raise ConfigError(f"no row {word!r}", expected=", ".join(sorted(known)))
    return [
        Set(dataset, budget, row, seed, data)
        for seed in range(seeds)
        for budget in images
        for dataset in datasets
        for row in methods(dataset)
        if not words or any(word in row.name for word in words)
    ]


@tool(__doc__)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="Folder of the data sets, in torchvision's layout.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option(
    "--runs", type=click.Path(path_type=Path), required=True, help="Folder of the run folders."
)
@click.option(
    "--dataset", "datasets", multiple=True, type=click.Choice(list(BASES)), default=list(BASES),
    help="Only these data sets.",
)  # fmt: skip
@click.option(
    "--images", multiple=True, type=click.IntRange(1), default=(1, 10), show_default=True,
    help="Budgets, in images a class; give it again for more.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Sets of each row."
)
@click.option("--row", "words", multiple=True, help="Only rows whose name holds this.")
@click.option(
    "--networks", type=click.Choice(["first", "all"]), default="all", show_default=True,
    help="Students of the first architecture, or of all.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True,
    help="Processes at a time, each with one thread on the CPU.",
)  # fmt: skip
def main(
    overrides: tuple[str, ...], data: str | None, out: Path, runs: Path,
    datasets: tuple[str, ...], images: tuple[int, ...], seeds: int, words: tuple[str, ...],
    networks: str, workers: int,
) -> None:  # fmt: skip
    """Measure what is missing, and write the file after each set."""
    wanted, sets = planned(datasets, images, seeds, words, data), Sets(out)
    measure([Task(one, "first", overrides, runs) for one in wanted], sets, workers)
    if networks == "all":
        going_on = [one for one in wanted if goes_on(one, overrides, sets)]
        measure([Task(one, "others", overrides, runs) for one in going_on], sets, workers)


def goes_on(one: Set, overrides: Sequence[str], sets: Sets) -> bool:
    """Return whether students of other architectures are trained on a set."""
    name = one.method.name
    if is_level(name) and name != sets.best_level(one.dataset, one.images):
        return False
    return len(one.settings(overrides).evaluation.students) > 1


if __name__ == "__main__":
    main()
