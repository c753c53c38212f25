"""Write what `results.py` measured into pages, and draw the pictures of the table.

    python tools/results_page.py docs/results.json docs/results.md README.md docs/choosing.md ...

In a page, what stands between ``<!-- results: DATA BUDGET -->`` and ``<!-- end -->`` is replaced by
the rows that are measured; between ``<!-- levels: DATA BUDGET -->`` and the end by the levels of
GLaD; between ``<!-- accuracy: CONFIG -->`` and the end by what students of that configuration came
to, of ``<!-- accuracy: CONFIG : random_real -->`` by that of a baseline beside it; of a row of the
table, of ``<!-- accuracy: DATA BUDGET NAME -->``; between ``<!-- again: FILE -->`` and the end by
what `results_again.py` wrote to a file beside the first.
Two pictures are written beside the first page: `results-bits.png`, accuracy against bits, and
`results-minutes.png`, accuracy against minutes of a core, a panel a data set.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from commands import tool
from measured_rows import read_measured
from measured_sets import spread
from results_rows import DATA, HERDING, RANDOM, SAME_BITS, SAMPLES, START, Row, all_rows, rows

from hpd.disk.files import write_bytes
from hpd.evaluation.drawn.plots import as_png, blank_figure

PUBLISHED = {
    ("fashion_mnist", 1, "pixels, regression"): "75.6 FRePo",
    ("fashion_mnist", 10, "pixels, regression"): "86.2 FRePo",
    ("fashion_mnist", 1, "IDC, DM"): "81.0 IDC, by gradients",
    ("fashion_mnist", 10, "IDC, DM"): "86.0 IDC, by gradients",
    ("cifar10", 1, "pixels, DM"): "26.0 DM",
    ("cifar10", 10, "pixels, DM"): "48.9 DM",
    ("cifar10", 1, "pixels, regression"): "46.8 FRePo",
    ("cifar10", 10, "pixels, regression"): "65.5 FRePo",
    ("cifar10", 1, "IDC, DM"): "50.0 IDC, by gradients",
    ("cifar10", 10, "IDC, DM"): "67.5 IDC, by gradients",
    ("cifar10", 1, "HMN, DM"): "65.7 HMN, by gradients",
    ("cifar10", 10, "HMN, DM"): "73.7 HMN, by gradients",
}  # fmt: skip
"""Accuracies in percent on ConvNet-3 of width 128.

DM: Zhao and Bilen, WACV 2023; FRePo: Zhou et al., NeurIPS 2022, labels learnt; IDC: Kim et al.,
ICML 2022; HMN: Zheng et al., ECCV 2024.
"""
BEST = {("fashion_mnist", 1): 84.6, ("fashion_mnist", 10): 89.1,
        ("cifar10", 1): 68.9, ("cifar10", 10): 79.0}  # fmt: skip
"""The highest published at equal storage: FreD (NeurIPS 2023); DATM with quantisation (2024)."""

BESIDE = {
    RANDOM: "random real images",
    SAME_BITS: "random real images, as many bits",
    HERDING: "herding of real images",
    START: "class averages of the prior",
    SAMPLES: "samples of the prior, as many bits",
    "full": "whole set",
}
HEADS = (
    "set", "images a class", "bits", "of labels", "accuracy, %", "sets x students", "min", "GB",
    "published",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A line of a table: what students of a set came to.

    Args:
        name: of the row.
        accuracies: for each set, of its students.
        images: a class.
        bits: of images or latents.
        label_bits: of stored labels.
        needs: whether it needs a generator again.
        minutes: of a core, to distil a set; to find a level, too. None where nothing is distilled.
        peak_bytes: the most memory; None likewise.
        published: what others wrote of it.
    """

    name: str
    accuracies: tuple[tuple[float, ...], ...]
    images: float
    bits: int
    label_bits: int = 0
    needs: bool = False
    minutes: float | None = None
    peak_bytes: float | None = None
    published: str = ""

    @property
    def mean(self) -> float:
        """Of the sets' means."""
        return spread(self.accuracies)["mean"]

    @property
    def std(self) -> float:
        """Between sets, of one set between its students."""
        return spread(self.accuracies)["std"]

    def cells(self) -> list[str]:
        """Return what stands in a table, in the order of `HEADS`."""
        students = "/".join(sorted({str(len(one)) for one in self.accuracies}))
        return [
            self.name, f"{self.images:,.0f}", f"{self.bits:,}",
            f"{self.label_bits:,}" if self.label_bits else "",
            f"{self.mean:.1f} ± {self.std:.1f}", f"{len(self.accuracies)} x {students}",
            "" if self.minutes is None else f"{self.minutes:.1f}",
            "" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.1f}", self.published,
        ]  # fmt: skip


