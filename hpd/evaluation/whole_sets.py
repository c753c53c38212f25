"""What students came to on whole training sets, measured once: the mark beside every table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from hpd.data import Dataset
from hpd.disk.files import parse_json
from hpd.students import STUDENTS, StudentSettings


@dataclass(frozen=True)
class WholeSet:
    """Students of one architecture on one whole training set.

    Args:
        student: the architecture, as a configuration names it.
        training: how they were trained.
        accuracy: percent of the test images, mean over students.
        students: how many.
    """

    student: Mapping[str, Any]
    training: Mapping[str, Any]
    accuracy: float
    students: int

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)


def whole_sets(dataset: Dataset) -> list[WholeSet]:
    """Return what is known of these data, the narrowest student first; empty for other data.

    Measured by `tools/whole_sets.py`; the data are known by the hashes of both parts.
    """
    hashes = (dataset.train.sha256, dataset.test.sha256)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows():
        if (row["train_sha256"], row["test_sha256"]) == hashes:
            key = json.dumps([row["student"], row["training"]], sort_keys=True)
            groups.setdefault(key, []).append(row)
    return [
        WholeSet(
            own[0]["student"],
            own[0]["training"],
            round(statistics.fmean(row["accuracy"] for row in own), 4),
            len(own),
        )
        for own in groups.values()
    ]


def accuracy_of(known: list[WholeSet], student: StudentSettings) -> float | None:
    """Return the accuracy of an architecture among what is known, None if it is not."""
    wanted = STUDENTS.dump(student)
    return next((own.accuracy for own in known if dict(own.student) == wanted), None)


@cache
def _rows() -> list[Mapping[str, Any]]:
    path = resources.files("hpd.evaluation") / "whole_sets.json"
    rows: list[Mapping[str, Any]] = parse_json(path.read_text("utf-8"))["rows"]
    return rows
