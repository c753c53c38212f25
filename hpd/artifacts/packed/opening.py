"""Runs that are handed on: a packed file or a name on the hub stands wherever a folder does.

What is opened is a copy to read: a packed file is unpacked among the temporary files, for as long
as the process lives; what is on the hub is kept in the cache.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hpd.artifacts.packed.packing import unpack
from hpd.disk.archives import is_archive
from hpd.disk.cache import cache_folder
from hpd.disk.seals import digest_file
from hpd.errors import RunError
from hpd.hub import PREFIX, Repository, newest_commit, pull_files

_COMMIT_DIGITS = 12
# of this process: what was unpacked, by file and the time of its last change
_UNPACKED: dict[tuple[object, ...], tuple[tempfile.TemporaryDirectory[str], Path]] = {}


@dataclass(frozen=True)
class Place:
    """Where the files of a run lie.

    Args:
        folder: where they are.
        origin: the packed file or the name on the hub that they came from; None: they lie where
            they were written, and may be written to.
        sha256: of the packed file.
    """

    folder: Path
    origin: str | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What to call the run."""
        named = self.origin is not None and self.origin.startswith(PREFIX)
        return str(self.origin).removeprefix(PREFIX) if named else self.folder.name

    @property
    def shown(self) -> str:
        """What messages call it: as it was given."""
        return str(self.folder) if self.origin is None else self.origin


def place_of(given: str | Path) -> Place:
    """Return where the files of a run lie, given by its folder, a packed file or ``hub:org/name``.

    Whether there is a run is not looked at; a path at which nothing is stays what it is.

    Raises:
        RunError: if a packed file is damaged.
        HubError: if the hub does not give it.
    """
    text = str(given)
    if text.startswith(PREFIX):
        return _from_hub(text)
    path = Path(given).expanduser()
    if not is_archive(path):
        return Place(path)
    return Place(_unpacked(path), text, digest_file(path))


def folder_at(given: str | Path) -> Path:
    """Return the folder with the files of a run; see `place_of`."""
    return place_of(given).folder


def _unpacked(path: Path) -> Path:
    """Return the folder that a packed file was unpacked to in this process."""
    about = path.stat()
    key = (
        path.resolve(),
        about.st_dev,
        about.st_ino,
        about.st_size,
        about.st_mtime_ns,
        os.getpid(),
    )
    if key in _UNPACKED and _UNPACKED[key][1].is_dir():
        return _UNPACKED[key][1]
    try:
        place = tempfile.TemporaryDirectory(prefix="hpd-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RunError(
            f"cannot unpack {path}: there is no place for temporary files", got=error.strerror,
            fix="Set TMPDIR, or unpack it with any zip program and give the folder.",
        ) from None  # fmt: skip
    folder = Path(place.name) / (path.stem or "run")
    folder.mkdir()
    try:
        unpack(path, folder)
    except BaseException:
        place.cleanup()
        raise
    _UNPACKED[key] = (place, folder)
    return folder


def _from_hub(text: str) -> Place:
    """Return the copy in the cache of what is on the hub, as it is there now."""
    repository = Repository.read(text)
    commit = newest_commit(repository)
    name = f"{repository.name.replace('/', '--')}-{commit[:_COMMIT_DIGITS]}"
    folder = cache_folder("hub") / name
    if not folder.is_dir():
        pull_files(repository, commit, folder)
    return Place(folder, text)
