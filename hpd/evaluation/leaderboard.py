"""A leaderboard in Markdown: the best first, and what it takes to verify each row."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpd.artifacts.report.tables import legend, row_label
from hpd.evaluation.comparison import CAPTION
from hpd.evaluation.summary import Line, accuracy_text, tables_of, why_apart
from hpd.showing import count_text

_BESIDE = ("prior_samples", "random_real_bits", "random_real", "full")
_HEADING = ["", "set", "source", "labels", "images a class", "bits", "accuracy %"]
_FOLDER = "a folder: pack it, so that others can verify it"


def leaderboard(lines: Sequence[Line]) -> str:
    """Return the page.

    A table for each way of judging, as only what was judged alike compares; in it, the distilled
    set of each group beside random real images, samples of the prior and the whole set. Then, for
    each run, its packed file or its name on the hub, the SHA-256 of the file, and the command that
    says whether it is whole and its figures come out again.

    Args:
        lines: of a comparison, in the order that they are to have.
    """
    parts = ["# Leaderboard"]
    for how, own in tables_of(lines):
        parts += [f"## {_plain(how) or 'Judged by an earlier version of hpd'}", _table(own)]
    if apart := why_apart(lines):
        parts.append(f"The tables do not compare: {_plain('; '.join(apart))}.")
    shown = [line.set for line in lines if line.set in _BESIDE]
    parts += [_plain(legend(shown)), CAPTION, "## Verifying a row", _verifying(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(lines: Sequence[Line]) -> str:
    beside = [name for name in _BESIDE if any(line.set == name for line in lines)]
    rows = [[*_HEADING, *map(row_label, beside)]]
    keys = dict.fromkeys((line.run, line.network) for line in lines)
    for place, (run, network) in enumerate(keys, start=1):
        own = {line.set: line for line in lines if (line.run, line.network) == (run, network)}
        first = own.get("distilled")
        if first is None:
            continue
        needs = " and the generator" if first.storage.generator.floats else ""
        rows.append([
            str(place), _code(run), _code(first.source), _code(first.labels),
            count_text(first.images_per_class), f"{first.bits:,}{needs}",
            f"**{_accuracy(first)}**", *(_accuracy(own.get(name)) for name in beside),
        ])  # fmt: skip
    return _as_table(rows)


def _verifying(lines: Sequence[Line]) -> str:
    """Return a table with what it takes to verify each run."""
    rows = [["set", "seed", "where", "SHA-256", "command"]]
    for run in dict.fromkeys(line.run for line in lines):
        line = next(line for line in lines if line.run == run)
        runs = zip(line.folders, line.seeds, line.origins, line.sha256, strict=True)
        for folder, seed, origin, sha256 in runs:
            where, command = _where(folder, origin)
            rows.append([
                _code(run), str(seed), where, _code(sha256) if sha256 else "", command
            ])  # fmt: skip
    return (
        "Each command says whether every file is whole, trains the students again by the settings"
        " of the evaluation, and compares: equal on the same machine and versions, elsewhere within"
        " two standard errors. `data.root=FOLDER` says where the data are.\n\n" + _as_table(rows)
    )


def _where(folder: str, origin: str | None) -> tuple[str, str]:
    """Return where a run is, and how it is verified; a folder of this machine is of no use."""
    if origin is None:
        return f"{_code(folder)}, {_FOLDER}", ""
    place = origin if origin.startswith("hub:") else Path(origin).name
    return _code(place), _code(f"hpd verify {shlex.quote(place)} --evaluate")


def _accuracy(line: Line | None) -> str:
    if line is None:
        return ""
    return accuracy_text(line.accuracy_mean, line.spread, line.students)


def _as_table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = rows
    lines = [heading, ["---"] * len(heading), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: object) -> str:
    """Return what came from elsewhere as a code span in a table, in which it means nothing."""
    line = re.sub(r"\s+", " ", str(text)).replace("`", "'").replace("|", "\\|").strip()
    return f"`{line}`" if line else ""


def _plain(text: str) -> str:
    """Return text in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", re.sub(r"\s+", " ", text)).strip()
