"""Measure how a run grows: with classes, images a class, sides, real images and processes.

    OMP_NUM_THREADS=1 nice python tools/bench_scale.py --page docs/scale.md

From a base point one axis at a time is gone along. At each point a start, a step, a checkpoint and
an evaluation are timed and weighed, in processes of their own; see `scale_point.py`. What is
measured is kept, and another start goes on. The page gets tables, and pictures beside it: both axes
logarithmic, with the slope of each line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from commands import tool
from measured_rows import Table
from scale_point import REAL_BATCH, STEPS, WIDTH, Point

from hpd.disk.files import write_bytes
from hpd.errors import RunError
from hpd.evaluation.drawn.plots import as_png, blank_figure

AXES: dict[str, tuple[int, ...]] = {
    "classes": (10, 100, 1000), "images": (1, 10, 50), "side": (32, 64, 128, 256),
    "rows": (1000, 10_000, 100_000, 1_000_000), "ranks": (1, 2, 4),
}  # fmt: skip
BASES = {"pixels": Point(), "levels": Point(work="levels")}
# of each kind of run, the axes along which it is measured
ALONG = {"pixels": tuple(AXES), "levels": ("classes", "images", "side")}
OPERATIONS = ("start", "step", "checkpoint", "evaluation")
CAPTIONS = {
    "classes": "classes", "images": "images a class", "side": "side in pixels",
    "rows": "real images", "ranks": "processes",
}  # fmt: skip
# times below this are noise, and so is memory below that: no line goes through them
LEAST = {"seconds": 0.003, "bytes": 1 << 20}
_MEBIBYTE = 1 << 20
# freed memory is given back at once, so that what is left is in use
_RETURNED = {
    "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0",
}  # fmt: skip
START, END = "<!-- growth -->\n", "<!-- end of growth -->\n"


def points(work: str) -> list[Point]:
    """Return the points of a kind of run, the base first, each once."""
    found = [BASES[work]]
    for axis in ALONG[work]:
        found += [replace(BASES[work], **{axis: value}) for value in AXES[axis]]
    return list(dict.fromkeys(found))


def along(rows: Sequence[Mapping[str, Any]], work: str, axis: str) -> list[Mapping[str, Any]]:
    """Return the measured points of an axis, in its order."""
    base = asdict(BASES[work])
    wanted = [base | {axis: value} for value in AXES[axis]]
    by_point = {json.dumps(row["point"], sort_keys=True): row for row in rows}
    keys = [json.dumps(point, sort_keys=True) for point in wanted]
    return [by_point[key] for key in keys if key in by_point]


def slope(line: Sequence[tuple[float, float]], least: float = 0.0) -> float | None:
    """Return the slope of a line in logarithms, by least squares; None of fewer than two points.

    Args:
        line: pairs (x, y).
        least: the y from which a point counts.

    >>> round(slope([(1, 2), (10, 200), (100, 20000)]), 3)
    2.0
    """
    kept = [(x, y) for x, y in line if y >= max(least, 1e-12)]
    if len(kept) < 2:
        return None
    x, y = np.log(np.array(kept, dtype=float)).T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def measure(point: Point, folder: Path) -> dict[str, Any]:
    """Return what a point takes: times by one process, memory by another; of ranks the largest."""
    found: dict[str, Any] = {"point": asdict(point)}
    started = time.monotonic()
    for memory in (False, True):
        results = _run(point, folder, memory=memory)
        kind = "bytes" if memory else "seconds"
        names = dict.fromkeys(name for one in results for name in one[kind])
        found[kind] = {
            name: max(one[kind][name] for one in results if name in one[kind]) for name in names
        }
        if memory:
            found["fixed_bytes"] = max(one["fixed_bytes"] for one in results)
            found["state_bytes"] = max(one["state_bytes"] for one in results)
    return found | {"wall_seconds": round(time.monotonic() - started, 1)}


def _run(point: Point, folder: Path, *, memory: bool) -> list[Any]:
    """Return what each rank of a point found."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        asked, result = Path(name) / "point.json", Path(name) / "result.json"
        content = {"point": asdict(point), "folder": str(folder), "memory": memory}
        asked.write_text(json.dumps(content), encoding="utf-8")
        script = str(Path(__file__).with_name("scale_point.py"))
        command = [sys.executable, script, str(asked), str(result)]
        if point.ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
            command[1:1] = [*launcher, str(point.ranks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(_RETURNED if memory else {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RunError(f"{point} failed", got=lines[-1] if lines else done.returncode)
        files = sorted(Path(name).glob("result.*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def line_of(
    rows: Sequence[Mapping[str, Any]], axis: str, kind: str, name: str
) -> list[tuple[float, float]]:
    """Return the points of a line: seconds or bytes of an operation, or of the stored state."""
    own = [row for row in rows if name == "state" or name in row[kind]]
    return [
        (row["point"][axis], row["state_bytes"] if name == "state" else row[kind][name])
        for row in own
    ]


def table(rows: Sequence[Mapping[str, Any]], axis: str) -> list[str]:
    """Return the lines of a table: a row a point, and the slopes under them."""
    columns = [
        (f"{name}, {unit}", kind, name)
        for kind, unit in (("seconds", "s"), ("bytes", "MB"))
        for name in OPERATIONS
        if any(name in row[kind] for row in rows)
    ]
    columns.append(("checkpoint's file, MB", "bytes", "state"))
    lines = [f"| {CAPTIONS[axis]} | {' | '.join(head for head, _, _ in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        cells = [_cell(row, kind, name) for _, kind, name in columns]
        lines.append(f"| {row['point'][axis]:,} | {' | '.join(cells)} |")
    slopes = [
        slope(line_of(rows, axis, kind, name), 0.0 if name == "state" else LEAST[kind])
        for _, kind, name in columns
    ]
    shown = ["" if value is None else f"{value:.2f}" for value in slopes]
    return [*lines, f"| slope | {' | '.join(shown)} |"]


def _cell(row: Mapping[str, Any], kind: str, name: str) -> str:
    """Return a number of a table, short."""
    value = row["state_bytes"] if name == "state" else row[kind].get(name)
    if value is None:
        return ""
    if kind == "seconds" and value < LEAST[kind]:
        return f"< {LEAST[kind]}"
    value = value if kind == "seconds" else max(value, 0) / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def picture(rows: Sequence[Mapping[str, Any]], work: str) -> bytes:
    """Return the PNG of all lines of a kind of run."""
    axes = ALONG[work]
    figure = blank_figure(3.1 * len(axes), 5.6)
    plots = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        own = along(rows, work, axis)
        for place, kind in enumerate(LEAST):
            _draw(plots[place][column], own, axis, kind)
    plots[0][0].set_ylabel("seconds of a processor")
    plots[1][0].set_ylabel("MB above the fixed part")
    return as_png(figure)


def _draw(plot: Any, rows: Sequence[Mapping[str, Any]], axis: str, kind: str) -> None:
    """Draw the lines of an axis: seconds, or bytes with the stored state beside them."""
    unit = 1e6 if kind == "bytes" else 1.0
    for name in (*OPERATIONS, *(("state",) if kind == "bytes" else ())):
        line = [(x, y) for x, y in line_of(rows, axis, kind, name) if y >= LEAST[kind] / 10]
        fitted = slope(line, LEAST[kind])
        label = name if fitted is None else f"{name} {fitted:.2f}"
        at, values = [x for x, _ in line], [y / unit for _, y in line]
        plot.plot(at, values, "--" if name == "state" else "-", marker="o", ms=3, label=label)
    plot.set(xscale="log", yscale="log", xlabel=CAPTIONS[axis])
    plot.set_xticks(AXES[axis], [f"{value:,}" for value in AXES[axis]], fontsize=7)
    plot.minorticks_off()
    plot.grid(alpha=0.3)
    plot.legend(fontsize=7)


def text(rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]) -> str:
    """Return the part of a page that tells what was measured."""
    fixed = [row["fixed_bytes"] for row in rows]
    lines = [
        f"A step takes {REAL_BATCH} real images of each class of it, through a ConvNet-3 of width"
        f" {WIDTH}; runs have {STEPS} steps. The fixed part is {min(fixed) / 1e6:.0f} to"
        f" {max(fixed) / 1e6:.0f} MB a process.", "",
    ]  # fmt: skip
    for work, name in pictures.items():
        lines += [f"### {work.capitalize()}", "", f"![growth of a run on {work}]({name})", ""]
        for axis in ALONG[work]:
            own = along(rows, work, axis)
            if len(own) > 1:
                lines += [*table(own, axis), ""]
    return "\n".join(lines)


def write_page(page: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the tables between the marks of a page, and the pictures beside it.

    Raises:
        RunError: if the page has no marks.
    """
    content = page.read_text(encoding="utf-8")
    if START not in content or END not in content:
        raise RunError(f"{page} has no place for the tables", expected=f"{START}{END}".strip())
    names = {work: f"{page.stem}-{work}.png" for work in BASES}
    for work, name in names.items():
        write_bytes(page.with_name(name), picture(rows, work))
    before, after = content.split(START)[0], content.split(END)[1]
    write_bytes(page, f"{before}{START}\n{text(rows, names)}{END}{after}".encode())


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("docs/scale.json"),
              show_default=True, help="Keeps what is measured.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path), help="Gets the tables and pictures.")
@click.option("--work", "works", type=click.Choice([*BASES]), multiple=True, default=[*BASES])
@click.option("--minutes", type=float, help="Begin no point after so long.")
@click.option("--folder", type=click.Path(path_type=Path), help="For random rows. [a temporary]")
def main(
    path: Path, page: Path | None, works: Sequence[str], minutes: float | None, folder: Path | None
) -> None:
    """Measure what is not measured yet."""
    settings = {"steps": STEPS, "width": WIDTH, "real_batch": REAL_BATCH}
    measured, started = Table(path, settings), time.monotonic()
    where = Path(tempfile.mkdtemp() if folder is None else folder)
    where.mkdir(parents=True, exist_ok=True)
    try:
        for point in [point for work in works for point in points(work)]:
            late = minutes is not None and time.monotonic() - started > 60 * minutes
            if late or measured.has(point=asdict(point)):
                continue
            measured.add(measure(point, where))
            row = measured.rows[-1]
            click.echo(f"{row['wall_seconds']:6.0f} s  {point}")
    finally:
        if folder is None:
            shutil.rmtree(where, ignore_errors=True)
    if page is not None:
        write_page(page, measured.rows)


if __name__ == "__main__":
    main()
