"""Many pictures looked at by several threads: what they are, and a digest of what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from hpd.data.listing import PARTS, Entry, Listing, PartName, Report
from hpd.data.normalisation import histogram
from hpd.data.pictures.decoding import threads
from hpd.data.pictures.reading import PictureFacts, PictureOptions, Pixels, read_with_facts
from hpd.errors import DataError

_PER_TASK = 32
_DIGEST_BYTES = 16

Shape = tuple[int, int, int]
_T = TypeVar("_T")
Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Picked(NamedTuple):
    """A picture to look at.

    Args:
        part: that it belongs to.
        label: index of its class.
        entry: the picture.
    """

    part: PartName
    label: int
    entry: Entry


class Look(NamedTuple):
    """What a picture came to.

    Args:
        part: that it belongs to.
        label: index of its class.
        name: of the file.
        facts: what it is; None if it is broken.
        shape: (C, H, W) as a run reads it; None if it is broken.
        digest: of shape and pixels as a run reads them; None if it is broken.
        blank: whether all of its pixels are alike.
        problem: why it cannot be read; "" if it can.
    """

    part: PartName
    label: int
    name: str
    facts: PictureFacts | None = None
    shape: Shape | None = None
    digest: bytes | None = None
    blank: bool = False
    problem: str = ""


class Looks(NamedTuple):
    """Some pictures that were looked at.

    Args:
        each: what each came to.
        counts: how often each value occurs in the training pictures of each shape, [C, 256].
    """

    each: list[Look]
    counts: dict[Shape, Counts]


def pick(listing: Listing, per_class: int | None) -> list[Picked]:
    """Return the pictures to look at, evenly spaced in each class of each part.

    Args:
        listing: where they are.
        per_class: how many of each class and part; None: all.
    """
    picked = []
    for part in PARTS:
        own = getattr(listing, part)
        by_class: dict[int, list[Entry]] = {}
        for label, entry in zip(own.labels, own.entries, strict=True):
            by_class.setdefault(label, []).append(entry)
        for label, entries in by_class.items():
            picked += [Picked(part, label, entry) for entry in spaced(entries, per_class)]
    return picked


def spaced(entries: Sequence[_T], most: int | None) -> list[_T]:
    """Return at most so many of some things, evenly spaced."""
    if most is None or most >= len(entries):
        return list(entries)
    return [entries[i * len(entries) // most] for i in range(most)]


def look_at(
    picked: Sequence[Picked], options: PictureOptions, report: Report = lambda done, total: None
) -> Iterator[Looks]:
    """Look at pictures, some at a time, in their order; broken ones are told, not raised.

    Args:
        picked: the pictures.
        options: how a run reads them.
        report: hears how many are looked at.
    """
    tasks = [picked[i : i + _PER_TASK] for i in range(0, len(picked), _PER_TASK)]
    pool, done = ThreadPoolExecutor(threads([own.entry for own in picked])), 0
    try:
        for looks in pool.map(lambda task: _look(task, options), tasks):
            done += len(looks.each)
            report(done, len(picked))
            yield looks
    finally:
        pool.shutdown(cancel_futures=True)


def digest_of(pixels: Pixels) -> bytes:
    """Return a digest of a picture [H, W, C]: equal for equal pixels of an equal shape."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _look(task: Sequence[Picked], options: PictureOptions) -> Looks:
    each: list[Look] = []
    counts: dict[Shape, Counts] = {}
    for part, label, entry in task:
        try:
            pixels, facts = read_with_facts(entry, options)
        except DataError as error:
            each.append(Look(part, label, entry.name, problem=str(error)))
            continue
        height, width, channels = pixels.shape
        shape, blank = (channels, height, width), bool((pixels == pixels[0, 0]).all())
        digest = digest_of(pixels)
        each.append(Look(part, label, entry.name, facts, shape, digest, blank))
        if part == "train":
            own = histogram(torch.from_numpy(pixels).permute(2, 0, 1)[None])
            counts[shape] = counts.get(shape, 0) + own.numpy()
    return Looks(each, counts)
