"""The accuracies of an evaluation on its way, kept so that no student is trained twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.files import write_json
from hpd.seals import digest_json, read_sealed, sealed

_FORMAT = 1
_logger = logging.getLogger(__name__)


class Ledger:
    """What students of one evaluation came to, by name.

    Args:
        path: file to keep them in; None keeps them nowhere.
        rests_on: all that decides an accuracy, as JSON. What is in the file for something else is
            left out.

    Raises:
        OSError: if the file cannot be written.
    """

    def __init__(self, path: Path | None = None, rests_on: Mapping[str, Any] | None = None) -> None:
        self._path, self._rests_on = path, digest_json(rests_on or {})
        self._accuracies: dict[str, float] = {}
        if path is not None:
            self._accuracies = self._read(path)
            # before the first student, so that a folder that is read-only costs nobody an hour
            self._write()

    def get(self, student: str) -> float | None:
        """Return the accuracy of a student, None if it was not trained yet."""
        return self._accuracies.get(student)

    def put_all(self, accuracies: Mapping[str, float]) -> None:
        """Keep the accuracies of students that learned together: all of them, or none."""
        self._accuracies |= accuracies
        self._write()

    def close(self) -> None:
        """Delete the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, float]:
        if not path.exists():
            return {}
        try:
            content = read_sealed(path)
            if content["format"] == _FORMAT and content["rests_on"] == self._rests_on:
                return {str(key): float(value) for key, value in content["accuracies"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is broken (%s): the evaluation starts over", path, error)
        return {}

    def _write(self) -> None:
        if self._path is not None:
            content = {"format": _FORMAT, "rests_on": self._rests_on}
            write_json(self._path, sealed({**content, "accuracies": self._accuracies}))
