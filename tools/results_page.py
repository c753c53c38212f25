"""Write the tables of `results.py` into a page, and draw its pictures.

    python tools/results_page.py docs/results.json docs/results.md

In the page, what stands between ``<!-- results: NAME -->`` and ``<!-- end -->`` is replaced by the
table of that name: a data set (``fashion_mnist``) or its levels (``fashion_mnist levels``). Beside
it two pictures are written: `results-floats.png`, accuracy against stored floats, and
`results-levels.png`, accuracy by the level of GLaD, for all data sets that were measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from commands import tool
from measured_rows import read_measured
from results_rows import ACROSS, BASES, Rows, best_of, firsts, is_level, levels

from hpd.evaluation.plots import as_png, blank_figure
from hpd.files import write_bytes

TITLES = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "digits": "digits"}

PUBLISHED = {
    ("fashion_mnist", 1, "pixel, DC"): "70.5",
    ("fashion_mnist", 10, "pixel, DC"): "82.3",
    ("cifar10", 1, "pixel, DC"): "28.3",
    ("cifar10", 10, "pixel, DC"): "44.9",
    ("cifar10", 1, "pixel, DM"): "26.0",
    ("cifar10", 10, "pixel, DM"): "48.9",
    ("cifar10", 1, "pixel, MTT"): "46.3",
    ("cifar10", 10, "pixel, MTT"): "65.3",
    ("cifar10", 1, "IDC, DM"): "50.0 (DC)",
    ("cifar10", 10, "IDC, DM"): "67.5 (DC)",
    ("cifar10", 1, "HMN, own decoder, DM"): "65.7 (DC)",
    ("cifar10", 10, "HMN, own decoder, DM"): "73.7 (DC)",
}
"""Accuracies in percent on ConvNet-3 of width 128.

