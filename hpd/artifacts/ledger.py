"""The accuracies of evaluations on their way, kept so that no student is trained twice."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpd.disk.files import write_json
from hpd.disk.seals import digest_json, read_sealed, sealed

_FORMAT = 2
_logger = logging.getLogger(__name__)


class Ledger:
    """What students of one evaluation came to, by name.

    Args:
        path: file to keep them in, beside those of other evaluations that are not at their end;
            None keeps them nowhere.
        rests_on: all that decides an accuracy, as JSON. What is in the file for something else is
            not taken.
        asked: the options of the evaluation, as JSON, by which its end is known.

    Raises:
        OSError: if the file cannot be written.
    """

    def __init__(
        self,
        path: Path | None = None,
        rests_on: Mapping[str, Any] | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self._path, self._rests_on = path, digest_json(rests_on or {})
        self._asked = digest_json(asked or {})
        # of other data, sets or training; and what else wants the same students
        self._others: dict[str, Any] = {}
        self._also: set[str] = set()
        self._accuracies: dict[str, float] = {}
        if path is not None:
            self._read(path)
            # before the first student, so that a folder that is read-only costs nobody an hour
            self._write({*self._also, self._asked})

    def get(self, student: str) -> float | None:
        """Return the accuracy of a student, None if it was not trained yet."""
        return self._accuracies.get(student)

    def put_all(self, accuracies: Mapping[str, float]) -> None:
        """Keep the accuracies of students that learned together: all of them, or none."""
        self._accuracies |= accuracies
        self._write({*self._also, self._asked})

    def close(self) -> None:
        """Forget the evaluation, and delete the file if it was the last one."""
        self._write(self._also)

    @staticmethod
    def tidy(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Forget evaluations that came to their end, whose process was killed before it did so."""
        if not path.exists():
            return
        ended = {
            (record.get("rests_on"), digest_json(record.get("settings") or {}))
            for record in records
        }
        try:
            left = {
                rests_on: {**own, "asked": [a for a in own["asked"] if (rests_on, a) not in ended]}
                for rests_on, own in _read(path).items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            left = {}
        _write(path, left)

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            self._others = _read(path)
            own = self._others.pop(self._rests_on, {"asked": [], "accuracies": {}})
            self._accuracies = {str(key): float(v) for key, v in own["accuracies"].items()}
            self._also = {str(asked) for asked in own["asked"]} - {self._asked}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is broken (%s): the evaluation starts over", path, error)
            self._others, self._accuracies, self._also = {}, {}, set()

    def _write(self, asked: Collection[str]) -> None:
        if self._path is not None:
            own = {"asked": sorted(asked), "accuracies": self._accuracies}
            _write(self._path, {**self._others, self._rests_on: own})


def _read(path: Path) -> dict[str, Any]:
    """Return what is kept of each evaluation, by the digest of what it rests on."""
    content = read_sealed(path)
    return dict(content["evaluations"]) if content["format"] == _FORMAT else {}


def _write(path: Path, evaluations: Mapping[str, Any]) -> None:
    kept = {rests_on: own for rests_on, own in evaluations.items() if own["asked"]}
    if kept:
        write_json(path, sealed({"format": _FORMAT, "evaluations": kept}))
    else:
        path.unlink(missing_ok=True)
