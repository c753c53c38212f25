"""Where artefacts may be written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpd.errors import RunError
from hpd.files import is_leftover

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def check_free(folder: Path) -> None:
    """Check that something can be written to `folder` without mixing with what is there.

    Raises:
        RunError: if it is a file, or a folder that is not empty; half-written files do not count.
    """
    if folder.is_dir() and any(not is_leftover(p.name) for p in folder.iterdir()):
        kind = "a run" if (folder / "config.yaml").exists() else "other files"
        raise RunError(f"{folder} already holds {kind}", fix="Choose another folder with --out.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file", fix="Choose another folder with --out.")


@contextmanager
def writing_to(folder: Path, fix: str) -> Iterator[None]:
    """Say what to do about a folder that cannot be written to in the middle of something.

    Raises:
        RunError: for a full disk and the like.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise RunError(f"cannot write to {folder}", got=error.strerror, fix=fix) from None
