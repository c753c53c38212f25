"""Pictures read by several threads at once, each where it belongs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from hpd.data.listing import Entry, Report
from hpd.data.pictures.reading import PictureFacts, PictureOptions, Pixels, read_with_facts
from hpd.errors import DataError

# Pillow lets other threads run while it decodes; more than these hardly help
_MOST_THREADS = 16
_SMALL_BYTES = 4096
_PER_TASK = 32
# broken pictures that are named before the rest is not tried any more
_MOST_NAMED = 10
_LONGEST_NAME = 44

Rows = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Sink = Callable[[int, Rows], None]
"""Takes pictures, uint8 [n, C, H, W], from the row of the first on; called by several threads."""


@dataclass(frozen=True)
class Head:
    """The picture that was read first, whose size is that of all.

    Args:
        entry: where it is.
        pixels: uint8 [H, W, C].
        facts: what it was.
    """

    entry: Entry
    pixels: Pixels
    facts: PictureFacts

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W)."""
        height, width, channels = self.pixels.shape
        return channels, height, width


def threads(entries: Sequence[Entry]) -> int:
    """Return how many threads read pictures: as many as this process may use cores.

    One for small pictures: most of their time passes in Python, where threads wait for each other.
    """
    if sum(entry.size for entry in entries) < _SMALL_BYTES * len(entries):
        return 1
    known = getattr(os, "sched_getaffinity", None)
    return max(1, min(len(known(0)) if known else os.cpu_count() or 1, _MOST_THREADS))


def decode(
    entries: Sequence[Entry], options: PictureOptions, head: Head, sink: Sink,
    report: Report = lambda done, total: None,
) -> list[str]:  # fmt: skip
    """Read all pictures, each once.

    Args:
        entries: the pictures.
        options: what they are turned into.
        head: the picture whose size all must have; see `read_first`.
        sink: takes them.
        report: hears how many are read; called by this thread.

    Returns:
        the names of those with several frames, of which the first is taken.

    Raises:
        DataError: for a picture of another size, as soon as it is met; else for all that are
            broken, of which it names ten.
    """
    work, done = _Work(entries, options, head, sink), 0
    for count in work.run(threads(entries)):
        done += count
        report(done, len(entries))
    work.broken.raise_any()
    return sorted(work.moving)


class _Work:
    """Pictures that are being read; see `decode`."""

    def __init__(
        self, entries: Sequence[Entry], options: PictureOptions, head: Head, sink: Sink
    ) -> None:
        self._entries, self._options, self._head, self._sink = entries, options, head, sink
        self._stop = threading.Event()
        self.broken, self.moving = _Broken(), list[str]()

    def run(self, workers: int) -> Iterator[int]:
        """Read all, and give after each task how many it was; the first error ends all."""
        starts = range(0, len(self._entries), _PER_TASK)
        if workers == 1 or len(starts) == 1:
            yield from map(self._task, starts)
            return
        with ThreadPoolExecutor(workers, "hpd-pictures") as pool:
            waiting, left = set[Future[int]](), iter(starts)
            try:
                while True:
                    # no more than are needed to keep all at work: what is read ahead takes memory
                    for start in left:
                        waiting.add(pool.submit(self._task, start))
                        if len(waiting) >= 2 * workers:
                            break
                    if not waiting:
                        return
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
            finally:
                # Ctrl-C included: what is under way ends after its picture
                self._stop.set()

    def _task(self, first: int) -> int:
        own, shape = self._entries[first : first + _PER_TASK], self._head.shape
        rows = np.empty((len(own), *shape), dtype=np.uint8)
        for i, entry in enumerate(own):
            if self._stop.is_set():
                break
            pixels = self._pixels(first + i, entry)
            if pixels is None:
                continue
            if pixels.shape != self._head.pixels.shape:
                self._stop.set()
                raise _other_size(entry, pixels, self._head)
            rows[i] = pixels.transpose(2, 0, 1)
        self._sink(first, rows)
        return len(own)

    def _pixels(self, place: int, entry: Entry) -> Pixels | None:
        """Read a picture; None if it is broken."""
        try:
            known = self._head if entry is self._head.entry else None
            known = known or Head(entry, *read_with_facts(entry, self._options))
        except DataError as error:
            self.broken.add(place, entry, error)
            if self.broken.enough:
                self._stop.set()
            return None
        if known.facts.several_frames:
            self.moving.append(entry.name)
        return known.pixels


def read_first(entries: Iterable[Entry], options: PictureOptions) -> Head:
    """Return the first picture that is not broken.

    Raises:
        DataError: if so many are broken that the rest is not tried.
    """
    broken = _Broken()
    for i, entry in enumerate(entries):
        try:
            return Head(entry, *read_with_facts(entry, options))
        except DataError as error:
            broken.add(i, entry, error)
            if broken.enough:
                break
    broken.raise_any()
    raise DataError("there are no pictures")


class _Broken:
    """The errors of broken pictures, by their place."""

    def __init__(self) -> None:
        self._errors: dict[int, tuple[str, DataError]] = {}
        self._lock = threading.Lock()

    def add(self, place: int, entry: Entry, error: DataError) -> None:
        with self._lock:
            self._errors[place] = entry.name, error

    @property
    def enough(self) -> bool:
        return len(self._errors) > _MOST_NAMED

    def raise_any(self) -> None:
        """Raise the one error, or one that names all, or ten of them."""
        found = [self._errors[place] for place in sorted(self._errors)]
        if len(found) == 1:
            raise found[0][1]
        if found:
            names = [_shortened(name) for name, _ in found[:_MOST_NAMED]]
            more = " and more" if len(found) > _MOST_NAMED else ""
            raise DataError(
                f"broken pictures: {', '.join(names)}{more}",
                fix="Replace or remove them; `hpd data inspect` says what is wrong with each.",
            )


def _shortened(name: str) -> str:
    """Return the end of a long path, which is what tells it from others."""
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def _other_size(entry: Entry, pixels: Pixels, head: Head) -> DataError:
    return DataError(
        f"images differ in size: {entry.name}",
        got=f"{pixels.shape[1]}x{pixels.shape[0]} px",
        expected=f"{head.shape[2]}x{head.shape[1]} px as {head.entry.name}",
        fix="Set data.resolution to bring all to one size.",
    )
