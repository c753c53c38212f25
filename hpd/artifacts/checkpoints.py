"""Checkpoints of a run: the last two, each whole or not there, each known by its checksums.

=================================== ==============================================================
step-01-000040.safetensors          tensors of the checkpoint from which stage 1 goes on at step 40
step-01-000040.0-of-2.safetensors   those that the first of two processes has; so has the second
step-01-000040.json                 the rest, and the SHA-256 of every file of that checkpoint
=================================== ==============================================================

A checkpoint is there when its JSON is, which is written last and deleted first. What a run of one
process left, or an earlier version of hpd, is read by several, and the other way round.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from hpd.artifacts.shards import Kept, in_memory, read_shards, write_shard
from hpd.disk.files import write_json
from hpd.disk.seals import digest_file, read_sealed, sealed
from hpd.errors import RunError
from hpd.typing import Step

# of one file, as it always was, and of several
_WHOLE, FORMAT = 1, 2
_KEPT = 2
_NAME = re.compile(r"step-(\d{2,})-(\d{6,})")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was written.

    Args:
        step: the step to take next; that after a stage is the first of the next stage.
        tensors: by name: in memory what this process has of them, or in files all there is.
        about: JSON.
        places: place in the whole of each row of those in memory that are shared out.
    """

    step: Step
    tensors: Mapping[str, Kept]
    about: Mapping[str, Any]
    places: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the files, without their endings."""
        return f"step-{self.step.stage:02d}-{self.step.index:06d}"

    def loaded(self) -> Checkpoint:
        """Return it with all tensors in memory."""
        return replace(self, tensors=in_memory(self.tensors))


class CheckpointFolder:
    """The checkpoints in a folder, which holds other files as well.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint of one process, and delete all but the last two.

        Raises:
            OSError: if it cannot be written; those before it are as they were.
        """
        self.write_index(checkpoint, [self.write_part(checkpoint)])

    def write_part(self, checkpoint: Checkpoint, rank: int = 0, count: int = 1) -> str:
        """Write what one of several processes has of a checkpoint, and return its SHA-256.

        The checkpoint is not there before `write_index`, which knows the parts of all.

        Raises:
            OSError: if it cannot be written.
        """
        self.path.mkdir(exist_ok=True)
        path = self.part(checkpoint, rank, count)
        return write_shard(path, in_memory(checkpoint.tensors), checkpoint.places)

    def part(self, checkpoint: Checkpoint, rank: int, count: int) -> Path:
        """Return the file of what one of several processes has."""
        number = f".{rank}-of-{count}" if count > 1 else ""
        return self.path / f"{checkpoint.name}{number}.safetensors"

    def whole(self, checkpoint: Checkpoint, count: int, prefix: str) -> dict[str, Kept]:
        """Return the tensors of a prefix of all processes, which wrote their parts, without it.

        Args:
            checkpoint: what this process has of it.
            count: of processes; what a single one has is not read again.
            prefix: of the names.
        """
        tensors = checkpoint.tensors
        if count > 1:
            tensors = read_shards([self.part(checkpoint, rank, count) for rank in range(count)])
        own = {name: kept for name, kept in tensors.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): kept for name, kept in own.items()}

    def write_index(self, checkpoint: Checkpoint, digests: Sequence[str]) -> None:
        """Make a checkpoint of its parts, which are written, and delete all but the last two.

        Args:
            checkpoint: of which only `step` and `about` matter.
            digests: of the part of each process.

        Raises:
            OSError: if it cannot be written; those before it are as they were.
        """
        count = len(digests)
        files = {self.part(checkpoint, r, count).name: d for r, d in enumerate(digests)}
        about = {**checkpoint.about, "format": _WHOLE if count == 1 else FORMAT, "files": files}
        write_json(self.path / f"{checkpoint.name}.json", sealed(about))
        self.keep(_KEPT)

    def keep(self, count: int) -> None:
        """Delete all but the last checkpoints."""
        for name in self._names()[:-count]:
            self._delete(name)

    def newest(self) -> Checkpoint | None:
        """Return the last checkpoint that is whole; None if there is none.

        Its tensors stay in their files, which are looked through. Checkpoints that are broken are
        deleted, and a warning says so.

        Raises:
            RunError: if it was written by a newer version of hpd.
        """
        for name in reversed(self._names()):
            try:
                found = self.read(name)
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
        names: set[str] = set()
        for name in self._names():
            try:
                names |= set(read_sealed(self.path / f"{name}.json")["files"])
            # it is broken, which is said where it is read
            except (OSError, ValueError, KeyError, TypeError):
                names |= {path.name for path in self.path.glob(f"{name}.*")}
        for path in self.path.glob("step-*.safetensors"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def read(self, name: str, *, checked: bool = False) -> Checkpoint:
        """Return a checkpoint by its name; its tensors stay in their files.

        Args:
            name: of the files, without their endings.
            checked: whether their checksums were looked at already.

        Raises:
            OSError, ValueError, KeyError, TypeError, SafetensorError: if it is not whole.
            RunError: if it was written by a newer version of hpd.
        """
        about = read_sealed(self.path / f"{name}.json")
        if about["format"] > FORMAT:
            raise RunError(
                f"{self.path / name} was written by a newer version of hpd",
                got=f"format {about['format']}",
                expected=f"at most {FORMAT}",
                fix="Install that version to go on.",
            )
        for file, digest in about["files"].items():
            if not checked and digest_file(self.path / file) != digest:
                raise ValueError(f"{file} was changed after it was written")
        tensors = read_shards([self.path / file for file in about["files"]])
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