class Measured:
    """What a file of measured sets says of the rows of the table.

    Args:
        sets: of the file.
    """

    def __init__(self, sets: Sequence[Mapping[str, Any]]) -> None:
        self.sets = sets

    def of(self, row: Row) -> list[Mapping[str, Any]]:
        """Return the sets of a row."""
        return [one for one in self.sets if one["config"] == row.line]

    def entries(self, data: str, budget: int) -> list[Entry]:
        """Return the lines of a table: what stands beside it first, of GLaD the best level."""
        own = rows(data, budget)
        return [*self._beside(own), *self._rows(own)]

    def accuracy(self, config: str, name: str = "distilled") -> str:
        """Return mean and deviation of a configuration's sets, or of what stands beside it.

        Args:
            config: as it was measured, or a row of the table as ``DATA BUDGET NAME``.
            name: ``distilled``, or of a baseline.
        """
        if row := re.fullmatch(r"(\w+) (\d+) (.+)", config):
            named = rows(row[1], int(row[2]))
            config = next(one.line for one in named if one.name == row[3])
        own = [one for one in self.sets if one["config"] == config and name in _names(one)]
        if not own:
            return "not measured yet"
        entry = _entry(name, own, name)
        return f"{entry.mean:.1f} ± {entry.std:.1f}"

    def levels(self, data: str, budget: int) -> list[tuple[Row, Entry]]:
        """Return the levels of GLaD that are measured, by objective."""
        own = [row for row in rows(data, budget) if row.level is not None]
        return [(row, _entry(row.name, self.of(row))) for row in own if self.of(row)]

    def _beside(self, own: Sequence[Row]) -> Iterator[Entry]:
        reference = next(row for row in own if row.is_reference)
        # what stands beside one objective of a method stands beside all
        alike = (self.of(row) for row in own if row.method == reference.method)
        sets = next((s for s in alike if any("random_real" in _names(one) for one in s)), [])
        for name, shown in BESIDE.items():
            if any(name in _names(one) for one in sets):
                found = _entry(shown, sets, name)
                yield Entry(shown, found.accuracies, found.images, found.bits, needs=found.needs)

    def _rows(self, own: Sequence[Row]) -> Iterator[Entry]:
        searched = set()
        for row in own:
            key = (row.data, row.budget, row.name)
            if row.level is None and self.of(row):
                yield _entry(row.name, self.of(row), published=PUBLISHED.get(key, ""))
            elif row.level is not None and row.objective not in searched:
                searched.add(row.objective)
                yield from self._best([one for one in own if _same_search(one, row)])

    def _best(self, levels: Sequence[Row]) -> Iterator[Entry]:
        """Yield the best level, with the time that all of them took."""
        found = [(row, self.of(row)) for row in levels]
        if not all(sets for _, sets in found):
            return
        row, sets = max(found, key=lambda one: (len(one[1]), _entry("", one[1]).mean))
        minutes = sum(_entry("", one[:1]).minutes or 0 for _, one in found)
        name = f"GLaD, best level ({row.level}), {row.objective}"
        best = _entry(name, sets)
        yield Entry(
            name, best.accuracies, best.images, best.bits, minutes=minutes,
            peak_bytes=best.peak_bytes,
        )  # fmt: skip


def _same_search(one: Row, other: Row) -> bool:
    return one.level is not None and one.objective == other.objective


def _names(one: Mapping[str, Any]) -> list[str]:
    return [row["name"] for row in one["rows"]]


def _entry(
    shown: str, sets: Sequence[Mapping[str, Any]], name: str = "distilled", published: str = ""
) -> Entry:
    found = [row for one in sets for row in one["rows"] if row["name"] == name]
    stored = found[0]["storage"]
    return Entry(
        shown, tuple(tuple(row["accuracies"]) for row in found), found[0]["images_per_class"],
        stored["images"]["bits"], stored["labels"]["bits"], bool(stored["generator"]["bits"]),
        statistics.fmean(one["cost"]["seconds"] for one in sets) / 60,
        min(one["cost"]["peak_bytes"] or 0 for one in sets), published,
    )  # fmt: skip


def table(entries: Sequence[Entry]) -> str:
    """Return a table; the best row is bold."""
    best = max((one.mean for one in entries if one.minutes is not None), default=None)
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for one in entries:
        cells = one.cells()
        if one.minutes is not None and one.mean == best:
            cells[4] = f"**{cells[4]}**"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def levels_table(found: Sequence[tuple[Row, Entry]]) -> str:
    """Return a table of the levels of GLaD: a row a level, a column an objective."""
    objectives = list(dict.fromkeys(row.objective for row, _ in found))
    lines = [f"| level | {' | '.join(objectives)} |", "|---" * (len(objectives) + 1) + "|"]
    for level in sorted({row.level for row, _ in found if row.level is not None}):
        own = {row.objective: entry for row, entry in found if row.level == level}
        cells = (f"{own[name].mean:.1f}" if name in own else "" for name in objectives)
        lines.append(f"| {level} | {' | '.join(cells)} |")
    return "\n".join(lines)


