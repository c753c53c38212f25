"""Where artefacts may be written."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpd.disk.files import is_leftover, remove_leftovers
from hpd.disk.locks import held
from hpd.errors import RunError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

_DRAFT = ".draft"
# in characters, of which one may take four of the 255 bytes that the name of a folder may have
_LONGEST_NAME = 50


def going_on(folder: str | Path) -> str:
    """Return the command that goes on with a run, for a message.

    >>> going_on("runs/digits-0")
    '`hpd distill runs/digits-0 --resume`'
    """
    return f"`hpd distill {shlex.quote(str(folder))} --resume`"


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


def check_can_be_made(folder: Path) -> None:
    """Check that a folder can be made, or written to if it is there; nothing is written.

    Raises:
        RunError: if it lies below a file, or its place cannot be written to.
    """
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    if there is None or not there.is_dir():
        got = f"{there} is a file" if there is not None else "a place that does not exist"
        raise RunError(f"{folder} cannot be made", got=got, fix="Choose another folder with --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{folder} cannot be written to", got=there, fix="Choose another folder.")


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """Give a place where nothing is yet; what is written there becomes `folder`, whole or not.

    What processes left beside it that were killed at the same goes.

    Args:
        folder: where nothing is but half-written files; see `check_free`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts(folder)
    place = folder.parent / f".{folder.name[:_LONGEST_NAME]}.{secrets.token_hex(4)}{_DRAFT}"
    try:
        with held(place, "write to"):
            draft = place / "draft"
            yield draft
            if folder.exists():
                remove_leftovers(folder)
                folder.rmdir()
            draft.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_drafts(folder: Path) -> None:
    """Delete what is held by nobody any more."""
    name = re.escape(f".{folder.name[:_LONGEST_NAME]}.")
    for path in folder.parent.iterdir():
        if re.fullmatch(rf"{name}[0-9a-f]{{8}}{re.escape(_DRAFT)}", path.name):
            with suppress(RunError), held(path, "write to"):
                shutil.rmtree(path, ignore_errors=True)


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
