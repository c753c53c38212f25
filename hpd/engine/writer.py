"""Work that goes on beside the run, in a thread: one piece at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Writer:
    """Does what it is given in a thread of its own; an error waits until somebody asks."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin with a piece of work, when the one before it is done.

        Raises:
            Exception: what that one ended in.
        """
        self.wait()
        # no daemon: what is begun is written, also where the process is about to end
        self._thread = threading.Thread(target=self._do, args=(work,), name="hpd writer")
        self._thread.start()

    def check(self) -> None:
        """Raise what the work ended in, if it has ended so; once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until the work is done; see `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
