"""Measure what mutual information adds to DM and DC: pairs of runs that differ by it alone.

    python tools/measure_mutual_information.py --root FOLDER --out mim.json --markdown mim.md

Each host is distilled with and without the add-on from the same seeds: start, real batches and
students' weights are the same. The gain is the mean difference of a pair in points, with its
standard error over seeds. A run is written as soon as it is measured; the same command goes on
after the last one, and refuses a file of other settings.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from commands import tool
from measure_recovery import Silent, distil, some_of
from measured_rows import Table

from hpd.config import RunSettings, load_config
from hpd.data import Dataset
from hpd.disk.files import write_bytes
from hpd.engine import StepReport
from hpd.errors import ConfigError
from hpd.evaluation import compare, of_set
from hpd.machine.device import open_device
from hpd.rng import Streams

STUDENT = {"kind": "convnet", "width": 32}
# mirrored digits are no digits
DIGITS, FASHION = (
    ["color", "crop", "cutout", "scale", "rotate"],
    ["color", "crop", "cutout", "flip", "scale", "rotate"],
)
DM = {"kind": "distribution", "student": STUDENT, "real_batch": 32}
DC = {"kind": "gradient", "student": STUDENT, "real_batch": 32}


def hosts(root: str) -> dict[str, dict[str, Any]]:
    """Return data and objective of each host, by name.

    Args:
        root: folder of Fashion-MNIST, in torchvision's layout.
    """
    fashion = {"kind": "fashion_mnist", "root": root}
    return {
        "digits, DM": {"data": "digits", "objective": {**DM, "augment": DIGITS}},
        "digits, DC": {"data": "digits", "objective": {**DC, "augment": []}},
        "Fashion-MNIST, DM": {"data": fashion, "objective": {**DM, "augment": FASHION}},
        "Fashion-MNIST, DC": {"data": fashion, "objective": {**DC, "augment": []}},
    }


def config_of(host: Mapping[str, Any], steps: int, add_on: Mapping[str, Any] | None) -> Any:
    """Return the settings of a run: pixels from real images, one a class."""
    objective = dict(host["objective"])
    if add_on is not None:
        added = {"kind": "mutual_information", "augment": objective["augment"], **add_on}
        objective["add_ons"] = [added]
    return {
        "data": host["data"],
        "source": {"kind": "pixel", "init": "real", "steps": steps, "lr": 0.05},
        "objective": objective,
        "selection": "last",
        "evaluation": {
            "students": [STUDENT], "seeds": 3, "full_training": None,
            "training": {"epochs": 300, "augment": objective["augment"] or ["crop"]},
        },
    }  # fmt: skip


class Listener(Silent):
    """An observer that keeps what the add-on says of itself."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.bounds: list[float] = []

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""
        self.shares.append(report.metrics.get("mutual_information_share", 0.0))
        self.bounds.append(report.metrics.get("mutual_information_bound", 0.0))


