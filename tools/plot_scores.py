"""Picture what a run's selection said while it went on.

    python tools/plot_scores.py runs/cifar10-hmn-0 --out scores.png

The scores of `metrics.jsonl` against the minutes spent on steps; that of `validation` is shown as
the accuracy on the images that it held out, in percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from commands import tool

from hpd.artifacts.run_folder import CONFIG, METRICS
from hpd.config import load_config
from hpd.disk.files import write_bytes
from hpd.engine.selection.validation import ValidationSettings
from hpd.errors import RunError
from hpd.evaluation.drawn.plots import as_png, blank_figure


def read_curve(lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (minutes of steps before it, score) of every score.

    >>> read_curve([{"score": 0.5, "seconds": 60.0}, {"score": None, "seconds": 30.0}])
    [(0.0, 0.5)]
    """
    curve, seconds = [], 0.0
    for line in lines:
        if line["score"] is not None:
            curve.append((seconds / 60, float(line["score"])))
        seconds += float(line["seconds"])
    return curve


def picture(run: Path) -> bytes:
    """Return the PNG of a run.

    Raises:
        RunError: if its metrics cannot be read, or its selection scored nothing.
    """
    path = run / METRICS
    try:
        curve = read_curve([json.loads(line) for line in path.read_text().splitlines()])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {path}", got=error) from None
    if not curve:
        raise RunError(f"{run} has no scores", fix="Give it a selection other than last.")
    validated = isinstance(load_config(str(run / CONFIG)).selection, ValidationSettings)
    figure = blank_figure(6, 3.4)
    axes = figure.subplots()
    minutes = [at for at, _ in curve]
    axes.plot(minutes, [100 * (1 - s) if validated else s for _, s in curve], marker="o")
    axes.set_xlabel("minutes of steps")
    axes.set_ylabel("accuracy on held-out images, %" if validated else "score")
    axes.grid(alpha=0.3)
    return as_png(figure)


@tool(__doc__)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG.")
def main(run: Path, out: Path) -> None:
    """Write the picture."""
    write_bytes(out, picture(run))


if __name__ == "__main__":
    main()
