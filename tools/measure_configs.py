"""Measure bundled configurations: sets of several seeds, students on each, and what they cost.

    python tools/measure_configs.py --data FOLDER --out docs/configs.json --runs runs/configs \\
        cifar10-seeds "cifar10-hmn source.steps=2000"

Each argument is a configuration and what it changes. A set of each seed is distilled (its run
folder is kept, and goes on if it was interrupted), and as many students are trained on each; on the
first set's baselines, too, as the configuration has them. The file is written after each set, and
the same command does what is missing. Sets whose settings have changed are measured anew. One
thread computes, so that numbers do not depend on the cores. In the end it prints a line for each:
the mean over sets, and the deviation between them.

FOLDER holds the data in torchvision's layout. What a configuration needs beforehand, such as a
teacher of `hpd squeeze`, has to be there; trajectories' and banks' networks are trained.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_rows import digest_of, read_measured

import hpd
from hpd.config import RunSettings, load_config
from hpd.device import open_device
from hpd.engine.experts import MatchesExperts
from hpd.evaluation import Evaluation, EvaluationSettings, evaluate_sets
from hpd.files import write_json
from hpd.rng import Streams


@dataclass(frozen=True)
class Wanted:
    """A set to measure.

    Args:
        config: name of a configuration, and what is changed in it, as one line.
        seed: of the run.
        students: of each architecture.
        data: folder of the data; None where the configuration knows.
    """

    config: str
    seed: int
    students: int
    data: str | None = None

    @property
    def overrides(self) -> list[str]:
        """What is changed in the configuration."""
        given = shlex.split(self.config)[1:]
        return [*given, f"seed={self.seed}", f"evaluation.seeds={self.students}"]

    def settings(self) -> RunSettings:
        """Return the settings of the run."""
        root = [] if self.data is None else [f"data.root={self.data}"]
        return load_config(shlex.split(self.config)[0], [*self.overrides, *root])

    @property
    def digest(self) -> str:
        """Tells settings apart; see `digest_of`."""
        return digest_of(self.settings())

    def folder(self, runs: Path) -> Path:
        """Return where its run is kept; other students are trained on the same."""
        name = Path(shlex.split(self.config)[0]).stem
        return runs / f"{name}-{self.seed}-{digest_of(self.settings(), 'evaluation')[:8]}"

    def measure(self, runs: Path, *, baselines: bool) -> dict[str, Any]:
        """Distil the set, train students on it, and return what came out.

        Args:
            runs: folder of the run folders.
            baselines: also train students on the configuration's baselines.
        """
        settings, folder = self.settings(), self.folder(runs)
        if isinstance(settings.objective, MatchesExperts):
            hpd.train_experts(settings)
        run = hpd.distill(settings, out=folder, resume=True)
        # students as they are asked for now: the run may be of a time when others were
        asked = settings.evaluation
        options = [f"{k}={json.dumps(v)}" for k, v in asked.model_dump(mode="json").items()]
        found = hpd.evaluate(run, *options) if baselines else _alone(run, asked)
        cost = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
        return {
            "config": self.config,
            "seed": self.seed,
            "digest": self.digest,
            "cost": cost,
            "rows": [
                {
                    "name": row.name,
                    "network": row.network,
                    "images_per_class": row.images_per_class,
                    "storage": row.storage.as_json(),
                    "accuracies": [round(a, 2) for a in row.accuracies],
                }
                for row in found.rows
            ],
            "versions": {name: version(name) for name in ("hpd", "torch")},
        }


def _alone(run: hpd.Run, asked: EvaluationSettings) -> Evaluation:
    """Train students on a set and on nothing else: the same as `hpd.evaluate` trains."""
    config = run.config
    without: dict[str, Any] = {"baselines": [], "scores": False, "card": None}
    if asked.labels in ("hard", "stored"):
        without["full_training"] = None
    return evaluate_sets(
        run.distilled, None, config.data.build(), asked.model_copy(update=without),
        device=open_device(config.device, config.float32),
        streams=Streams(config.seed).fork("evaluation"),
    )  # fmt: skip


class Sets:
    """The measured sets, on disk after each.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sets: list[dict[str, Any]] = []
        if path.is_file():
            self.sets = read_measured(path, "sets")["sets"]

    def has(self, wanted: Wanted) -> bool:
        """Return whether a set is measured, with these settings."""
        return any(_key(one) == (wanted.config, wanted.seed) and one["digest"] == wanted.digest
                   for one in self.sets)  # fmt: skip

    def add(self, found: Mapping[str, Any]) -> None:
        """Add a set in the place of what was measured of it with other settings."""
        self.sets = [one for one in self.sets if _key(one) != _key(found)] + [dict(found)]
        self.sets.sort(key=_key)
        write_json(self.path, {"rows": summarise(self.sets), "sets": self.sets})


