"""Devices: the only user of Accelerate."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from hpd.errors import DeviceError, ProcessError
from hpd.machine.board import Board
from hpd.machine.exchange import (
    Met,
    added_up,
    exchanging,
    gathered,
    in_turn,
    meet,
    open_words,
    told_by_all,
)
from hpd.machine.launch import VARIABLES, Launch, read_launch
from hpd.machine.precision import Float32, set_float32

if TYPE_CHECKING:
    from accelerate import PartialState

TrackerName = Literal["tensorboard", "wandb"]

_Object = TypeVar("_Object")
# one may train extractors or score while the others wait; a process that died is noticed at once,
# as its connections close and its launcher ends the others
_PATIENCE = timedelta(hours=2)
_STATE = threading.Lock()
# what the processes of the present group exchange words by
_MET: list[Met] = []
# a child of fork has none of the threads that its parent computed with, and would wait for them
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def open_device(name: str, float32: Float32 = "ieee") -> torch.device:
    """Return the device to compute on.

    Args:
        name: ``"auto"`` for what Accelerate finds, or a device of torch, such as ``"cpu"``
            or ``"cuda:1"``. Of several processes each gets its own by ``"auto"`` and ``"cuda"``.
        float32: how float32 numbers are multiplied from here on; see `set_float32`.

    Raises:
        DeviceError: if there is no such device, or several processes would share it.
        ProcessError: if a launcher left variables that say half of what is needed; see
            `hpd.machine.launch.read_launch`. On the CPU they do not matter.
    """
    set_float32(float32)
    try:
        device = _found_device() if name == "auto" else torch.device(name)
        launch = Launch() if device.type == "cpu" or name == "auto" else read_launch()
        if launch.count > 1:
            device = _own_device(device, launch)
        # a device that is busy, or that a parent of this process has taken, says so here
        torch.empty((), device=device)
    # torch raises AssertionError for a build without the device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        fix = "Try device=cpu." if name == "auto" else "Try device=auto."
        # torch lists all that it was ever ported to
        known = "auto, cpu, cuda, cuda:0, mps or another of torch"
        stranger = {"expected": known} if reason.startswith("Expected one of") else {"got": reason}
        raise DeviceError(f"no device {name!r}", fix=fix, **stranger) from None
    return device


def _found_device() -> torch.device:
    """Return what Accelerate finds."""
    device = torch.device(_state(cpu=_only_cpu()).device)
    # of several processes on a CPU each is told a number of its own, which means nothing
    return torch.device("cpu") if device.type == "cpu" else device


def _own_device(device: torch.device, launch: Launch) -> torch.device:
    """Return the device of this kind that one of several processes computes on."""
    if device.index is not None:
        raise DeviceError(
            "several processes cannot share a device", got=str(device), fix="Use device=auto."
        )
    count = torch.get_device_module(device).device_count()
    return torch.device(device.type, launch.local_rank % max(count, 1))


def _only_cpu() -> bool:
    return not torch.accelerator.is_available()


def _state(*, cpu: bool) -> PartialState:
    """Return what Accelerate knows of this process and the others, which meet at the first call.

    Accelerate takes the environment at its word. So it sees checked variables where there are
    several processes, and none where there is one.
    """
    from accelerate import PartialState

    launch = read_launch()
    with _STATE:
        if PartialState._shared_state:
            return PartialState()
        hidden = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
        os.environ.update(launch.variables())
        try:
            if launch.count == 1:
                return PartialState(cpu=cpu)
            # it would wait for a process that never comes as long as for one that works
            group = meet(launch.rank, launch.count, launch.address)
            with exchanging():
                return PartialState(cpu=cpu, timeout=_PATIENCE, **group)
        finally:
            os.environ.update(hidden)


class Processes:
    """The processes that compute one result together; one, unless a launcher started more.

    Whatever is exchanged is exchanged by all of them, in the same order. With one process every
    exchange is free, and nothing of Accelerate is imported.

    Tensors of the computation go where they lie, by NCCL between GPUs, at moments at which all are
    there. Numbers and objects, and with them all waiting for one that works alone, go by Gloo: a
    process waits for another as long as there are signs of it.

    Args:
        rank: which of them this is.
        count: how many there are.
        met: what they exchange words by; None: the group of the tensors, and a board of this
            process alone.

    Raises:
        ProcessError: from any exchange, if another process has ended.

    Attributes:
        told: whether a failure of one of them is known to all.
    """

    def __init__(self, rank: int = 0, count: int = 1, met: Met | None = None) -> None:
        self.rank, self.count = rank, count
        self.told = False
        self._met = met or Met()

    @classmethod
    def started(cls, *, cpu: bool = False) -> Processes:
        """Return those that ``accelerate launch`` or ``torchrun`` started, or this one alone.

        Args:
            cpu: whether they compute on the CPU even where there is something faster.

        Raises:
            ProcessError: if a launcher said half of what is needed (see
                `hpd.machine.launch.read_launch`), or if the processes do not meet where it said.
        """
        launch = read_launch()
        if launch.count == 1:
            return cls()
        # Arguments in it default to the group of when it is imported, and torch's optimizers import
        # it at their first. Imported now that there is none, or end() would leave the group's
        # threads to the exit of the process, which aborts if one of them frees a tensor then.
        import_module("torch.distributed.fsdp")
        state = _state(cpu=cpu or _only_cpu())
        if not torch.distributed.is_initialized():
            raise ProcessError(
                "the processes have no connection with each other (any more)",
                fix="Start them before anything else of Accelerate, and end them last.",
            )
        if not _MET:
            _MET.append(open_words(launch.rank, launch.address.rpartition(":")[0]))
        return cls(state.process_index, state.num_processes, _MET[0])

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def board(self) -> Board:
        """Where they leave texts for each other."""
        return self._met.board

    def average(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes of tensors of one shape, the same bits in each."""
        return self._reduced(tensor, "mean")

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes of tensors of one shape, the same bits in each."""
        return self._reduced(tensor, "sum")

    def _reduced(self, tensor: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
        if self.count == 1:
            return tensor
        total = added_up(tensor.to(_exchange_device())).to(tensor.device)
        return total if reduction == "sum" else total / self.count

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds in one of them, the same answer in each."""
        return self.largest(int(flag)) > 0

    def largest(self, number: int) -> int:
        """Return the largest of the numbers of all processes, the same in each."""
        return int(max(own[0] for own in self.numbers([number])))

    def numbers(self, own: Sequence[float]) -> list[list[float]]:
        """Return the numbers that each process gives, equally many, in their order.

        It waits for the others as long as there are signs of them.
        """
        if self.count == 1:
            return [list(own)]
        others = self.board.watch(rank for rank in range(self.count) if rank != self.rank)
        return told_by_all(own, self.count, self._met.words, others)

    def gather(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Return the tensors [n, ...] of all processes, in their order.

        Args:
            rows: of this process; the processes' may differ in n alone.
            counts: n of each process.
        """
        if self.count == 1:
            return [rows]
        found = gathered(rows.to(_exchange_device()), counts)
        return [part.to(rows.device) for part in found]

    def in_turn(self, rows: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
        """Yield the tensors [n, ...] of all processes, in their order, no two of them at once.

        Args:
            rows: of this process; the processes' may differ in n alone.
            counts: n of each process.
        """
        if self.count == 1:
            yield rows
            return
        self.numbers([0])
        # numbers of the host need no GPU to be exchanged
        words = self._met.words if rows.device.type == "cpu" else None
        yield from in_turn(rows, self.rank, counts, words)

    def objects(self, own: _Object) -> list[_Object]:
        """Return what each process gives, in their order: small objects that can be pickled."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        self.numbers([0])
        with exchanging():
            torch.distributed.all_gather_object(found, own, self._met.words)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that fails in all of them if it fails in one; nothing is exchanged in it.

        Raises:
            ProcessError: where the block itself did not fail, with what another one said.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            self._tell(error, [])
            raise
        self._tell(None, [])

    def agree(self, work: Callable[[], Sequence[float]], size: int) -> list[list[float]]:
        """Do something in each of them, and return the numbers that each came to, in their order.

        It is one exchange, and the work fails in all of them if it fails in one.

        Args:
            work: returns the numbers of this process; nothing is exchanged in it.
            size: how many there are.

        Raises:
            ProcessError: where the work itself did not fail, with what another one said.
        """
        if self.count == 1:
            return [list(work())]
        try:
            own = work()
        except Exception as error:
            self._tell(error, [0.0] * size)
            raise
        return self._tell(None, own)

    def _tell(self, error: Exception | None, own: Sequence[float]) -> list[list[float]]:
        """Exchange numbers, and whether there was an error."""
        found = self.numbers([float(error is not None), *own])
        if not any(failed for failed, *_ in found):
            return [numbers for _, *numbers in found]
        said = self.objects(None if error is None else f"{type(error).__name__}: {error}")
        self.told = True
        if error is None:
            rank = next(i for i, text in enumerate(said) if text is not None)
            raise ProcessError(f"process {rank} of {self.count} failed", got=said[rank])
        return []

    def first(self, work: Callable[[], _Object]) -> _Object:
        """Let the first process do something, and return in each what it gave.

        The result goes to the others pickled.

        Raises:
            ProcessError: in the others, if it failed.
        """
        result = None
        with self.together():
            if self.is_first:
                result = work()
        return cast("_Object", self._of_first(result))

    def _of_first(self, own: _Object | None) -> _Object | None:
        """Return what the first process gives."""
        if self.count == 1:
            return own
        box = [own]
        with exchanging():
            torch.distributed.broadcast_object_list(box, 0, self._met.words)
        return box[0]

    def end(self) -> None:
        """Leave the others, and end the threads of exchange; nothing can be exchanged any more."""
        if self.count > 1:
            from accelerate import PartialState

            self._met.end()
            _MET.clear()
            PartialState().destroy_process_group()


class Tracker:
    """A tracker of Accelerate.

    Args:
        name: which one.
        folder: of the run, which gets a folder of the tracker's name.
        project: of W&B.
        config: of the run, as JSON.
        done: steps taken already: what was sent of later ones is forgotten, where that is possible.
    """

    def __init__(
        self, name: TrackerName, folder: Path, project: str, config: Mapping[str, Any], done: int
    ) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        # trackers ask Accelerate which process they are in
        _state(cpu=_only_cpu())
        self._tracker: Any
        if name == "tensorboard":
            self._tracker = TensorBoardTracker(name, logging_dir=folder, purge_step=done)
        else:
            self._tracker = WandBTracker(project, name=folder.name, dir=str(folder))
        # older releases of Accelerate start when they are made
        getattr(self._tracker, "start", lambda: None)()
        if name == "tensorboard":
            # Accelerate would make a folder more for each start of a run
            self._tracker.log({"config": f"```\n{json.dumps(config, indent=2)}\n```"}, step=done)
        else:
            self._tracker.store_init_configuration(config)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers by name."""
        self._tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._tracker.finish()


def _exchange_device() -> torch.device:
    """Return where tensors must lie to be exchanged."""
    from accelerate import PartialState

    return torch.device(PartialState().device)
