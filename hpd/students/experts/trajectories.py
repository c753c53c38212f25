"""Expert trajectories: the parameters of students trained on real images, after every epoch.

Trajectory matching (Cazenavette et al., Dataset Distillation by Matching Training Trajectories,
CVPR 2022) compares a student trained on synthetic images to such experts. A folder holds:

=========================== ==================================================================
experts.json                what all experts share: `ExpertRecord`
000.safetensors             a finished expert: ``parameters`` [epochs + 1, P] float32; row 0 is
                            before the first epoch
000.json                    its losses and accuracies, and a checksum of each row
001.partial.safetensors     an expert in training: its rows so far, and the optimiser's state
=========================== ==================================================================

Every file is there whole or not at all, and carries a checksum. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpd.disk.files import is_leftover, parse_json, read_about, write_json, write_tensors
from hpd.disk.locks import trying
from hpd.disk.seals import digest_tensor, sealed, unsealed
from hpd.errors import HpdError, RunError
from hpd.registry import Settings
from hpd.students.experts.record import FORMAT, ExpertRecord, ExpertSettings
from hpd.students.parameters import Layout, flatten, layout_of, unflatten, vector_size
from hpd.typing import State

__all__ = [
    "ExpertFolder",
    "ExpertRecord",
    "ExpertResult",
    "ExpertSettings",
    "Layout",
    "Progress",
    "flatten",
    "layout_of",
    "unflatten",
]
RECORD = "experts.json"
_OPTIMIZER = "optimizer."
_LEFTOVER = re.compile(r"\.(experts|[0-9]{3,})(\.partial)?\.(json|safetensors)\..+")
_BROKEN = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, HpdError)


class ExpertResult(Settings):
    """How the training of one expert went.

    Args:
        losses: mean training loss of each epoch.
        accuracy_before: share of the sampled training images read right before the first epoch.
        accuracy_after: the same after the last epoch.
        rows: SHA-256 of each row of the parameters.
        record: SHA-256 of the `experts.json` that the expert belongs to.
    """

    # an expert that did not learn is named, not lost
    model_config = ConfigDict(allow_inf_nan=True)

    losses: tuple[float, ...]
    accuracy_before: float
    accuracy_after: float
    rows: tuple[str, ...]
    record: str


@dataclass(frozen=True)
class Progress:
    """An expert in training, after as many epochs as there are losses.

    Args:
        rows: parameters before the first epoch and after each [epochs done + 1, P], float32.
        losses: mean training loss of each epoch.
        accuracy_before: see `ExpertResult`.
        optimizer: tensors of the optimiser as ``<number of the parameter>.<name>``.
    """

    rows: Tensor
    # an expert that did not learn is named, not lost
    model_config = ConfigDict(allow_inf_nan=True)

    losses: tuple[float, ...]
    accuracy_before: float
    optimizer: State


class ExpertFolder:
    """Experts on disk. Make one with `create` or `open`.

    Args:
        path: the folder.
        record: what its experts share.
    """

    def __init__(self, path: Path, record: ExpertRecord) -> None:
        self.path, self.record = path, record
        self._results: dict[int, ExpertResult] = {}
        # of the file: a later release may fill in options that it does not have
        self._seal = hashlib.sha256((path / RECORD).read_bytes()).hexdigest()

    @classmethod
    def create(cls, path: str | Path, record: ExpertRecord) -> ExpertFolder:
        """Make the folder of new experts.

        Raises:
            RunError: if the folder holds something, or cannot be made.
        """
        path = Path(path).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = [p.name for p in path.iterdir()]
            others = [n for n in names if not (is_leftover(n) or _LEFTOVER.fullmatch(n))]
            if others:
                raise RunError(
                    f"{path} already holds other files",
                    got=min(others),
                    fix="Choose another folder with --out.",
                )
            write_json(path / RECORD, sealed(record.model_dump(mode="json")))
        except OSError as error:
            raise RunError(f"cannot write to {path}", got=error.strerror) from None
        return cls(path, record)

    @classmethod
    def open(cls, path: str | Path, *, unfinished: bool = False) -> ExpertFolder:
        """Read the record and the results of all finished experts, and look at their shards.

        The numbers in the shards are checked when they are read.

        Args:
            path: the folder.
            unfinished: accept missing experts, as training does. Otherwise there must be at least
                one, and none left out in between.

        Raises:
            RunError: if this is not a folder of experts, or one of them is missing or broken.
        """
        path = Path(path).expanduser()
        if not (path / RECORD).is_file():
            raise RunError(
                f"{path} holds no experts",
                expected=f"a folder with {RECORD}",
                fix="Train them with `hpd experts CONFIG` and the same options, or name their"
                " folder: objective.experts=FOLDER.",
            )
        folder = cls(path, _read_sealed(path / RECORD, ExpertRecord))
        for number in folder._numbers():
            folder._results[number] = folder._open_expert(number)
        missing = next((i for i in range(len(folder) or 1) if not folder.has(i)), None)
        if missing is not None and not unfinished:
            raise RunError(
                f"expert {missing} in {path} is missing",
                fix="Train what is missing with `hpd experts CONFIG`.",
            )
        return folder

    def __len__(self) -> int:
        return len(self._results)

    @property
    def epochs(self) -> int:
        """Number of epochs of every expert."""
        return self.record.training.pace(self.record.images).epochs

    @property
    def size_bytes(self) -> int:
        """Size of all shards."""
        return sum(self._shard(expert).stat().st_size for expert in self._results)

    def has(self, expert: int) -> bool:
        """Return whether an expert is finished."""
        return expert in self._results

    def result(self, expert: int) -> ExpertResult:
        """Return how the training of an expert went.

        Raises:
            RunError: if there is no such expert.
        """
        if expert not in self._results:
            raise RunError(f"no expert {expert} in {self.path}", expected=sorted(self._results))
        return self._results[expert]

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """Read the parameters [P], float32, of an expert after `epoch` epochs.

        Reads that row of the shard, and nothing else.

        Args:
            expert: its number, from 0.
            epoch: from 0, before the first epoch, to `epochs`.

        Raises:
            RunError: if there is no such row, or not the one that was written.
        """
        digests, path = self.result(expert).rows, self._shard(expert)
        if not 0 <= epoch <= self.epochs:
            raise RunError(f"no epoch {epoch} of experts", expected=f"0..{self.epochs}")
        try:
            with safe_open(path, framework="pt") as file:
                # cloned: what safetensors returns may be the file itself, mapped into memory
                row = file.get_slice("parameters")[epoch : epoch + 1][0].clone()
        except _BROKEN as error:
            raise _broken(path, error) from None
        if digest_tensor(row) != digests[epoch]:
            raise _broken(path, ValueError(f"the numbers of epoch {epoch} were changed"))
        return row

    def write(
        self, expert: int, rows: Tensor, *, losses: tuple[float, ...], accuracy_before: float,
        accuracy_after: float,
    ) -> None:  # fmt: skip
        """Write a finished expert, in the place of what there was of it.

        Args:
            expert: its number, from 0.
            rows: parameters before the first epoch and after each [epochs + 1, P].
            losses: see `ExpertResult`, as the others.
            accuracy_before: before the first epoch.
            accuracy_after: after the last epoch.
        """
        rows = rows.to("cpu", torch.float32)
        result = ExpertResult(
            losses=losses,
            accuracy_before=accuracy_before,
            accuracy_after=accuracy_after,
            rows=tuple(digest_tensor(row) for row in rows),
            record=self._seal,
        )
        write_tensors(self._shard(expert), {"parameters": rows})
        # an expert counts as finished when its JSON is there, so this comes last
        write_json(self.path / f"{expert:03d}.json", sealed(result.model_dump(mode="json")))
        self._partial(expert).unlink(missing_ok=True)
        self._results[expert] = self._open_expert(expert)

    def write_progress(self, expert: int, progress: Progress) -> None:
        """Write how far the training of an expert has come, in the place of what was there."""
        tensors = {f"{_OPTIMIZER}{name}": value for name, value in progress.optimizer.items()}
        tensors["parameters"] = progress.rows
        about = {
            "record": self._seal,
            "expert": expert,
            "losses": progress.losses,
            "accuracy_before": progress.accuracy_before,
            "tensors": {name: digest_tensor(value) for name, value in tensors.items()},
        }
        write_tensors(self._partial(expert), tensors, sealed(about))

    def read_progress(self, expert: int) -> Progress | None:
        """Return how far the training of an expert had come, None if it had not begun.

        Raises:
            RunError: if what is there is broken, or belongs to other experts.
        """
        path = self._partial(expert)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = unsealed(read_about(file.metadata()))
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if about["record"] != self._seal or about["expert"] != expert:
                raise ValueError("it belongs to another expert")
            if about["tensors"] != {name: digest_tensor(value) for name, value in tensors.items()}:
                raise ValueError("its numbers were changed")
        except _BROKEN as error:
            raise _broken(path, error) from None
        rows = tensors.pop("parameters")
        optimizer = {name.removeprefix(_OPTIMIZER): value for name, value in tensors.items()}
        return Progress(rows, tuple(about["losses"]), about["accuracy_before"], optimizer)

    def remove_leftovers(self, of: str = RECORD) -> None:
        """Delete the temporary files of a process that was killed while it wrote.

        Args:
            of: beginning of the name of what it wrote; nobody else may be at it.
        """
        for path in self.path.iterdir():
            if _LEFTOVER.fullmatch(path.name) and path.name.startswith(f".{of}"):
                path.unlink(missing_ok=True)

    @contextmanager
    def work_on(self, expert: int) -> Iterator[bool]:
        """Hold an expert for the length of a block, and say whether there is work on it.

        There is none where another process is at it, or has finished it.
        """
        with trying(self.path / f".{expert:03d}.lock") as held:
            if held and (self.path / f"{expert:03d}.json").exists():
                self._results[expert] = self._open_expert(expert)
            elif held:
                self.remove_leftovers(f"{expert:03d}.")
            yield held and not self.has(expert)

    def _shard(self, expert: int) -> Path:
        return self.path / f"{expert:03d}.safetensors"

    def _partial(self, expert: int) -> Path:
        return self.path / f"{expert:03d}.partial.safetensors"

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers of the experts whose results are there, in order."""
        for path in sorted(self.path.glob("*.json"), key=lambda path: (len(path.name), path.name)):
            if re.fullmatch(r"[0-9]{3}|[1-9][0-9]{3,}", path.stem):
                yield int(path.stem)

    def _open_expert(self, expert: int) -> ExpertResult:
        """Return the result of an expert whose shard is of the right form."""
        path = self._shard(expert)
        result = _read_sealed(path.with_suffix(".json"), ExpertResult)
        expected = [self.epochs + 1, vector_size(self.record.layout)]
        try:
            if result.record != self._seal:
                raise ValueError("it belongs to other experts")
            with safe_open(path, framework="pt") as file:
                rows = file.get_slice("parameters")
                shape, dtype = rows.get_shape(), rows.get_dtype()
            if (shape, dtype) != (expected, "F32"):
                raise ValueError(f"parameters are {dtype} {shape}, expected F32 {expected}")
            if (len(result.rows), len(result.losses)) != (self.epochs + 1, self.epochs):
                raise ValueError(f"results of {len(result.losses)} epochs, expected {self.epochs}")
        except _BROKEN as error:
            raise _broken(path, error) from None
        return result