def measure(base: RunSettings, data: Dataset) -> dict[str, Any]:
    """Distil once, and train students on the result."""
    started, heard = time.perf_counter(), Listener()
    distilled, s = distil(base, data, heard), base.evaluation
    (row,) = compare(
        [of_set("distilled", distilled, s.training)], data, s, device=open_device(base.device),
        streams=Streams(base.seed).fork("evaluation"),
    ).rows  # fmt: skip
    shares, bounds = heard.shares or [0.0], heard.bounds or [0.0]
    tail = max(len(bounds) // 10, 1)
    return {
        "mean": row.accuracy_mean,
        "std": row.accuracy_std,
        "students": len(row.seeds),
        "share": statistics.fmean(shares),
        "bound_at_first": statistics.fmean(bounds[:tail]),
        "bound_at_last": statistics.fmean(bounds[-tail:]),
        "seconds": round(time.perf_counter() - started, 1),
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: a line for each host and add-on whose pairs are there."""
    lines = [
        "| host | add-on | without | with | gain | standard error | seeds | share of gradient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for host in dict.fromkeys(row["host"] for row in rows):
        own = [row for row in rows if row["host"] == host]
        plain = {row["seed"]: row["mean"] for row in own if row["add_on"] == ""}
        for name in dict.fromkeys(row["add_on"] for row in own if row["add_on"]):
            added = {r["seed"]: r for r in own if r["add_on"] == name and r["seed"] in plain}
            if not added:
                continue
            gains = [added[seed]["mean"] - plain[seed] for seed in added]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
            before = statistics.fmean(plain[seed] for seed in added)
            after = statistics.fmean(row["mean"] for row in added.values())
            share = statistics.fmean(row["share"] for row in added.values())
            lines.append(
                f"| {host} | {name} | {before:.1f} | {after:.1f} | {after - before:+.2f} "
                f"| {'' if error is None else f'{error:.2f}'} | {len(gains)} | {share:.2f} |"
            )
    return "\n".join(lines) + "\n"


def weight(text: str) -> tuple[str, float]:
    """Return host and weight of ``"digits, DM=1.0"``.

    Raises:
        ConfigError: for anything else.
    """
    host, _, value = text.rpartition("=")
    try:
        return host, float(value)
    except ValueError:
        raise ConfigError("cannot read weight", got=repr(text), expected="HOST=WEIGHT") from None


@tool(__doc__)
@click.option("--root", default="~/.cache/hpd/data", help="Folder of Fashion-MNIST.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table.")
@click.option("--steps", type=click.IntRange(0), default=60, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--weight", "weights", multiple=True, help="HOST=WEIGHT, several times.")
@click.option("--form", "forms", multiple=True, default=("infonce",), show_default=True)
@click.option("--host", "names", multiple=True, help="Only hosts whose name holds this.")
@click.option("--test-images", type=click.IntRange(10), default=2000, show_default=True)
def main(out: Path, page: Path | None, **options: Any) -> None:
    """Measure what is missing, and write the table."""
    make_table(out, page, **options)


def make_table(
    out: Path, page: Path | None, *, root: str, steps: int, seeds: int, weights: Sequence[str],
    first_seed: int = 0, forms: Sequence[str] = ("infonce",), names: Sequence[str] = (),
    test_images: int = 2000, say: Callable[[str], None] = click.echo,
) -> None:  # fmt: skip
    """Measure the runs that are missing, and write the table after each; see `main`."""
    table = Table(out, {"steps": steps, "test_images": test_images})
    known, asked = hosts(root), [weight(text) for text in weights]
    unknown = [host for host, _ in asked if host not in known]
    if unknown:
        raise ConfigError(f"no host {unknown[0]!r}", expected=", ".join(known))
    todo: list[tuple[str, str, int, Any]] = []
    for seed in range(first_seed, first_seed + seeds):
        for host, given in known.items():
            if names and not any(name in host for name in names):
                continue
            todo.append((host, "", seed, config_of(given, steps, None)))
            own = [value for name, value in asked if name == host] or [1.0]
            todo += [
                (host, f"{form}, weight {value:g}", seed,
                 config_of(given, steps, {"form": form, "weight": value, "student": STUDENT}))
                for value in own
                for form in forms
            ]  # fmt: skip
    sets: dict[str, Dataset] = {}
    for i, (host, name, seed, config) in enumerate(todo):
        key = {"host": host, "add_on": name, "seed": seed}
        if not table.has(**key):
            say(f"{i + 1}/{len(todo)} {host}, {name or 'alone'}, seed {seed}")
            base, kind = load_config(config, seed=seed), str(config["data"])
            if kind not in sets:
                sets[kind] = some_of(base.data.build(), test_images)
            table.add({**key, **measure(base, sets[kind])})
        if page is not None:
            write_bytes(page, markdown(table.rows).encode())


if __name__ == "__main__":
    main()
