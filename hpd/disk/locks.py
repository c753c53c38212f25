"""Folders and files that one process holds, so that no two do the same work at once.

A folder is locked itself, so that nothing but a run lies in it, and the system says who holds it;
files of a cache, which several processes wait for, are locked by `filelock`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpd.errors import RunError, cut, one_line

_logger = logging.getLogger(__name__)
# what is held and lent: (device, inode) to the process and the thread that do
_LENT: dict[tuple[int, int], tuple[int, int]] = {}
_LONGEST_COMMAND = 120


class BusyError(RunError):
    """A folder that another process holds."""


@contextmanager
def held(path: Path, does: str, *, lends: bool = False, borrows: bool = False) -> Iterator[None]:
    """Make a folder and hold it for the length of a block.

    The system lets go of it when the process ends, however it does.

    Args:
        path: the folder.
        does: what this process would do there, for the message: ``"train experts in"``.
        lends: let the same thread hold it once more meanwhile, where it borrows.
        borrows: be content with what this thread holds and lends.

    Raises:
        BusyError: if another process holds it, saying which.
        RunError: if it cannot be made, or if its name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # safetensors could write files there, and never read them again
        raise RunError(
            "the name of a folder to write to is not UTF-8", got=ascii(str(path))
        ) from None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {path}", got=error.strerror) from None
    if sys.platform == "win32":  # has no such locks
        yield
        return
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"cannot read {path}", got=error.strerror) from None
    about = os.fstat(descriptor)
    key, mine = (about.st_dev, about.st_ino), (os.getpid(), threading.get_ident())
    if borrows and _LENT.get(key) == mine:
        os.close(descriptor)
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refused(path, does, about.st_ino) from None
        # some network file systems have no locks; files are still written whole
        except OSError as error:
            _logger.warning("cannot lock %s: %s", path, error.strerror)
        if lends:
            _LENT[key] = mine
        yield
    finally:
        if lends and _LENT.get(key) == mine:
            del _LENT[key]
        os.close(descriptor)


@contextmanager
def trying(path: Path) -> Iterator[bool]:
    """Try to hold a file for the length of a block, and say whether that went.

    It is made for this, and gone afterwards. The system lets go of it when the process ends,
    however it does; then the file stays, for the next one.

    Args:
        path: the file, of nothing but this.

    Raises:
        RunError: if it cannot be made.
    """
    if sys.platform == "win32":  # has no such locks
        yield True
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"cannot write {path}", got=error.strerror) from None
    holds = _holds(descriptor, path)
    try:
        yield holds
    finally:
        if holds:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _holds(descriptor: int, path: Path) -> bool:
    """Lock an open file, and return whether it is locked and still the one at the path."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        _logger.warning("cannot lock %s: %s", path, error.strerror)
        return True


def _refused(path: Path, does: str, inode: int) -> BusyError:
    """Return the error of a folder that another process, or another thread, holds."""
    pid = _holder(inode)
    if pid is None:
        who, fix = None, "Wait for it to end"
    elif pid == os.getpid():
        who, fix = "another thread of this process", "Wait for it to end"
    else:
        who = _described(pid)
        fix = f"Wait for it to end, or end it: `kill {pid}`. What it has done is kept"
    problem = f"cannot {does} {path}: another process works in it"
    return BusyError(problem, got=who, fix=f"{fix}; then give the same command again.")


def _holder(inode: int) -> int | None:
    """Return the number of the process that holds a folder, None where the system does not say."""
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
        words = line.split()
        if "FLOCK" in words and len(words) > 5 and words[5].rpartition(":")[2] == str(inode):
            pid = int(words[4])
            return pid if pid > 0 else None
    return None


def _described(pid: int) -> str:
    """Return in words which process it is: its number, what it runs, and for how long."""
    text = f"process {pid}"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        began = Path(f"/proc/{pid}").stat().st_mtime
    except OSError:
        return text
    command = " ".join(word for word in words if word)
    minutes = max(0, int(time.time() - began)) // 60
    since = f"{minutes} min" if minutes else "less than a minute"
    return f"{text} ({cut(one_line(command), _LONGEST_COMMAND)}), for {since}"
