"""What a launcher tells a process in its environment: how many there are, and which it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hpd.errors import ProcessError

_ADDRESS, _PORT = "MASTER_ADDR", "MASTER_PORT"
_LARGEST_PORT = 2**16 - 1
_LONGEST = 40


class _Names(NamedTuple):
    """What a kind of launcher calls its numbers."""

    size: str
    rank: str
    local_rank: str
    local_size: str


_TORCH = _Names("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPI = (
    _Names(
        "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Names("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Names(
        "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
)  # fmt: skip
VARIABLES = frozenset(name for names in (_TORCH, *_MPI) for name in names)
"""All variables by which libraries find out that a process is one of several."""


@dataclass(frozen=True)
class Launch:
    """Where a process stands among those that were started together.

    Args:
        rank: which of them this is, from 0.
        count: how many there are; 1 where no launcher started it.
        local_rank: which of those on its machine this is, from 0.
        local_count: how many there are on its machine; None where that was not said.
        address: host and port where they meet; empty for one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int | None = None
    address: str = ""

    def variables(self) -> dict[str, str]:
        """Return the numbers under the names that torch reads; nothing for one process."""
        numbers = (self.count, self.rank, self.local_rank, self.local_count)
        found = {k: str(v) for k, v in zip(_TORCH, numbers, strict=True) if v is not None}
        return found if self.count > 1 else {}


def read_launch(environ: Mapping[str, str] | None = None) -> Launch:
    """Return what a launcher said, checked: ``accelerate launch``, ``torchrun`` or one of MPI.

    An empty variable is one that is not set. What ``WORLD_SIZE`` says goes first, so that
    ``WORLD_SIZE=1`` runs a process alone whatever a scheduler left behind. Variables of Slurm are
    not read: an allocation alone starts no processes.

    Args:
        environ: the environment; None: that of this process.

    Raises:
        ProcessError: if the variables tell of several processes, but not all that is needed to
            find them, or if one of them is no number or out of range.

    >>> read_launch({"SLURM_NTASKS": "4", "RANK": ""})
    Launch(rank=0, count=1, local_rank=0, local_count=None, address='')
    """
    given = _Given(os.environ if environ is None else environ)
    for names in (_TORCH, *_MPI):
        count = given.number(names.size, least=1)
        if count is not None and count > 1:
            return given.one_of(names, count)
        if count is not None and names is _TORCH:
            break
    # the rank of a launcher whose count is missing: each would take itself for the only one
    if given.number(_TORCH.rank):
        given.check_below(_TORCH.rank, given.number(_TORCH.size) or 1, _TORCH.size)
    return Launch()


@dataclass(frozen=True)
class _Given:
    """Variables that are read, and what is wrong with them."""

    environ: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.environ.get(name, "").strip()

    def number(self, name: str, least: int = 0) -> int | None:
        """Return a variable that is a number; None where it is not set."""
        text = self.text(name)
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
            raise ProcessError(
                f"the environment variable {name} has no valid number",
                got=repr(text[:_LONGEST]), expected=f"{least} or more", fix=_way_out(name),
            )  # fmt: skip
        return int(text)

    def one_of(self, names: _Names, count: int) -> Launch:
        """Return the launch of one of several processes, which must be told everything."""
        for name in (names.rank, _ADDRESS, _PORT):
            if not self.text(name):
                raise ProcessError(
                    f"{names.size}={count} in the environment tells of several processes, "
                    f"but {name} is not set",
                    fix=_way_out(names.size),
                )
        self.check_below(names.rank, count, names.size)
        port = self.number(_PORT, least=1)
        if port is None or port > _LARGEST_PORT:
            raise ProcessError(
                f"the environment variable {_PORT} is no port",
                got=port, expected=f"at most {_LARGEST_PORT}", fix=_way_out(names.size),
            )  # fmt: skip
        rank = self.number(names.rank) or 0
        # older launchers say -1 where it does not matter; by itself a rank is right on one machine,
        # and on several that have as many processes each as they have devices
        local = None if self.text(names.local_rank) == "-1" else self.number(names.local_rank)
        return Launch(
            rank, count, rank if local is None else local,
            self.number(names.local_size, least=1), f"{self.text(_ADDRESS)}:{port}",
        )  # fmt: skip

    def check_below(self, name: str, count: int, counted_by: str) -> None:
        """Check a rank, whose variable is set, against the number of processes."""
        rank = self.number(name)
        if rank is not None and rank >= count:
            counted = f"{counted_by}={count}" if self.text(counted_by) else f"no {counted_by}"
            raise ProcessError(
                f"the environment variable {name} is too large",
                got=f"{name}={rank} with {counted}", fix=_way_out(name),
            )  # fmt: skip


def _way_out(name: str) -> str:
    return (
        f"Start with `accelerate launch` or `torchrun`, or unset {name} to run one process alone."
    )
