"""Many evaluations side by side: grouped by all but the seed, as lines, Markdown and a picture."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any

from hpd.evaluation.plots import as_png, blank_figure
from hpd.evaluation.rows import Row
from hpd.storage import Amount, Storage

# what two runs of one group may differ in
_FREE = ("seed", "device", "description", "format", "checkpoint_every", "evaluation")


@dataclass(frozen=True)
class Result:
    """One evaluated run.

    Args:
        name: of its folder.
        config: its configuration.
        protocol: the settings of its evaluation.
        rows: the table of its evaluation.
    """

    name: str
    config: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def group(self) -> str:
        """What runs of one group share, as text."""
        options = {key: value for key, value in self.config.items() if key not in _FREE}
        return json.dumps([options, dict(self.protocol)], sort_keys=True)


@dataclass(frozen=True)
class Line:
    """One set of one group of runs, as one kind of student sees it.

    Args:
        run: name of the group: that of its first folder, less the seed.
        folders: name of each run.
        seeds: of the distillations.
        set: name of the row; see `Row`.
        network: kind of student.
        images_per_class: mean number of images in a class.
        storage: what the set keeps, mean over runs, rounded.
        labels: see `Row`.
        accuracy_mean: percent, mean over runs of their means over students.
        students_std: deviation over students, in points, root of the mean square over runs.
        seeds_std: sample deviation over runs of their means; None for one run.
        sem: standard error of the mean: over runs if there are several, else over students; None
            for a single student.
        students: students in all.
        scores: HLR, IOR, LRS and ARS by their names in `Row`, mean over runs, of those that all
            runs have.
    """

    run: str
    folders: list[str]
    seeds: list[int]
    set: str
    network: str
    images_per_class: float
    storage: Storage
    labels: str
    accuracy_mean: float
    students_std: float
    seeds_std: float | None
    sem: float | None
    students: int
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """The deviation to show: over seeds of the distillation, or over students for one run."""
        return self.students_std if self.seeds_std is None else self.seeds_std


def summarise(results: Sequence[Result]) -> list[Line]:
    """Turn evaluations into lines: runs that differ only by their seed are one group.

    Groups come in the order of their first run, lines in the order of its rows.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    names = _names([members[0] for members in groups.values()])
    lines = []
    for name, members in zip(names, groups.values(), strict=True):
        for key in dict.fromkeys((row.name, row.network) for row in members[0].rows):
            rows = [
                [row for row in member.rows if (row.name, row.network) == key] for member in members
            ]
            present = [(m, own[0]) for m, own in zip(members, rows, strict=True) if own]
            lines.append(_line(name, [m for m, _ in present], [row for _, row in present]))
    return lines


def _names(firsts: Sequence[Result]) -> list[str]:
    """Name groups by their first folder, without the seed at its end; equal ones get a number."""
    names: list[str] = []
    for result in firsts:
        seed = re.escape(str(result.config.get("seed", "")))
        name = re.sub(rf"[-_](seed)?{seed}$", "", result.name)
        taken = sum(re.fullmatch(rf"{re.escape(name)}( \(\d+\))?", n) is not None for n in names)
        names.append(f"{name} ({taken + 1})" if taken else name)
    return names


def _line(name: str, members: Sequence[Result], rows: Sequence[Row]) -> Line:
    means = [row.accuracy_mean for row in rows]
    students = sum(len(row.seeds) for row in rows)
    within = statistics.fmean(row.accuracy_std**2 for row in rows) ** 0.5
    between = statistics.stdev(means) if len(means) > 1 else None
    sem = within / students**0.5 if students > 1 else None
    if between is not None:
        sem = between / len(means) ** 0.5
    return Line(
        run=name,
        folders=[member.name for member in members],
        seeds=[int(member.config.get("seed", 0)) for member in members],
        set=rows[0].name,
        network=rows[0].network,
        images_per_class=rows[0].images_per_class,
        storage=_mean_storage([row.storage for row in rows]),
        labels=rows[0].labels,
        accuracy_mean=round(statistics.fmean(means), 4),
        students_std=round(within, 4),
        seeds_std=None if between is None else round(between, 4),
        sem=None if sem is None else round(sem, 4),
        students=students,
        scores=_mean_scores(rows),
    )


def _mean_storage(parts: Sequence[Storage]) -> Storage:
    def mean(of: Sequence[Amount]) -> Amount:
        floats, bits = (
            round(statistics.fmean(values)) for values in zip(*map(astuple, of), strict=True)
        )
        return Amount(floats, bits)

    return Storage(*(mean([getattr(p, f.name) for p in parts]) for f in fields(Storage)))


