"""Many evaluations side by side: grouped by all but the seed, as lines."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any, Literal

from hpd.artifacts.judging import differences, judged_by, judging_key, unworded
from hpd.evaluation.rows import Row
from hpd.storage import Amount, Storage

Order = Literal["score", "bits", "given"]
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
        origin: the packed file or the name on the hub that it came from; None: a folder.
        sha256: of the packed file.
    """

    name: str
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    rows: Sequence[Row]
    origin: str | None = None
    sha256: str | None = None

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
        origins: of each run, the packed file or the name on the hub that it came from; None: a
            folder.
        sha256: of each run, that of the packed file; None where there is none.
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
    origins: list[str | None] = field(default_factory=list)
    sha256: list[str | None] = field(default_factory=list)

    def __repr__(self) -> str:
        shown = accuracy_text(self.accuracy_mean, self.spread, self.students)
        return f"Line({self.run}, {self.set}, {self.network}: {shown})"

    @property
    def spread(self) -> float:
        """The deviation to show: over seeds of the distillation, or over students for one run."""
        return self.students_std if self.seeds_std is None else self.seeds_std

    @property
    def bits(self) -> int:
        """What the set takes: its images or latents, and its labels; the generator is apart."""
        return self.storage.images.bits + self.storage.labels.bits


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


def ordered(lines: Sequence[Line], by: Order = "score") -> list[Line]:
    """Return lines in the order of their groups and students, rows of one group together.

    Args:
        lines: of `summarise`.
        by: ``"score"``, the best distilled set first, of equals the one of fewer bits; ``"bits"``,
            the one of fewest bits first, of equals the best; ``"given"``, as they are.
    """
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.run, line.network), []).append(line)
    if by == "given":
        return list(lines)

    def rank(own: Sequence[Line]) -> tuple[float, float]:
        first = next((line for line in own if line.set == "distilled"), own[0])
        score, bits = -first.accuracy_mean, float(first.bits)
        return (score, bits) if by == "score" else (bits, score)

    return [line for own in sorted(groups.values(), key=rank) for line in own]


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
        origins=[member.origin for member in members],
        sha256=[member.sha256 for member in members],
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


def accuracy_text(mean: float, deviation: float, students: int) -> str:
    """Return an accuracy for a table; what a single student came to has no deviation.

    >>> accuracy_text(93.24, 1.06, 5), accuracy_text(24.17, 0.0, 1)
    ('93.2 \u00b1 1.1', '24.2')
    """
    return f"{mean:.1f} \u00b1 {deviation:.1f}" if students > 1 else f"{mean:.1f}"
