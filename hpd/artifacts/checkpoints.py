"""Checkpoints of a run: the last two, each whole or not there, each known by its checksums.

=================================== ==============================================================
step-01-000040.safetensors          tensors of the checkpoint from which stage 1 goes on at step 40
step-01-000040.json                 the rest, and the SHA-256 of every file of that checkpoint
=================================== ==============================================================

A checkpoint is there when its JSON is, which is written last and deleted first. So one checkpoint
may have several files of tensors, written by whoever owns them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from hpd.errors import RunError
from hpd.files import write_json, write_tensors
from hpd.seals import read_sealed, sealed
from hpd.typing import State, Step

FORMAT = 1
_KEPT = 2
_NAME = re.compile(r"step-(\d{2,})-(\d{6,})")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was written.

    Args:
        step: the step to take next; that after a stage is the first of the next stage.
        tensors: by name.
        about: JSON.
    """

    step: Step
    tensors: State
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the files, without their endings."""
        return f"step-{self.step.stage:02d}-{self.step.index:06d}"


class CheckpointFolder:
    """The checkpoints in a folder, which holds other files as well.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and delete all but the last two.

        Raises:
            OSError: if it cannot be written; those before it are as they were.
        """
        self.path.mkdir(exist_ok=True)
        tensors = f"{checkpoint.name}.safetensors"
        digest = write_tensors(self.path / tensors, checkpoint.tensors)
        about = {**checkpoint.about, "format": FORMAT, "files": {tensors: digest}}
        write_json(self.path / f"{checkpoint.name}.json", sealed(about))
        self.keep(_KEPT)

    def keep(self, count: int) -> None:
        """Delete all but the last checkpoints."""
        for name in self._names()[:-count]:
            self._delete(name)

    def newest(self) -> Checkpoint | None:
        """Read the last checkpoint that is whole; None if there is none.

        Those that are broken are deleted, and a warning says so.

        Raises:
            RunError: if it was written by a newer version of hpd.
        """
        for name in reversed(self._names()):
            try:
                found = self._read(name)
            except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
                reason = f"{type(error).__name__}: {error}"
                _logger.warning("checkpoint %s is broken and left out: %s", name, reason)
                self._delete(name)
            else:
                self.tidy()
                return found
        self.tidy()
        return None

    def tidy(self) -> None:
        """Delete tensors that no JSON names: of a checkpoint half written or half deleted."""
        names = set(self._names())
        for path in self.path.glob("step-*.safetensors"):
            if path.name.split(".")[0] not in names:
                path.unlink(missing_ok=True)

    def _read(self, name: str) -> Checkpoint:
        about = read_sealed(self.path / f"{name}.json")
        if about["format"] > FORMAT:
            raise RunError(
                f"{self.path / name} was written by a newer version of hpd",
                got=f"format {about['format']}",
                expected=f"at most {FORMAT}",
                fix="Install that version to go on.",
            )
        tensors: State = {}
        for file, digest in about["files"].items():
            content = (self.path / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{file} was changed after it was written")
            tensors |= load(content)
        return Checkpoint(_step(name), tensors, about)

    def _names(self) -> list[str]:
        """Return the names of the checkpoints, in the order of the run."""
        found = [p.stem for p in self.path.glob("step-*.json") if _NAME.fullmatch(p.stem)]
        return sorted(found, key=lambda name: (_step(name).stage, _step(name).index))

    def _delete(self, name: str) -> None:
        (self.path / f"{name}.json").unlink(missing_ok=True)
        for path in self.path.glob(f"{name}.*"):
            path.unlink(missing_ok=True)


def _step(name: str) -> Step:
    stage, index = name.split("-")[1:]
    return Step(int(stage), int(index))