def again_table(path: Path) -> str:
    """Return a table of rows that were measured again."""
    lines = ["| set | first | again | agree |", "|---|---|---|---|"]
    for row in read_measured(path, "rows")["rows"]:
        cells = [row["name"]]
        for when in ("was", "again"):
            own = spread([row[when]["accuracies"]])
            cells.append(f"{own['mean']:.1f} ± {own['std']:.1f}")
        lines.append(f"| {' | '.join(cells)} | {'yes' if row['agrees'] else 'no'} |")
    return "\n".join(lines)


def fill(page: str, measured: Measured, beside: Path = Path()) -> str:
    """Return a page with its tables replaced by what was measured.

    Args:
        page: the text.
        measured: sets.
        beside: folder of other files.
    """

    def made(match: re.Match[str]) -> str:
        what, data, budget = match[1], match[2], int(match[3])
        levels = what == "levels"
        content = (
            levels_table(measured.levels(data, budget)) if levels
            else table(measured.entries(data, budget))
        )  # fmt: skip
        return f"<!-- {what}: {data} {budget} -->\n\n{content}\n\n<!-- end -->"

    def number(match: re.Match[str]) -> str:
        config, _, name = match[1].partition(" : ")
        found = measured.accuracy(config, name or "distilled")
        return f"<!-- accuracy: {match[1]} -->{found}<!-- end -->"

    def again(match: re.Match[str]) -> str:
        table_ = again_table(beside / match[1])
        return f"<!-- again: {match[1]} -->\n\n{table_}\n\n<!-- end -->"

    page = re.sub(r"<!-- again: (\S+) -->.*?<!-- end -->", again, page, flags=re.DOTALL)
    marks = r"<!-- (results|levels): (\w+) (\d+) -->.*?<!-- end -->"
    page = re.sub(marks, made, page, flags=re.DOTALL)
    return re.sub(r"<!-- accuracy: (.+?) -->.*?<!-- end -->", number, page)


def picture(measured: Measured, of: Callable[[Entry], float | None], label: str) -> bytes:
    """Return a picture of accuracy against something, a panel a data set."""
    panels = [
        (data, budget) for data in DATA for budget in DATA[data].budgets
        if any(one.minutes is not None for one in measured.entries(data, budget))
    ]  # fmt: skip
    datasets = list(dict.fromkeys(data for data, _ in panels))
    figure = blank_figure(6.0 * len(datasets), 5.0)
    for place, data in enumerate(datasets):
        axes = figure.add_subplot(1, len(datasets), place + 1)
        budgets = [budget for name, budget in panels if name == data]
        for budget in budgets:
            of_which = f", {budget} a class" if len(budgets) > 1 else ""
            _draw(axes, measured.entries(data, budget), of, of_which)
            if (data, budget) in BEST:
                text = f"published, {budget} image{'s' if budget > 1 else ''}: "
                axes.axhline(
                    BEST[data, budget], color="grey", ls=":", lw=0.8,
                    label=f"{text}{BEST[data, budget]}",
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set(title=DATA[data].name, xlabel=label, ylabel="accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return as_png(figure)


def _draw(
    axes: Any, entries: Sequence[Entry], of: Callable[[Entry], float | None], of_which: str
) -> None:
    """Draw a point for each line: what is best where it costs no more is named beside it."""
    known = [(x, one) for one in entries if (x := of(one)) is not None and x > 0]
    unbeaten: list[Entry] = []
    for _, one in sorted(known, key=lambda pair: (pair[0], -pair[1].mean)):
        if not unbeaten or one.mean > unbeaten[-1].mean:
            unbeaten.append(one)
    for x, one in known:
        best = one in unbeaten
        axes.errorbar(
            x, one.mean, one.std, marker="o", capsize=2, alpha=1.0 if best else 0.4,
            mfc="none" if one.needs else None, color=None if best else "grey",
            label=f"{one.name}{of_which}" if best else None,
        )  # fmt: skip


@tool(__doc__)
@click.argument("results", type=click.Path(exists=True, path_type=Path))
@click.argument("pages", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
def main(results: Path, pages: tuple[Path, ...]) -> None:
    """Fill in the pages, and draw the pictures beside the first."""
    measured = Measured(read_measured(results, "sets")["sets"])
    for page in pages:
        filled = fill(page.read_text(encoding="utf-8"), measured, results.parent)
        write_bytes(page, filled.encode())
    if not any(measured.of(row) for row in all_rows()):
        return
    bits = picture(
        measured, lambda one: one.bits + one.label_bits, "bits (hollow: and a generator)"
    )
    write_bytes(pages[0].with_name("results-bits.png"), bits)
    minutes = picture(measured, lambda one: one.minutes, "minutes of a core to distil")
    write_bytes(pages[0].with_name("results-minutes.png"), minutes)


if __name__ == "__main__":
    main()
