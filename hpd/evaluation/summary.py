"""Many evaluations side by side: grouped by all but the seed, as lines, Markdown and a picture."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from typing import Any

from hpd.artifacts.judging import differences, judged_by, judging_key, unworded
from hpd.artifacts.report.tables import legend, row_label
from hpd.evaluation.plots import as_png, blank_figure
from hpd.evaluation.rows import Row
from hpd.showing import never_fails, table_html
from hpd.storage import Amount, Storage

# what two runs of one group may differ in
_FREE = (
    "seed", "device", "description", "format", "checkpoint_every", "checkpoint_minutes",
    "curve_every", "evaluation",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One evaluated run.

    Args:
        name: of its folder.
        config: its configuration.
        record: its evaluation; see `hpd.artifacts.evaluations`.
        rows: the table of its evaluation.
    """

    name: str
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def group(self) -> str:
        """What runs of one group share, as text."""
        # what is empty says no more than a key that an earlier version did not know
        options = {k: v for k, v in self.config.items() if k not in _FREE and v not in ([], None)}
        return json.dumps([options, self.record.get("settings")], sort_keys=True)


@dataclass(frozen=True)
class Line:
    """One set of one group of runs, as one kind of student sees it.

    Args:
        run: name of the group: that of its first folder, less the seed.
        folders: name of each run.
        seeds: of the distillations.
        set: name of the row; see `Row`.
        network: name of the student; see `hpd.evaluation.Row`.
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
        table: number of the table that it belongs to, from 1; only lines of one table compare.
        judged: what decided its accuracies, in words by name; see `hpd.artifacts.judging`.
        evaluation: name of the evaluation.
        source: kind of the source of the runs.
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
    table: int = 1
    judged: dict[str, str] = field(default_factory=dict)
    evaluation: str = ""
    source: str = ""

    def __repr__(self) -> str:
        shown = accuracy_text(self.accuracy_mean, self.spread, self.students)
        return f"Line({self.run}, {self.set}, {self.network}: {shown})"

    @property
    def spread(self) -> float:
        """The deviation to show: over seeds of the distillation, or over students for one run."""
        return self.students_std if self.seeds_std is None else self.seeds_std


class Comparison(list[Line]):
    """Lines that a notebook shows as tables."""

    @never_fails
    def _repr_html_(self) -> str:
        parts = []
        for how, own in tables_of(self):
            heading, *rows = table_of(own)
            parts.append(f"<p>{html.escape(how)}</p>{table_html(heading, rows)}")
        apart = why_apart(self)
        if apart:
            parts.append(f"<p>The tables do not compare: {html.escape('; '.join(apart))}.</p>")
        return "".join(parts)


def summarise(results: Sequence[Result]) -> list[Line]:
    """Turn evaluations into lines: runs that differ only by their seed are one group.

    Groups come in the order of their first run, lines in the order of its rows. Those that were
    judged alike belong to one table.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    names = _names([members[0] for members in groups.values()])
    lines: list[Line] = []
    judges: list[tuple[Mapping[str, Any], str]] = []
    tables: dict[str, int] = {}
    for name, members in zip(names, groups.values(), strict=True):
        for key in dict.fromkeys((row.name, row.network) for row in members[0].rows):
            rows = [
                [row for row in member.rows if (row.name, row.network) == key] for member in members
            ]
            present = [(m, own[0]) for m, own in zip(members, rows, strict=True) if own]
            line = _line(name, [m for m, _ in present], [row for _, row in present])
            record = members[0].record
            number = tables.setdefault(judging_key(record, line.network), len(tables) + 1)
            judges.append((record, line.network))
            source = members[0].config.get("source")
            kind = source.get("kind", "") if isinstance(source, Mapping) else source
            evaluation = str(record.get("name", ""))
            lines.append(replace(line, table=number, evaluation=evaluation, source=str(kind)))
    return [
        replace(line, judged={**judged_by(*judge), **more})
        for line, judge, more in zip(lines, judges, unworded(judges), strict=True)
    ]