DC: Zhao et al., ICLR 2021; DM: Zhao and Bilen, WACV 2023; MTT: Cazenavette et al., CVPR 2022; IDC:
Kim et al., ICML 2022; HMN: Zheng et al., ECCV 2024. IDC and HMN match gradients.
"""


def table(rows: Rows, dataset: str) -> str:
    """Return the table of a data set: a line per method and budget, of GLaD its best level."""
    lines = [
        "| method | budget | images a class | floats | ConvNet-3 | across architectures "
        "| published | sets x students | seconds | GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for first in shown(rows, dataset):
        across = partner(rows, first, ACROSS)
        key = (dataset, first["images_per_class"], first["method"])
        sets = len(first["seeds"])
        lines.append(
            f"| {first['method']} | {first['images_per_class']} "
            f"| {first['made_images_per_class']:g} | {first['stored_floats']:,} "
            f"| {accuracy(first)} | {accuracy(across)} | {PUBLISHED.get(key, '')} "
            f"| {sets} x {first['students'] // sets} | {number(first['seconds'], 1)} "
            f"| {number(first['peak_bytes'], 1e9)} |"
        )
    return "\n".join(lines)


def levels_table(rows: Rows, dataset: str) -> str:
    """Return the accuracies of each level of GLaD: a line per level, a column per budget."""
    found = levels(rows, dataset)
    budgets = sorted({row["images_per_class"] for row in found})
    names = dict.fromkeys(row["method"] for row in found)
    lines = ["| level | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name in names:
        own = {row["images_per_class"]: row for row in found if row["method"] == name}
        cells = " | ".join(accuracy(own.get(budget)) for budget in budgets)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def shown(rows: Rows, dataset: str) -> list[Mapping[str, Any]]:
    """Return the rows of the first network, of GLaD only the best level of each budget."""
    own = firsts(rows, dataset)
    budgets = dict.fromkeys(row["images_per_class"] for row in own)
    best = [best_of(row for row in levels(rows, dataset) if row["images_per_class"] == budget)
            for budget in budgets]  # fmt: skip
    return [row for row in own if not is_level(row["method"]) or row in best]


def partner(rows: Rows, row: Mapping[str, Any], network: str) -> Mapping[str, Any] | None:
    """Return the row of the same set and another network, if it was measured."""
    same = ("dataset", "images_per_class", "method")
    wanted = {**{key: row[key] for key in same}, "network": network}
    return next((r for r in rows if all(r[key] == value for key, value in wanted.items())), None)


def accuracy(row: Mapping[str, Any] | None) -> str:
    """Return mean and deviation as text; of a single student there is no deviation."""
    if row is None:
        return ""
    deviation = f" ± {row['accuracy_std']:.1f}" if row["students"] > 1 else ""
    return f"{row['accuracy_mean']:.1f}{deviation}"


def number(value: float | None, unit: float) -> str:
    """Return a value in a unit, short."""
    return (
        ""
        if value is None
        else f"{value / unit:.2g}"
        if value < unit * 10
        else f"{value / unit:.0f}"
    )


def floats_png(rows: Rows) -> bytes:
    """Return a picture of accuracy against stored floats, a panel per data set."""
    datasets = measured(rows)
    figure = blank_figure(4.5 * len(datasets) + 2.5, 4.5)
    # the same in every panel, and named once beside them
    styles: dict[str, int] = {}
    handles: dict[str, Any] = {}
    for place, dataset in enumerate(datasets):
        axes = figure.add_subplot(1, len(datasets), place + 1)
        own = shown(rows, dataset)
        # a line per method, whatever its best level is called
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for row in own:
            name = "GLaD, best level, DM" if is_level(row["method"]) else row["method"]
            lines.setdefault(name, []).append(row)
        for name, points in lines.items():
            i = styles.setdefault(name, len(styles))
            handles[name] = axes.errorbar(
                [p["stored_floats"] for p in points], [p["accuracy_mean"] for p in points],
                [p["accuracy_std"] for p in points], label=name, capsize=2,
                color=f"C{i % 10}", marker="os^"[i // 10 % 3], linestyle="-" if i < 10 else "--",
            )  # fmt: skip
        # those of the images themselves; what is stored in another way comes a little below
        budgets: dict[int, int] = {}
        for row in own:
            images = row["images_per_class"]
            budgets[images] = max(budgets.get(images, 0), row["stored_floats"])
        floats = sorted(budgets.values())
        axes.set_xscale("log")
        axes.set_xticks(floats, [f"{value:,}" for value in floats])
        axes.minorticks_off()
        axes.set_xlim(floats[0] / 1.5, 1.5 * floats[-1])
        axes.set_title(TITLES[dataset])
        axes.set_xlabel("stored floats")
        axes.set_ylabel("accuracy %, mean and deviation")
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    return as_png(figure)


def levels_png(rows: Rows) -> bytes:
    """Return a picture of accuracy by level, with H-PD as a line across, for each data set."""
    datasets = [name for name in measured(rows) if levels(rows, name)]
    figure = blank_figure(5.5 * len(datasets), 4.5)
    for place, dataset in enumerate(datasets):
        axes = figure.add_subplot(1, len(datasets), place + 1)
        found = levels(rows, dataset)
        for i, budget in enumerate(sorted({r["images_per_class"] for r in found})):
            own = [r for r in found if r["images_per_class"] == budget]
            colour, plural = f"C{i}", "" if budget == 1 else "s"
            axes.errorbar(
                range(len(own)), [r["accuracy_mean"] for r in own],
                [r["accuracy_sem"] for r in own], color=colour, marker="o", capsize=3,
                label=f"one level, {budget} image{plural}",
            )  # fmt: skip
            for name, style in (("H-PD, DM", "--"), ("prior alone", ":")):
                row = partner(rows, {**own[0], "method": name}, own[0]["network"])
                if row is not None:
                    label = f"{name}, {budget} image{plural}"
                    axes.axhline(row["accuracy_mean"], color=colour, linestyle=style, label=label)
        names = [re.sub(r".*\((.*)\).*", r"\1", r["method"]) for r in found]
        names = list(dict.fromkeys(names))
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        axes.set_title(TITLES[dataset])
        axes.set_ylabel("accuracy %, mean and standard error")
        axes.legend(fontsize=6)
    return as_png(figure)


def measured(rows: Rows) -> list[str]:
    """Return the data sets that have rows, in the order of the table."""
    return [name for name in BASES if any(row["dataset"] == name for row in rows)]


def fill(page: str, rows: Rows) -> str:
    """Return a page with its tables replaced by those of `rows`."""

    def made(match: re.Match[str]) -> str:
        dataset, _, what = match[1].partition(" ")
        content = levels_table(rows, dataset) if what == "levels" else table(rows, dataset)
        return f"<!-- results: {match[1]} -->\n\n{content}\n\n<!-- end -->"

    return re.sub(r"<!-- results: ([\w ]+) -->.*?<!-- end -->", made, page, flags=re.DOTALL)


@tool(__doc__)
@click.argument("results", type=click.Path(exists=True, path_type=Path))
@click.argument("page", type=click.Path(exists=True, path_type=Path))
def main(results: Path, page: Path) -> None:
    """Fill in the page, and draw the pictures beside it."""
    rows = read_measured(results, "rows")["rows"]
    write_bytes(page, fill(page.read_text(), rows).encode())
    write_bytes(page.with_name("results-floats.png"), floats_png(rows))
    write_bytes(page.with_name("results-levels.png"), levels_png(rows))


if __name__ == "__main__":
    main()
