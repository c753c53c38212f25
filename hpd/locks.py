"""Folders that one process holds, so that no two write to them at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpd.errors import RunError

_logger = logging.getLogger(__name__)


@contextmanager
def held(path: Path, does: str) -> Iterator[None]:
    """Make a folder and hold it for the length of a block.

    The system lets go of it when the process ends, however it does.

    Args:
        path: the folder.
        does: what a process that holds it does there, for the message: ``"trains experts in"``.

    Raises:
        RunError: if another process holds it, or it cannot be made.
    """
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
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process {does} {path}") from None
        # some network file systems have no locks; files are still written whole
        except OSError as error:
            _logger.warning("cannot lock %s: %s", path, error.strerror)
        yield
    finally:
        os.close(descriptor)