def tables_of(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return the lines that compare with each other, table by table, with what they share."""
    found: dict[int, list[Line]] = {}
    for line in lines:
        found.setdefault(line.table, []).append(line)
    return [(_shared(own), own) for _, own in sorted(found.items())]


def _shared(lines: Sequence[Line]) -> str:
    """Return how the lines of a table were judged, in one line."""
    facts = lines[0].judged
    names = list(dict.fromkeys(line.judged.get("protocol") for line in lines))
    protocol = " or ".join(name for name in names if name)
    labels = f"{facts['labels']} labels" if "labels" in facts else ""
    student = facts.get("student") or lines[0].network
    parts = [protocol, student, facts.get("length", ""), labels]
    return ", ".join(part for part in parts if part)


def why_apart(lines: Sequence[Line]) -> list[str]:
    """Return why the tables cannot be compared: what differs, a line each; empty for one table."""
    tables = tables_of(lines)
    if len(tables) < 2:
        return []
    return differences([own[0].judged for _, own in tables])


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


SHOWN = (
    "distilled", "initial", "prior_samples", "prior_same_count", "random_real",
    "random_real_floats", "random_real_bits", "herding", "k_centre", "full",
)  # fmt: skip


def table_of(lines: Sequence[Line]) -> list[list[str]]:
    """Return a table of text, headings first: a line for each group and kind of student."""
    sets = [name for name in SHOWN if any(line.set == name for line in lines)]
    kinds = [
        part.name
        for part in fields(Storage)
        if part.name == "images" or any(getattr(line.storage, part.name).floats for line in lines)
    ]
    floats = ["floats" if kind == "images" else f"{kind} floats" for kind in kinds]
    rows = [["run", "seeds", "student", "images a class", *floats, *map(row_label, sets)]]
    for run, network in dict.fromkeys((line.run, line.network) for line in lines):
        own = {line.set: line for line in lines if (line.run, line.network) == (run, network)}
        first = own.get("distilled") or next(iter(own.values()))
        row = [
            run, ", ".join(map(str, first.seeds)), network, f"{first.images_per_class:g}",
            *(f"{getattr(first.storage, kind).floats:,}" for kind in kinds),
        ]  # fmt: skip
        rows.append([*row, *(_cell(own.get(name)) for name in sets)])
    return [[str(cell) for cell in row] for row in rows]


def long_table_of(lines: Sequence[Line]) -> list[list[str]]:
    """Return the same numbers, a line each, which fits a narrow terminal; headings first."""
    rows = [["run", "seeds", "trained on", "a class", "floats", "accuracy %"]]
    order = {name: i for i, name in enumerate(SHOWN)}
    keys = list(dict.fromkeys(line.run for line in lines))
    shown = [line for line in lines if line.set in order]
    for line in sorted(shown, key=lambda line: (keys.index(line.run), order[line.set])):
        seeds = ", ".join(map(str, line.seeds))
        floats = f"{line.storage.images.floats:,}"
        own = [line.run, seeds, row_label(line.set), f"{line.images_per_class:g}", floats]
        rows.append([*own, _cell(line)])
    return rows


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
    """Return the tables as Markdown, with what their deviations are over."""
    parts = []
    for how, own in tables_of(lines):
        heading, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table_of(own))
        text = [heading, ["---"] * len(heading), *rows]
        body = "\n".join("| " + " | ".join(row) + " |" for row in text)
        parts.append(f"Judged by {how}:\n\n{body}" if how else body)
    apart = why_apart(lines)
    if apart:
        parts.append("The tables do not compare: " + "; ".join(apart) + ".")
    return "\n\n".join([*parts, legend(line.set for line in lines), CAPTION]) + "\n"


def as_csv(lines: Sequence[Line]) -> str:
    """Return all numbers as CSV, a line each; only those of one `table` compare."""
    judged = list(dict.fromkeys(name for line in lines for name in line.judged))
    file = io.StringIO()
    writer = csv.writer(file)
    scores = ["hlr", "ior", "lrs", "ars"]
    writer.writerow([
        "table", "run", "seeds", "set", "network", "images_per_class", "image_floats", "image_bits",
        "label_floats", "generator_floats", "accuracy_mean", "students_std", "seeds_std", "sem",
        "students", *scores, "evaluation", *judged,
    ])  # fmt: skip
    for line in lines:
        kept = line.storage
        writer.writerow([
            line.table, line.run, " ".join(map(str, line.seeds)), line.set, line.network,
            line.images_per_class, kept.images.floats, kept.images.bits, kept.labels.floats,
            kept.generator.floats, line.accuracy_mean, line.students_std, line.seeds_std, line.sem,
            line.students, *(line.scores.get(name) for name in scores), line.evaluation,
            *(line.judged.get(name) for name in judged),
        ])  # fmt: skip
    return file.getvalue()


CAPTION = (
    "Accuracy in percent on real test images. Deviations are over the seeds of the distillation "
    "where there are several, else over students."
)


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Return all numbers."""
    return {
        "caption": CAPTION,
        "not_comparable": why_apart(lines),
        "lines": [asdict(line) for line in lines],
    }


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
            left.errorbar(means, at, xerr=spreads, fmt="o", capsize=3, label=row_label(name))
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