def _broken(path: Path, error: Exception) -> RunError:
    reason = f"no {path.name}" if isinstance(error, FileNotFoundError) else error
    number = path.name.split(".")[0]
    return RunError(
        f"cannot read {path}",
        got=reason,
        fix=f"Delete {number}.* and train that expert again with `hpd experts CONFIG`.",
    )


Read = TypeVar("Read", bound=Settings)


def _read_sealed(path: Path, kind: type[Read]) -> Read:
    """Read a JSON file that was written with a checksum.

    Raises:
        RunError: if it is broken, was changed, or is of another format.
    """
    try:
        content = parse_json(path.read_bytes())
        if kind is ExpertRecord and content["format"] != FORMAT:
            raise ValueError(f"it is of format {content['format']}, this hpd reads {FORMAT}")
        # JSON has lists where the settings have tuples, which strictness would refuse
        return kind.model_validate(unsealed(content), strict=False)
    # pydantic's report has several lines
    except ValidationError as error:
        reason = f"{error.error_count()} values that are not as expected"
        raise RunError(f"cannot read {path}", got=reason) from None
    except (*_BROKEN, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        fix = "Train experts anew with `hpd experts CONFIG`, in another folder."
        raise RunError(f"cannot read {path}", got=reason, fix=fix) from None
