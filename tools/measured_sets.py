"""Sets that were distilled and judged, on disk: each a configuration, its changes and a seed.

A set is distilled into a run folder, which is kept, and goes on if it was interrupted; students are
trained on it. Those that were measured with other settings are not found, and measured anew.
"""

from __future__ import annotations

import json
import shlex
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from measured_rows import digest_of, read_measured

import hpd
from hpd.config import RunSettings, load_config
from hpd.disk.files import write_json
from hpd.disk.seals import digest_json
from hpd.engine.experts import MatchesExperts
from hpd.evaluation import Evaluation, EvaluationSettings, evaluate_sets
from hpd.machine.device import open_device
from hpd.rng import Streams


@dataclass(frozen=True)
class Wanted:
    """A set to measure.

    Args:
        config: name of a configuration, and what is changed in it, as one line.
        seed: of the run.
        students: of each architecture.
        data: folder of the data, where they lie in one; None where the configuration knows.
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
        name, given = shlex.split(self.config)[0], self.overrides
        found = load_config(name, given)
        if self.data is None or not hasattr(found.data, "root"):
            return found
        return load_config(name, [*given, f"data.root={self.data}"])

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
            # sets share the networks that they are matched through, as in the papers
            hpd.train_experts(settings.model_copy(update={"seed": 0}))
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
    """The measured sets, on disk after each; several processes can add to a file.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # beside nothing that is kept
        name = f"hpd-{digest_json(str(path.resolve()))[:16]}.lock"
        self._lock = Path(tempfile.gettempdir(), name)
        self.sets = self._read()

    def _read(self) -> list[dict[str, Any]]:
        return list(read_measured(self.path, "sets")["sets"]) if self.path.is_file() else []

    def has(self, wanted: Wanted) -> bool:
        """Return whether a set is measured, with these settings."""
        return any(_key(one) == (wanted.config, wanted.seed) and one["digest"] == wanted.digest
                   for one in self.sets)  # fmt: skip

    def add(self, found: Mapping[str, Any]) -> None:
        """Add a set in the place of what was measured of it with other settings."""
        with FileLock(self._lock):
            self.sets = [one for one in self._read() if _key(one) != _key(found)] + [dict(found)]
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
    {'sets': 2, 'students': 4, 'mean': 62.5, 'std': 2.121, 'error': 1.5}
    """
    parts = [statistics.fmean(one) for one in sets] if len(sets) > 1 else list(sets[0])
    std = statistics.stdev(parts) if len(parts) > 1 else 0.0
    return {
        "sets": len(sets), "students": sum(map(len, sets)),
        "mean": round(statistics.fmean(parts), 3), "std": round(std, 3),
        "error": round(std / len(parts) ** 0.5, 3),
    }  # fmt: skip


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each row."""
    return [
        f"{row['config']}: {row['name'].replace('_', ' ')}, {row['network']}: {row['mean']:.1f}"
        f" +- {row['std']:.1f} ({row['sets']} sets, {row['students']} students)"
        for row in rows
    ]
