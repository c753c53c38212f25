"""Measure rows of the results table again, drawn by a seed: do they come out as they did?

    python tools/results_again.py docs/results.json --data FOLDER --runs runs/again \\
        --out docs/results-again.json --draw 7

Of the rows that several sets were measured of, some are drawn. The first set of each is distilled
and judged anew from its configuration, in a run folder of its own. A row agrees where the means of
students differ by no more than students of one of the two sets do (their standard deviation).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from commands import tool
from measured_rows import read_measured
from measured_sets import Wanted
from results import ensure_teacher, in_a_process
from results_rows import DATA, Row, all_rows

from hpd.disk.files import write_json
from hpd.errors import ConfigError


def drawn(sets: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Row]:
    """Return rows of the table, of which several sets are measured, drawn by a seed.

    Raises:
        ConfigError: if there are not so many.
    """
    lines = [one["config"] for one in sets]
    known = [row for row in all_rows() if lines.count(row.line) > 1]
    if len(known) < count:
        raise ConfigError("not so many rows have several sets", got=count, expected=len(known))
    chosen = np.random.default_rng(seed).choice(len(known), count, replace=False)
    return [known[index] for index in sorted(chosen.tolist())]


def compared(was: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """Return what students of a set came to before and now, and whether that agrees."""
    before, now = (_students(one) for one in (was, again))
    gap = abs(statistics.fmean(before) - statistics.fmean(now))
    one = max(statistics.stdev(before), statistics.stdev(now))
    return {
        "config": was["config"], "seed": was["seed"],
        "was": {"accuracies": before}, "again": {"accuracies": now},
        "gap": round(gap, 2), "deviation": round(one, 2), "agrees": gap <= one,
    }  # fmt: skip


def _students(one: Mapping[str, Any]) -> list[float]:
    return next(row["accuracies"] for row in one["rows"] if row["name"] == "distilled")


@tool(__doc__)
@click.argument("results", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, help="Folder of the data sets, in torchvision's layout.")
@click.option(
    "--runs", type=click.Path(path_type=Path), required=True, help="Folder of the run folders."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--count", type=click.IntRange(1), default=2, show_default=True)
@click.option("--draw", type=int, default=0, show_default=True, help="Seed of the draw.")
def main(results: Path, data: str, runs: Path, out: Path, count: int, draw: int) -> None:
    """Draw rows, measure the first set of each again, and say what came out."""
    sets = read_measured(results, "sets")["sets"]
    found = []
    for row in drawn(sets, count, draw):
        was = min((one for one in sets if one["config"] == row.line), key=lambda one: one["seed"])
        place = str(Path(data, DATA[row.data].folder))
        wanted = Wanted(row.line, was["seed"], len(_students(was)), place)
        ensure_teacher(wanted.settings())
        found.append({"name": row.name, **compared(was, in_a_process(wanted, runs, False))})
        write_json(out, {"draw": draw, "rows": found})
        click.echo(json.dumps(found[-1]))


if __name__ == "__main__":
    main()
