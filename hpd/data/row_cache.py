"""Rows of bytes in files: made once, found again, shared by processes.

In the cache lies a folder for each way of reading a place, and in it one for each listing of that
place: ``train.rows`` and ``test.rows``, uint8 [N, C, H, W] as they are in memory,
``histograms.npy``, and ``about.json``, which says what is in them. Such a folder appears whole or
not at all. Only the holder of the lock writes one, so what looks unfinished to it was left by a
process that was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock, Timeout

from hpd.data.listing import PARTS, Listing, Part
from hpd.disk.cache import cache_folder
from hpd.disk.files import parse_json, write_json

# changes when the same pictures would come out as other bytes, or files mean something else
FORMAT = 1
_KEY_DIGITS = 24
_ABOUT, _HISTOGRAMS, _LOCK, _DRAFT = "about.json", "histograms.npy", ".lock", ".part-"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """The rows of one class in one part.

    Args:
        name: of the class.
        digest: of the stamps of its pictures.
        start: its first row.
        count: of its rows.
    """

    name: str
    digest: str
    start: int
    count: int


@dataclass(frozen=True)
class Contents:
    """What a listing comes to, by part: blocks in the order of the labels."""

    train: tuple[Block, ...]
    test: tuple[Block, ...]

    @classmethod
    def of(cls, listing: Listing) -> Contents:
        """Take the contents from a listing."""
        parts = (listing.train, listing.test)
        return cls(*(_blocks(part, listing.classes, listing.where) for part in parts))

    @property
    def key(self) -> str:
        """Short hash of all digests."""
        return _short([[(b.name, b.digest) for b in part] for part in (self.train, self.test)])

    def within(self, other: Contents) -> bool:
        """Return whether another has at least these classes with these pictures."""
        pairs = ((self.train, other.train), (self.test, other.test))
        return all(
            {(b.name, b.digest) for b in own} <= {(b.name, b.digest) for b in known}
            for own, known in pairs
        )


def _blocks(part: Part, classes: Sequence[str], where: str) -> tuple[Block, ...]:
    labels = np.asarray(part.labels)
    bounds = np.searchsorted(labels, np.arange(len(classes) + 1))
    blocks = []
    for name, start, stop in zip(classes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        # relative to the place, whose own path is in the name of the folder above
        stamps = (entry.stamp.removeprefix(where) for entry in part.entries[start:stop])
        # names of files may be no Unicode at all
        text = "\0\0".join(stamps).encode(errors="surrogateescape")
        digest = hashlib.sha256(text).hexdigest()[:_KEY_DIGITS]
        blocks.append(Block(name, digest, start, stop - start))
    return tuple(blocks)


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class Stored:
    """A listing whose rows are in files.

    Args:
        folder: where.
        about: what `about.json` says.
    """

    folder: Path
    about: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Stored | None:
        """Return what is in a folder; None if it is not there or not whole."""
        try:
            about = parse_json((folder / _ABOUT).read_text("utf-8"))
            if about["format"] != FORMAT:
                return None
            found = cls(folder, about)
            str(found.identity["root"])
            for part in PARTS:
                if (folder / f"{part}.rows").stat().st_size != found.count(part) * found.row_bytes:
                    return None
            expected = (len(found.contents.train), found.shape[0], 256)
            return found if found.histograms.shape == expected else None
        # numpy raises EOFError for an empty file
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decided the rows besides the pictures: the place, ``"root"``, and options."""
        found: Mapping[str, Any] = self.about["identity"]
        return found

    @property
    def used(self) -> float:
        """When it was used last, in seconds since 1970."""
        return (self.folder / _ABOUT).stat().st_mtime

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        c, h, w = self.about["shape"]
        return int(c), int(h), int(w)

    @property
    def row_bytes(self) -> int:
        """Bytes of an image."""
        c, h, w = self.shape
        return c * h * w

    @cached_property
    def contents(self) -> Contents:
        """Classes of both parts."""
        parts = (self.about["parts"][part] for part in PARTS)
        return Contents(*(tuple(Block(**block) for block in part) for part in parts))

    def count(self, part: str) -> int:
        """Return the number of images in a part."""
        return sum(int(block["count"]) for block in self.about["parts"][part])

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(self.count(part) for part in PARTS) * self.row_bytes

    def rows(self, part: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Map the rows of a part into memory, [N, C, H, W]; writing to them changes no file."""
        shape = (self.count(part), *self.shape)
        return np.memmap(self.folder / f"{part}.rows", np.uint8, mode="c", shape=shape)

    @cached_property
    def histograms(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """How often each value occurs in each training class, [K, C, 256]."""
        found: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = np.load(self.folder / _HISTOGRAMS)
        return found

    def touch(self) -> None:
        """Note that it was used."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / _ABOUT)


class Shelf:
    """All listings of a place that were read in one way.

    Args:
        identity: what decides the rows besides the pictures: place and options.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.identity = identity
        key = _short([FORMAT, PIL.__version__, sorted(identity.items())])
        self.folder = cache_folder("rows") / key

    def find(self, contents: Contents) -> Stored | None:
        """Return stored rows that hold at least these classes with these pictures; None without."""
        exact = Stored.open(self.folder / contents.key)
        if exact is not None:
            return exact
        for about in sorted(self.folder.glob(f"*/{_ABOUT}")):
            stored = Stored.open(about.parent)
            if stored is None:
                continue
            if contents.within(stored.contents):
                return stored
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the shelf for the length of a block; what killed processes left is removed.

        Raises:
            OSError: if it cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("waiting for another process that reads %s", self.identity["root"])
            lock.acquire()
        except NotImplementedError:
            # some network file systems have no locks: two processes may read at once, to no harm
            yield
            return
        try:
            for draft in self.folder.glob(f"{_DRAFT}*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """Give a folder to write to, which is gone after the block if it was not `kept`."""
        # not by tempfile, whose folders are private: a cache may be that of a group
        folder = self.folder / f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            yield Draft(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, draft: Draft, contents: Contents, about: Mapping[str, Any]) -> Stored:
        """Make a draft that is complete a stored listing, in place of those it supersedes."""
        write_json(draft.folder / _ABOUT, {
            "format": FORMAT,
            **about,
            "identity": dict(self.identity),
            "created": round(time.time(), 3),
            "parts": {part: [asdict(block) for block in getattr(contents, part)] for part in PARTS},
        })  # fmt: skip
        target = self.folder / contents.key
        if Stored.open(target) is None:
            shutil.rmtree(target, ignore_errors=True)
            draft.folder.rename(target)
        self._drop_superseded(contents)
        stored = Stored.open(target)
        if stored is None:
            raise OSError(f"{target} is not as it was written")
        return stored

    def _drop_superseded(self, contents: Contents) -> None:
        """Remove listings of classes whose pictures are others now; mapped files live on."""
        now = {(part, b.name): b.digest for part in PARTS for b in getattr(contents, part)}
        for about in self.folder.glob(f"*/{_ABOUT}"):
            stored = Stored.open(about.parent)
            blocks = [] if stored is None else [
                (part, b) for part in PARTS for b in getattr(stored.contents, part)
            ]  # fmt: skip
            if stored is None or any(
                now.get((part, b.name), b.digest) != b.digest for part, b in blocks
            ):
                shutil.rmtree(about.parent, ignore_errors=True)


@dataclass(frozen=True)
class Draft:
    """A folder that rows are being written to."""

    folder: Path

    def rows(self, part: str) -> Path:
        """Return the file of a part's rows."""
        return self.folder / f"{part}.rows"

    def write_histograms(self, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        """Keep how often each value occurs in each training class, [K, C, 256]."""
        np.save(self.folder / _HISTOGRAMS, counts)


def stored_listings() -> list[Stored]:
    """Return all rows in the cache, those used last first."""
    folders = [about.parent for about in cache_folder("rows").glob(f"*/*/{_ABOUT}")]
    found = [stored for folder in folders if (stored := Stored.open(folder)) is not None]
    return sorted(found, key=lambda stored: -stored.used)


def clear(keep: Sequence[Stored] = ()) -> int:
    """Remove the rows in the cache but some, and what killed processes left; return freed bytes.

    Raises:
        OSError: if something cannot be removed.
    """
    kept, freed = {stored.folder for stored in keep}, 0
    for shelf in sorted(cache_folder("rows").glob("*")):
        for folder in [path for path in shelf.iterdir() if path.is_dir() and path not in kept]:
            # of a process that is reading just now: its lock is held
            if folder.name.startswith(_DRAFT) and _is_held(shelf / _LOCK):
                continue
            freed += sum(file.stat().st_size for file in folder.glob("*"))
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            if not any(path.is_dir() for path in shelf.iterdir()) and not _is_held(shelf / _LOCK):
                (shelf / _LOCK).unlink(missing_ok=True)
                shelf.rmdir()
    return freed


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError):
        return True
    lock.release()
    return False
