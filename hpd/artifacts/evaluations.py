"""The evaluations of a run: records in one file, of which none is written over.

The newest stands on the top level, as readers of format 2 expect it; those before it in `earlier`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpd.artifacts.judging import student_names
from hpd.errors import RunError, nearest

FORMAT = 3
"""Of `evaluation.json`. Format 2 held one record; format 1 was judged by other batches and lengths
of training."""

EARLIER = "earlier"
# what decides the numbers of a record: how long it took, and on what, does not
_DECIDING = ("settings", "seed", "data", "rests_on")
_LONGEST_NAME = 60


def records_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of an `evaluation.json`, the oldest first.

    Raises:
        RunError: if a newer version wrote it.
        KeyError, TypeError, ValueError: if it is none.
    """
    number = content.get("format", 1)
    if isinstance(number, int) and number > FORMAT:
        raise RunError(
            "the evaluation was written by a newer version of hpd",
            got=f"format {number}",
            expected=f"at most {FORMAT}",
            fix="Install that version.",
        )
    newest = {key: value for key, value in content.items() if key != EARLIER}
    found = [*content.get(EARLIER, []), newest]
    if not all(isinstance(record, Mapping) and "rows" in record for record in found):
        raise ValueError("a record has no rows")
    return [{**record, "name": record.get("name") or name_of(record)} for record in found]


def with_record(
    content: Mapping[str, Any] | None, record: Mapping[str, Any], name: str | None = None
) -> dict[str, Any]:
    """Return what the file holds with a new record beside those that are there.

    A record of the same name that was made in the same way gives its place to the new one.

    Args:
        content: what it holds now; None: nothing.
        record: the new one.
        name: of the new one; None: one made of its settings, with a number where it is taken.

    Raises:
        RunError: if a name that was given is taken by another evaluation, or is none.
    """
    before = [] if content is None else records_of(content)
    taken = {str(other["name"]): other for other in before}
    if name is None:
        wanted = name_of(record)
        name, number = wanted, 2
        while name in taken and not _is_same(taken[name], record):
            name, number = f"{wanted}-{number}", number + 1
    else:
        check_name(name)
        if name in taken and not _is_same(taken[name], record):
            raise RunError(
                f"there is another evaluation {name!r}",
                got=_differences(taken[name], record),
                fix="Give this one another name.",
            )
    kept = [other for other in before if other["name"] != name]
    return {**record, "name": name, "format": FORMAT, EARLIER: kept}


def check_name(name: str) -> None:
    """Check the name of a record.

    Raises:
        RunError: if it is empty, too long, or has characters that no file's name should have.
    """
    if not re.fullmatch(r"[\w .,+=-]+", name) or len(name) > _LONGEST_NAME:
        expected = f"up to {_LONGEST_NAME} letters, digits, spaces and . , + = - _"
        raise RunError("the evaluation's name is not valid", got=repr(name), expected=expected)


def find_record(records: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the record of a name.

    Raises:
        RunError: with the nearest name, if there is none.
    """
    for record in records:
        if record["name"] == name:
            return record
    known = [str(record["name"]) for record in records]
    raise RunError(f"no evaluation {name!r}", fix=nearest(name, known))


def name_of(record: Mapping[str, Any]) -> str:
    """Return a name made of how an evaluation judged: protocol, labels and students.

    >>> settings = {"protocol": "dc", "labels": "hard", "students": [{"kind": "convnet"}]}
    >>> name_of({"settings": settings})
    'dc-hard-convnet'
    """
    settings = record.get("settings") or {}
    students = student_names(settings.get("students", []))
    shown = students[:2] + ([f"{len(students) - 2}-more"] if len(students) > 2 else [])
    parts = [settings.get("protocol", "dc"), settings.get("labels", "hard"), *shown]
    return re.sub(r"[^\w .,+=-]", "_", "-".join(map(str, parts)))[:_LONGEST_NAME]


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in _DECIDING)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return what two records were made by that differs, as ``key: old -> new``."""
    before, after = (record.get("settings") or {} for record in (one, other))
    changed = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    return "; ".join(changed[:3]) or "the same settings on other images, labels or data"