def _key(one: Mapping[str, Any]) -> tuple[str, int]:
    return one["config"], one["seed"]


def summarise(sets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each configuration, set and network: its mean, and how much sets differ.

    Of one set the deviation is that between students, of several that between the sets' means;
    `error` is the standard error of the mean.
    """
    found: dict[tuple[str, str, str], list[list[float]]] = {}
    for one in sets:
        for row in one["rows"]:
            key = one["config"], row["name"], row["network"]
            found.setdefault(key, []).append(row["accuracies"])
    return [
        {"config": config, "name": name, "network": network, **spread(of)}
        for (config, name, network), of in found.items()
    ]


def spread(sets: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return mean, deviation and standard error of sets' students; see `summarise`.

    >>> spread([[60.0, 62.0], [63.0, 65.0]])
    {'sets': 2, 'students': 4, 'mean': 62.5, 'std': 2.12, 'error': 1.5}
    """
    parts = [statistics.fmean(one) for one in sets] if len(sets) > 1 else list(sets[0])
    std = statistics.stdev(parts) if len(parts) > 1 else 0.0
    return {
        "sets": len(sets), "students": sum(map(len, sets)),
        "mean": round(statistics.fmean(parts), 2), "std": round(std, 2),
        "error": round(std / len(parts) ** 0.5, 2),
    }  # fmt: skip


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each row."""
    return [
        f"{row['config']}: {row['name'].replace('_', ' ')}, {row['network']}: {row['mean']:.1f}"
        f" +- {row['std']:.1f} ({row['sets']} sets, {row['students']} students)"
        for row in rows
    ]


@tool(__doc__)
@click.argument("configs", nargs=-1, required=True, metavar='"CONFIG [KEY=VALUE]..."...')
@click.option("--data", help="Folder of the data set, in torchvision's layout.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option(
    "--runs", type=click.Path(path_type=Path), required=True, help="Folder of the run folders."
)
@click.option("--sets", "count", type=click.IntRange(1), default=3, show_default=True)
@click.option("--alone", is_flag=True, help="Leave out the baselines.")
@click.option("--students", type=click.IntRange(1), default=5, show_default=True)
def main(
    configs: tuple[str, ...], data: str | None, out: Path, runs: Path, count: int, alone: bool,
    students: int,
) -> None:  # fmt: skip
    """Measure what is missing, and write the file after each set."""
    # how sums are split among threads rounds them
    torch.set_num_threads(1)
    sets = Sets(out)
    for config in configs:
        for seed in range(count):
            wanted = Wanted(config, seed, students, data)
            if not sets.has(wanted):
                found = wanted.measure(runs, baselines=seed == 0 and not alone)
                sets.add(found)
                click.echo("\n".join(lines_of(summarise([found]))))
    asked = [row for row in summarise(sets.sets) if row["config"] in configs]
    click.echo("\n".join(lines_of(asked)))


if __name__ == "__main__":
    main()
