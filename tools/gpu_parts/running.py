"""Runs parts in processes of their own, and keeps what they find."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_parts.part import Part, Row, verdict_of
from hpd.disk.files import write_json
from hpd.errors import RunError

TOOLS = Path(__file__).parents[1]
_LOG_LINES = 25
_GRACE_SECONDS = 20.0


@dataclass
class Record:
    """What was found on a machine, in a file.

    Args:
        path: of the file.
        machine: what it was found on.
        parts: what was found, by part.
    """

    path: Path
    machine: dict[str, str]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, machine: dict[str, str]) -> Record:
        """Read what was found before, or begin.

        Raises:
            RunError: if it is broken, or was found on another machine.
        """
        if not path.is_file():
            return cls(path, machine)
        try:
            kept = json.loads(path.read_text("utf-8"))
            theirs, parts = dict(kept["machine"]), dict(kept["parts"])
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} is broken", fix="Remove it.") from None
        if theirs != machine:
            raise RunError(
                f"{path} is of another machine", got=theirs, expected=machine,
                fix="Name another folder with --out.",
            )  # fmt: skip
        return cls(path, machine, parts)

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Keep what a part found."""
        self.parts[name] = found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"machine": self.machine, "parts": self.parts})

    def is_done(self, name: str) -> bool:
        """Return whether a part came to its end, or to the end of its own time."""
        return bool(self.parts.get(name, {}).get("finished"))


def run_part(
    part: Part, device: str, folder: Path, left_seconds: float, environment: dict[str, str]
) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it found, whatever became of it.

    Args:
        part: what to run.
        device: where.
        folder: for what it writes.
        left_seconds: of the whole check; a part that these end is not finished.
        environment: of the process, beside this one's.
    """
    limit = min(part.limit_seconds, left_seconds)
    with tempfile.TemporaryDirectory() as scratch:
        answer, log = Path(scratch, "answer.json"), Path(scratch, "log")
        command = [
            *(sys.executable, "-m", "gpu_parts.worker", part.run, "--device", device),
            *("--folder", str(folder), "--limit", str(limit), "--answer", str(answer)),
        ]
        code = _wait_for(command, log, limit, environment)
        found = json.loads(answer.read_text("utf-8")) if answer.is_file() else {"rows": []}
        said = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
    out_of_time = code is None and limit < part.limit_seconds
    if not found.pop("ended", False):
        found["rows"].append(asdict(_cut_short(code, limit, out_of_time)))
        found["log"] = said
    found["verdict"] = verdict_of(row["verdict"] for row in found["rows"])
    return found | {"device": device, "finished": not out_of_time}


def _cut_short(code: int | None, limit: float, out_of_time: bool) -> Row:
    if out_of_time:
        return Row("the part", "skipped", "the time of the whole check was over; start it again")
    if code is None:
        return Row("the part", "bad", f"did not end within {limit:.0f} s")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Row("the part", "bad", f"its process ended by itself: {how}")


def _wait_for(
    command: list[str], log: Path, limit: float, environment: dict[str, str]
) -> int | None:
    """Run a command with all that it starts; return its exit code, None if it took too long."""
    paths = [str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])]
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=surroundings, stdin=subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what a process started, and itself; one that a driver holds is left to it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
