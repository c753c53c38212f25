"""Where processes that compute together leave short texts for each other, and that they are alive.

An exchange takes place when all come to it. What is on the board is read whenever somebody looks,
from any thread. And as every process leaves a sign there each few seconds, one that waits for
another knows whether that still works, however long it takes: nobody has to guess a time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from typing_extensions import Self

from hpd.errors import ProcessError

SIGN_SECONDS = 5.0
"""Between two signs that a process leaves."""
SILENCE_SECONDS = 600.0
"""After so long without a sign a process has ended, or its machine has."""
_ALIVE = "alive/"
_PATIENCE = timedelta(minutes=2)


class Board:
    """The board of a single process, or of threads that share it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._slots = 0

    def slot(self) -> str:
        """Return a name that is new; the n-th is the same in every process."""
        self._slots += 1
        return f"slot/{self._slots}"

    def put(self, name: str, text: str) -> None:
        """Leave a text by a name."""
        self._texts[name] = text

    def get(self, name: str) -> str | None:
        """Return the text of a name, None where nobody has left one yet."""
        return self._texts.get(name)

    def watch(self, ranks: Iterable[int]) -> Watch:
        """Return what looks after the signs of some processes from now on."""
        return Watch(self.get, ranks)

    def end(self) -> None:
        """Leave no more signs."""


class Watch:
    """Looks after the signs of processes while somebody waits for them.

    Args:
        get: returns the text of a name.
        ranks: of the processes.
    """

    def __init__(self, get: Callable[[str], str | None], ranks: Iterable[int]) -> None:
        self._get, now = get, time.monotonic()
        self._seen: dict[int, tuple[str | None, float]] = dict.fromkeys(ranks, (None, now))

    def check(self) -> None:
        """Check that there were signs of all of them lately.

        Raises:
            ProcessError: naming one of which there were none for `SILENCE_SECONDS`.
        """
        now = time.monotonic()
        for rank, (before, since) in self._seen.items():
            sign = self._get(f"{_ALIVE}{rank}")
            if sign != before:
                self._seen[rank] = (sign, now)
            elif now - since > SILENCE_SECONDS:
                raise ProcessError(
                    f"nothing was heard of process {rank} for {SILENCE_SECONDS:.0f} seconds",
                    fix="Its machine may be down. Start all of them again; a run that is written "
                    "down goes on with --resume.",
                )


class StoreBoard(Board):
    """The board of several processes: the first one keeps it, the others ask it.

    Args:
        store: a ``TCPStore`` of torch.
        rank: of this process.
    """

    def __init__(self, store: Any, rank: int) -> None:
        super().__init__()
        self._store, self._rank, self._ended = store, rank, threading.Event()
        self._thread = threading.Thread(target=self._leave_signs, name="hpd signs", daemon=True)
        self._thread.start()

    @classmethod
    def kept(cls, host: str) -> tuple[Self, int]:
        """Keep one in the first process, and return it with the port where it is asked.

        Args:
            host: by which others know this machine.

        Raises:
            RuntimeError: if there is no port.
        """
        store = _store(host, 0, is_master=True)
        return cls(store, 0), int(store.port)

    @classmethod
    def asked(cls, host: str, port: int, rank: int) -> Self:
        """Ask the one of the first process.

        Raises:
            RuntimeError: if it cannot be reached.
        """
        return cls(_store(host, port, is_master=False), rank)

    def put(self, name: str, text: str) -> None:
        """Leave a text by a name."""
        self._store.set(name, text)

    def get(self, name: str) -> str | None:
        """Return the text of a name, None where nobody has left one yet."""
        # asking for what is not there would wait for it
        return self._store.get(name).decode() if self._store.check([name]) else None

    def end(self) -> None:
        """Leave no more signs."""
        self._ended.set()
        self._thread.join()

    def _leave_signs(self) -> None:
        # the first process may be gone, which an exchange finds out
        with suppress(RuntimeError):
            number = 0
            while True:
                self.put(f"{_ALIVE}{self._rank}", str(number))
                number += 1
                if self._ended.wait(SIGN_SECONDS):
                    return


def _store(host: str, port: int, *, is_master: bool) -> Any:
    # torch's stubs do not name it
    kind: Any = vars(torch.distributed)["TCPStore"]
    return kind(host, port, is_master=is_master, timeout=_PATIENCE, wait_for_workers=False)
