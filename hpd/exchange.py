"""Exchanges between processes: how they meet, and what it means when one fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from hpd.errors import DeviceError, HpdError, ProcessError
from hpd.memory import is_out_of_memory

# until all are there: a machine may start minutes after another
_MEETING = timedelta(minutes=10)
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
