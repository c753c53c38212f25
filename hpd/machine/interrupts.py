"""Signals that ask a process to end: heard where the work can be left, and not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EXIT_BASE = 128


class Interrupted(KeyboardInterrupt):
    """A signal that asked the process to end: Ctrl-C or SIGTERM.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return 128 plus the number of the signal, as shells do: 130 for Ctrl-C, 143 for SIGTERM.

    >>> exit_code(KeyboardInterrupt())
    130
    """
    number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
    return _EXIT_BASE + int(number)


class Interrupts:
    """Turns Ctrl-C and SIGTERM into `Interrupted` for the length of a ``with`` block.

    It is raised at once, but inside `deferred` only where the block calls `check`, so that what is
    done there is done whole. A second signal is raised at once anywhere. Signals reach the main
    thread only; in another one this does nothing.

    Args:
        repeated: whether each signal may come more than once, as from the terminal and from a
            launcher that passes it on; then a second one is not raised at once.
    """

    def __init__(self, *, repeated: bool = False) -> None:
        self._repeated = repeated
        self._heard: int | None = None
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # what the process was told to ignore stays ignored, as under nohup
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    @property
    def number(self) -> int:
        """Number of the signal that waits for `check`; 0 if there is none."""
        return self._heard or 0

    def check(self) -> None:
        """Raise the signal that was heard.

        Raises:
            Interrupted: if there was one.
        """
        if self._heard is not None:
            raise Interrupted(self._heard)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Wait for `check` with a first signal until the end of the block, which checks, too."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._deferred and (self._heard is None or self._repeated):
            self._heard = self._heard or number
            return
        raise Interrupted(number)
