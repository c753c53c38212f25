"""Rows of a table on disk, so that measuring goes on where it stopped; used by the tools."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpd.config import RunSettings
from hpd.disk.files import write_json
from hpd.disk.seals import digest_json
from hpd.errors import RunError


class Table:
    """The measured rows, on disk after each.

    Args:
        path: the JSON file.
        settings: of all rows; a file of others is refused.

    Raises:
        RunError: if the file is of other settings, or broken.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            held = read_measured(path, "settings", "rows")
            if held["settings"] != self.settings:
                raise RunError(f"{path} is of other settings", fix="Give another file.")
            self.rows = held["rows"]

    def has(self, **key: Any) -> bool:
        """Return whether a row is measured."""
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append(dict(row))
        write_json(self.path, {"settings": self.settings, "rows": self.rows})


def read_measured(path: Path, *keys: str) -> dict[str, Any]:
    """Return what a file of measured rows holds.

    Raises:
        RunError: if it is no JSON, or lacks one of `keys`.
    """
    try:
        held = json.loads(path.read_text())
        return {key: held[key] for key in keys}
    except (ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} is broken", got=reason, fix="Give another file.") from None


def digest_of(settings: RunSettings, *left_out: str) -> str:
    """Return what tells settings apart; where data lie and what computes is no part of them.

    Args:
        settings: of a run.
        left_out: parts of them that make no difference.
    """
    values = settings.model_dump(mode="json", exclude={"device", "description", *left_out})
    values["data"].pop("root", None)
    return digest_json(values)[:16]


def pooled(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return mean and sample standard deviation over the students of sets of equal size."""
    n = parts[0]["students"]
    mean = statistics.fmean(part["mean"] for part in parts)
    squares = sum((n - 1) * p["std"] ** 2 + n * (p["mean"] - mean) ** 2 for p in parts)
    return mean, (squares / max(n * len(parts) - 1, 1)) ** 0.5
