"""Measure the recipes for photographs: what each costs on one core, and what it gives.

    python tools/measure_recipes.py PHOTOS --out docs/recipes.json --page docs/own-photographs.md

PHOTOS is a folder with a subfolder a class, below train and test. Each recipe is a bundled
configuration with what it changes. It is distilled and evaluated in a process of its own, with one
thread. Minutes are processor time, so that other work on the machine hardly shows. The file is
written after each recipe, and the same command goes on after the last one.

The generator of one's own is the one that the page trains: its code is taken from there.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_rows import Table

import hpd
from hpd.disk.files import write_bytes
from hpd.errors import RunError
from hpd.machine.memory import as_text, peak_bytes

START, END = "<!-- recipes -->\n", "<!-- end of recipes -->\n"
COLUMNS = ("distilled", "initial", "random_real", "random_real_floats", "full")


@dataclass(frozen=True)
class Recipe:
    """A way to distil photographs.

    Args:
        name: what it is.
        side: of the pictures, in pixels.
        changes: ``"key=value"``, to the configuration for pictures of that size.
        code: of a generator, which is trained first; see `page_code`.
    """

    name: str
    side: int
    changes: tuple[str, ...]
    code: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others."""
        return {"name": self.name, "side": self.side, "changes": list(self.changes)}


def tiles(count: int, steps: int, side: int) -> Recipe:
    """Return the recipe of four images in the floats of one, without a generator."""
    changes = [f"source.of.images_per_class={count}", f"source.of.steps={steps}"]
    return Recipe(f"tiles in the floats of {count}, {steps} steps", side, tuple(changes))


def levels(classes: str) -> Recipe:
    """Return the recipe of H-PD: one image a class, level by level of a bundled generator."""
    source = f"source={{kind: gan, generator: cifar32, steps: 30, generator_classes: {classes}}}"
    return Recipe("H-PD with cifar32", 32, (source,))


def own_levels(code: str, side: int) -> Recipe:
    """Return the recipe of H-PD with a generator of one's own."""
    source = "source={kind: gan, generator: mine, steps: 30}"
    return Recipe("H-PD with a generator of one's own", side, (source,), code)


def page_code(page: Path, name: str) -> str:
    """Return the code that a page names.

    Raises:
        RunError: if it has none of that name.
    """
    block = re.search(rf'^```python title="{name}"\n(.*?)^```', page.read_text(), re.S | re.M)
    if block is None:
        raise RunError(f"{page} has no code {name!r}")
    return block[1]


def recipes(classes: str | None, code: str | None) -> list[Recipe]:
    """Return all, the quick ones first.

    Args:
        classes: of `cifar32`, for those of the photographs; without them it is left out.
        code: of a generator of one's own; None: without it.
    """
    few, many = ((1, 60), (1, 300)), (10, 100)
    found = [tiles(count, steps, side) for count, steps in few for side in (32, 64, 128)]
    found += [] if classes is None else [levels(classes)]
    found += [] if code is None else [own_levels(code, side) for side in (64, 128)]
    return [*found, *(tiles(*many, side) for side in (32, 64))]


def measure(recipe: Recipe, photos: str) -> dict[str, Any]:
    """Distil and evaluate; return what it cost and gave."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trained = {} if recipe.code is None else _train(recipe, photos, Path(folder))
        began = time.process_time()
        run = hpd.distill(
            f"photos{recipe.side}", f"data.root={photos}", *recipe.changes,
            out=Path(folder) / "run",
        )  # fmt: skip
        distilled = time.process_time()
        evaluation = hpd.evaluate(run)
        evaluated = time.process_time()
    return {
        **recipe.key,
        **trained,
        "distil_minutes": round((distilled - began) / 60, 2),
        "evaluate_minutes": round((evaluated - distilled) / 60, 2),
        "peak_bytes": peak_bytes(torch.device("cpu")),
        "rows": {
            row.name: {
                "images_per_class": row.images_per_class,
                "mean": round(row.accuracy_mean, 2),
                "std": round(row.accuracy_std, 2),
            }
            for row in evaluation.rows
        },
    }


def _train(recipe: Recipe, photos: str, folder: Path) -> dict[str, float]:
    """Train a generator as the page says it, register it, and return what that took."""
    (folder / "my_generator.py").write_text(recipe.code or "")
    command = [sys.executable, "my_generator.py", photos, str(recipe.side)]
    subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    # the code reads its weights from beside it
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    importlib.import_module("my_generator")
    return {"train_minutes": round((spent.ru_utime + spent.ru_stime) / 60, 2)}


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of what was measured, by size of pictures."""
    lines = [
        "| px | recipe | minutes to distil | to evaluate | memory | distilled | its start |"
        " as many real images | as many floats | whole set |",
        "|" + "---|" * 10,
    ]
    for row in sorted(rows, key=lambda row: row["side"]):
        cells = [_accuracy(row["rows"].get(name)) for name in COLUMNS]
        trained = f" (trained in {row['train_minutes']:.1f})" if "train_minutes" in row else ""
        lines.append(
            f"| {row['side']} | {row['name']}{trained} | {row['distil_minutes']:.1f} |"
            f" {row['evaluate_minutes']:.1f} | {as_text(row['peak_bytes'])} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _accuracy(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.1f} ± {row['std']:.1f} ({row['images_per_class']:g})"


@tool(__doc__)
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--page", "page_path", type=click.Path(path_type=Path), help="Gets the table.")
@click.option("--classes", help="Of cifar32, as source.generator_classes takes them.")
@click.option("--minutes", type=float, help="Begin no recipe after so many.")
def main(
    photos: str, out: Path, page_path: Path | None, classes: str | None, minutes: float | None
) -> None:
    """Measure what is missing, and write the table."""
    began = time.monotonic()
    table = Table(out, {"seed": 0})
    code = None if page_path is None else page_code(page_path, "my_generator.py")
    for recipe in recipes(classes, code):
        if table.has(**recipe.key):
            continue
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            break
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (recipe, str(Path(photos).resolve())))
        table.add(row)
        click.echo(f"{recipe.side} px, {recipe.name}: {_accuracy(row['rows']['distilled'])}")
    if page_path is not None:
        write_page(page_path, page(table.rows))


def write_page(path: Path, text: str) -> None:
    """Put the table between its marks.

    Raises:
        RunError: if the page has no marks.
    """
    whole = path.read_text()
    if not (START in whole and END in whole):
        raise RunError(f"{path} has no place for the table", fix=f"Add {START}{END}")
    before, rest = whole.split(START)
    write_bytes(path, (before + START + text + END + rest.split(END)[1]).encode())


if __name__ == "__main__":
    main()
