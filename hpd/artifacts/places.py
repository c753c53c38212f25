"""Where artefacts may be written."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpd.errors import RunError
from hpd.files import is_leftover, remove_leftovers

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
def drafted(folder: Path) -> Iterator[Path]:
    """Give a place where nothing is yet; what is written there becomes `folder`, whole or not.

    Args:
        folder: where nothing is but half-written files; see `check_free`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        draft = Path(temporary) / "draft"
        yield draft
        if folder.exists():
            remove_leftovers(folder)
            folder.rmdir()
        draft.rename(folder)


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
