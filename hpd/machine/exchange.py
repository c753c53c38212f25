"""Exchanges between processes: how they meet, and what it means when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpd.errors import DeviceError, HpdError, ProcessError
from hpd.machine.board import Board, StoreBoard, Watch
from hpd.machine.memory import is_out_of_memory

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# until all are there: a machine may start minutes after another
_MEETING = timedelta(minutes=10)
# it has no limit but that of the board, and torch wants some time
_FOREVER = timedelta(days=3650)
LOOK = timedelta(seconds=5)
"""How long one that waits does not look after the others."""
# what Gloo and NCCL say where the other end is gone; torch has no type of its own for it
_GONE = (
    "closed by peer", "connection closed", "connection reset", "connection refused", "broken pipe",
    "timed out", "timeout", "read error", "remoteerror", "remote process", "pair closure",
)  # fmt: skip
_LONGEST = 200


def meet(rank: int, count: int, address: str) -> dict[str, Any]:
    """Wait until all processes are there, and return what their group is made of.

    Args:
        rank: which of them this is.
        count: how many there are.
        address: host and port where they meet, which the environment says, too.

    Returns:
        what ``torch.distributed.init_process_group`` takes; nothing if there is a group already.

    Raises:
        ProcessError: if they do not meet within ten minutes, or cannot.
    """
    if torch.distributed.is_initialized():  # by the script that calls
        return {}
    from torch.distributed.rendezvous import rendezvous

    try:
        found = rendezvous("env://", rank, count, timeout=_MEETING)
        store, _, _ = next(found)
    except (RuntimeError, ValueError) as error:
        reason, port = _reason(error), address.rpartition(":")[2]
        if "EADDRINUSE" in str(error):
            raise ProcessError(
                f"another program uses the port {port}, where the processes are to meet",
                fix="Choose another: --main_process_port of `accelerate launch`, --master_port of "
                "`torchrun`.",
            ) from None
        raise ProcessError(
            f"process {rank} of {count} cannot meet the others at {address}",
            got=reason, fix="Check MASTER_ADDR and MASTER_PORT, and whether all were started.",
        ) from None  # fmt: skip
    return {"store": store, "rank": rank, "world_size": count}


@dataclass
class Met:
    """What processes that have met exchange words by.

    Args:
        words: the group for numbers and objects; None: that of the tensors.
        board: where they leave texts.
    """

    words: Any = None
    board: Board = field(default_factory=Board)

    def end(self) -> None:
        """Leave no signs any more, and let go of the group, whose threads end with it."""
        self.board.end()
        self.words = None


def open_words(rank: int, host: str) -> Met:
    """Return what processes that have met exchange words by.

    Args:
        rank: of this process; the first one keeps the board.
        host: by which others know the machine of the first.

    Raises:
        ProcessError: if another one has ended, or the board cannot be reached.
    """
    port: list[Any] = [None]
    with exchanging():
        group: Any = torch.distributed.new_group(backend="gloo", timeout=_FOREVER)
        board = None
        if rank == 0:
            board, port[0] = StoreBoard.kept(host)
        torch.distributed.broadcast_object_list(port, 0, group)
        return Met(group, board or StoreBoard.asked(host, port[0], rank))


@contextmanager
def exchanging() -> Iterator[None]:
    """Say what it means when an exchange fails within a block.

    Raises:
        ProcessError: if another process has gone, or the processes do not reach each other.
        DeviceError: if two of them compute on one GPU.
        RuntimeError: as it was, if it says that memory ran out or is not of an exchange at all.
    """
    try:
        yield
    except RuntimeError as error:
        found = _explained(error)
        if found is None:
            raise
        raise found from error


def _explained(error: RuntimeError) -> HpdError | None:
    """Return what an error of an exchange means; None for one that is not of the exchange."""
    text = str(error).lower()
    if is_out_of_memory(error):
        return None
    if "duplicate gpu" in text:
        return DeviceError(
            "two processes compute on one GPU",
            fix="Start no more processes on a machine than it has GPUs, or set device=cpu.",
        )
    if any(saying in text for saying in _GONE):
        return ProcessError(
            "another process of the run has ended",
            fix="Start all of them again; a run that is written down goes on with --resume.",
        )
    if isinstance(error, torch.distributed.DistError) or "gloo" in text:
        return ProcessError("the processes cannot exchange what they computed", got=_reason(error))
    return None


def _reason(error: Exception) -> str:
    """Return the first line of what a library said, at most a sentence or two."""
    lines = str(error).strip().splitlines()
    return lines[0][:_LONGEST] if lines else type(error).__name__


def told_by_all(
    own: Sequence[float], count: int, group: ProcessGroup | None, others: Watch
) -> list[list[float]]:
    """Return the numbers that each process gives, in their order, as long as there are signs of it.

    Args:
        own: of this process; all give equally many.
        count: of processes.
        group: to exchange them in, of torch.
        others: the other processes.

    Raises:
        ProcessError: if another one has ended.
    """
    mine = torch.tensor(own, dtype=torch.float64)
    found = [torch.empty_like(mine) for _ in range(count)]
    with exchanging():
        work = torch.distributed.all_gather(found, mine, group, async_op=True)
        while not _is_done(work):
            others.check()
    return [part.tolist() for part in found]


def _is_done(work: torch.distributed.Work) -> bool:
    """Wait a moment for an exchange, and return whether it took place."""
    try:
        return bool(work.wait(LOOK))
    except RuntimeError:
        # torch says alike that the moment is over and that the exchange failed
        if work.is_completed():
            raise
        return False


def added_up(tensor: Tensor) -> Tensor:
    """Return the sum over processes of tensors of one shape, the same bits in each."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    with exchanging():
        torch.distributed.all_reduce(total)
    return total


def gathered(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Return the tensors [n, ...] of all processes, which differ in n alone, in their order."""
    # libraries exchange tensors of one shape only
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in counts]
    with exchanging():
        torch.distributed.all_gather(found, padded)
    return [part[:count] for part, count in zip(found, counts, strict=True)]


def in_turn(
    rows: Tensor, rank: int, counts: Sequence[int], group: ProcessGroup | None
) -> Iterator[Tensor]:
    """Yield the tensors [n, ...] of all processes in their order, no two of them at once."""
    for owner, count in enumerate(counts):
        part = rows.contiguous() if owner == rank else rows.new_empty(count, *rows.shape[1:])
        with exchanging():
            torch.distributed.broadcast(part, owner, group)
        yield part
