"""The processes that do some work together, forked off one that has imported everything."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from attacks.works import Work, be_one_of, free_port


class Ranks:
    """The processes of some work, which start at once.

    Args:
        work: what they do.
        out: folder that they do it in.
        complaints: file that gets what they say.
    """

    def __init__(self, work: Work, out: Path, complaints: Path) -> None:
        complaints.write_text("")
        self._codes: dict[int, int] = {}
        port = free_port()
        self._pids = [_start(work, out, rank, port, complaints) for rank in range(work.ranks)]

    @property
    def _running(self) -> list[int]:
        return [pid for pid in self._pids if pid not in self._codes]

    @property
    def codes(self) -> list[int | None]:
        """Exit codes, or minus the signal, by rank; None for one that is running."""
        return [self._codes.get(pid) for pid in self._pids]

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended, but no longer than some seconds; return whether they have."""
        end = time.perf_counter() + seconds
        while True:
            for pid in self._running:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
            left = end - time.perf_counter()
            if not self._running or left <= 0:
                return not self._running
            time.sleep(min(left, 0.002))

    def send(self, number: int, rank: int | None = None) -> bool:
        """Send a signal to one or to all that are running; return whether any is."""
        wanted = self._pids if rank is None else [self._pids[rank]]
        alive = [pid for pid in wanted if pid in self._running]
        for pid in alive:
            os.kill(pid, number)
        return bool(alive)

    def end(self) -> None:
        """End those that are left."""
        self.send(signal.SIGKILL)
        self.wait(60)


def _start(work: Work, out: Path, rank: int, port: int, complaints: Path) -> int:
    """Fork a process that works and leaves; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with complaints.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        be_one_of(rank, work.ranks, port)
        work.run(out)
        code = 0
    except BaseException:
        sys.stderr = complaints.open("a")
        sys.stderr.write(f"process {rank}: {traceback.format_exc()}")
        sys.stderr.flush()
    finally:
        os._exit(code)
    raise AssertionError("unreachable")