def _mean_scores(rows: Sequence[Row]) -> dict[str, float]:
    found = {name: [getattr(row, name) for row in rows] for name in ("hlr", "ior", "lrs", "ars")}
    return {k: round(statistics.fmean(v), 4) for k, v in found.items() if None not in v}


HEADINGS = {
    "distilled": "distilled", "initial": "before", "prior_samples": "prior samples",
    "prior_same_count": "prior, as many", "random_real": "random real", "herding": "herding",
    "k_centre": "k-centre", "full": "whole set",
}  # fmt: skip
SHOWN = tuple(HEADINGS)


def table_of(lines: Sequence[Line]) -> list[list[str]]:
    """Return a table of text, headings first: a line for each group and kind of student."""
    sets = [name for name in SHOWN if any(line.set == name for line in lines)]
    kinds = [
        part.name
        for part in fields(Storage)
        if part.name == "images" or any(getattr(line.storage, part.name).floats for line in lines)
    ]
    floats = ["floats" if kind == "images" else f"{kind} floats" for kind in kinds]
    rows = [["run", "seeds", "student", "images a class", *floats, *map(HEADINGS.get, sets)]]
    for run, network in dict.fromkeys((line.run, line.network) for line in lines):
        own = {line.set: line for line in lines if (line.run, line.network) == (run, network)}
        first = own.get("distilled") or next(iter(own.values()))
        row = [
            run, ", ".join(map(str, first.seeds)), network, f"{first.images_per_class:g}",
            *(f"{getattr(first.storage, kind).floats:,}" for kind in kinds),
        ]  # fmt: skip
        rows.append([*row, *(_cell(own.get(name)) for name in sets)])
    return [[str(cell) for cell in row] for row in rows]


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    return accuracy_text(line.accuracy_mean, line.spread, line.students)


def accuracy_text(mean: float, deviation: float, students: int) -> str:
    """Return an accuracy for a table; what a single student came to has no deviation.

    >>> accuracy_text(93.24, 1.06, 5), accuracy_text(24.17, 0.0, 1)
    ('93.2 \u00b1 1.1', '24.2')
    """
    return f"{mean:.1f} \u00b1 {deviation:.1f}" if students > 1 else f"{mean:.1f}"


def markdown(lines: Sequence[Line]) -> str:
    """Return the table as Markdown, with what its deviations are over."""
    heading, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table_of(lines))
    text = [heading, ["---"] * len(heading), *rows]
    body = "\n".join("| " + " | ".join(row) + " |" for row in text)
    return f"{body}\n\n{CAPTION}\n"


CAPTION = (
    "Accuracy in percent on real test images. Deviations are over the seeds of the distillation "
    "where there are several, else over students."
)


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Return all numbers."""
    return {"caption": CAPTION, "lines": [asdict(line) for line in lines]}


def picture(lines: Sequence[Line]) -> bytes:
    """Return a picture as PNG: the sets of each group, and accuracy by images a class.

    Left, for each group and kind of student, the accuracy of each set; right, where evaluations
    have `counts`, how accuracy grows with the images of a class.
    """
    keys = list(dict.fromkeys((line.run, line.network) for line in lines))
    curves = {key: _curve(lines, key) for key in keys}
    wide = any(curves.values())
    figure = blank_figure(12 if wide else 7, 1.8 + 0.45 * max(len(keys), 4))
    left, *rest = figure.subplots(1, 2 if wide else 1, squeeze=False)[0]
    for name in SHOWN:
        own = [line for line in lines if line.set == name]
        at = [keys.index((line.run, line.network)) for line in own]
        means, spreads = [line.accuracy_mean for line in own], [line.spread for line in own]
        if own:
            left.errorbar(means, at, xerr=spreads, fmt="o", capsize=3, label=HEADINGS[name])
    left.set_yticks(range(len(keys)), [f"{run}, {network}" for run, network in keys])
    left.set_ylim(len(keys) - 0.5, -0.5)
    left.set_xlabel("accuracy %")
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=3, fontsize="small")
    for right in rest:
        for (run, network), points in curves.items():
            if points:
                right.errorbar(*zip(*points, strict=True), marker="o", label=f"{run}, {network}")
        right.set_xlabel("distilled images a class")
        right.set_ylabel("accuracy %")
        right.grid(alpha=0.3)
        right.legend(fontsize="small")
    return as_png(figure)


def _curve(lines: Sequence[Line], key: tuple[str, str]) -> list[tuple[float, float, float]]:
    """Return (images a class, accuracy, deviation) of a group's distilled sets, if several."""
    own = [
        (line.images_per_class, line.accuracy_mean, line.spread)
        for line in lines
        if (line.run, line.network) == key and re.fullmatch(r"distilled(_\d+)?", line.set)
    ]
    return sorted(own) if len(own) > 1 else []
