"""A comparison as tables, Markdown, CSV and JSON: the same numbers in the same order."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from hpd.artifacts.report.tables import legend, row_label
from hpd.evaluation.summary import Line, accuracy_text, tables_of, why_apart
from hpd.showing import count_text, never_fails, table_html
from hpd.storage import Storage


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
    rows = [["run", "run seeds", "students", "a class", *floats, "bits", *map(row_label, sets)]]
    for run, network in dict.fromkeys((line.run, line.network) for line in lines):
        own = {line.set: line for line in lines if (line.run, line.network) == (run, network)}
        first = own.get("distilled") or next(iter(own.values()))
        row = [
            run, ", ".join(map(str, first.seeds)), f"{first.students} {network}",
            count_text(first.images_per_class),
            *(f"{getattr(first.storage, kind).floats:,}" for kind in kinds), f"{first.bits:,}",
        ]  # fmt: skip
        rows.append([*row, *(_cell(own.get(name)) for name in sets)])
    return [[str(cell) for cell in row] for row in rows]


def long_table_of(lines: Sequence[Line]) -> list[list[str]]:
    """Return the same numbers, a line each, which fits a narrow terminal; headings first."""
    rows = [["run", "run seeds", "trained on", "a class", "bits", "students", "accuracy %"]]
    order = {name: i for i, name in enumerate(SHOWN)}
    keys = list(dict.fromkeys(line.run for line in lines))
    shown = [line for line in lines if line.set in order]
    for line in sorted(shown, key=lambda line: (keys.index(line.run), order[line.set])):
        seeds = ", ".join(map(str, line.seeds))
        own = [line.run, seeds, row_label(line.set), count_text(line.images_per_class)]
        rows.append([*own, f"{line.bits:,}", str(line.students), _cell(line)])
    return rows


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    return accuracy_text(line.accuracy_mean, line.spread, line.students)


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
        "label_floats", "generator_floats", "bits", "accuracy_mean", "students_std", "seeds_std",
        "sem", "students", *scores, "evaluation", *judged,
    ])  # fmt: skip
    for line in lines:
        kept = line.storage
        writer.writerow([
            line.table, line.run, " ".join(map(str, line.seeds)), line.set, line.network,
            line.images_per_class, kept.images.floats, kept.images.bits, kept.labels.floats,
            kept.generator.floats, line.bits, line.accuracy_mean, line.students_std,
            line.seeds_std, line.sem, line.students, *(line.scores.get(name) for name in scores),
            line.evaluation, *(line.judged.get(name) for name in judged),
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
        "lines": [{**asdict(line), "bits": line.bits} for line in lines],
    }
