"""Pictures to rows of bytes, once: in memory for small sets, else in a cache that is shared."""

from __future__ import annotations

import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from hpd.data.classes import shown_names
from hpd.data.images import Dataset, ImageSet, digest_images
from hpd.data.listing import NO_TEST, PARTS, Listing, Part, PartName, Report, garbage_later
from hpd.data.normalisation import Normalisation, histogram
from hpd.data.pictures.decoding import Head, Rows, decode, read_first
from hpd.data.pictures.reading import PictureOptions
from hpd.data.row_cache import Block, Contents, Shelf, Stored
from hpd.errors import DataError
from hpd.machine.memory import as_text
from hpd.progress import listener

# sets with fewer pictures, of fewer bytes as they are stored, are read sooner than looked up
_SMALL_COUNT, _SMALL_BYTES = 1000, 32 << 20
# small sets that this process keeps, for a run is distilled, evaluated and reported in one
_REMEMBERED, _REMEMBERED_BYTES = 2, 64 << 20
_CHUNK_BYTES = 1 << 23

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_logger = logging.getLogger(__name__)
_remembered: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
_noted: set[str] = set()


def read_listing(listing: Listing, options: PictureOptions, identity: Mapping[str, Any]) -> Dataset:
    """Return the images of a listing, read now or found in the cache.

    Large sets are kept in the cache as bytes, which are mapped into memory: another start, another
    process, and a part of the classes, find them there. Where nothing can be written they are read
    into memory, with a word.

    Args:
        listing: what to read.
        options: what pictures are turned into.
        identity: what decides the rows besides the pictures: ``"root"`` and options.

    Raises:
        DataError: if pictures are broken or differ in size, naming them; if there is neither disk
            nor memory for them.
    """
    for note in listing.notes:
        if f"{listing.where}: {note}" not in _noted:
            _noted.add(f"{listing.where}: {note}")
            # that there is no test part is usual; what is passed over may have been meant
            level = logging.INFO if note == NO_TEST else logging.WARNING
            _logger.log(level, "%s: %s", listing.where, note)
    with garbage_later():
        contents, shelf = Contents.of(listing), Shelf(identity)
        small = _is_small(listing)
        stored = None if small else shelf.find(contents)
        if stored is not None:
            return _mapped(stored, listing, contents)
    if small:
        return _in_memory(listing, options, f"{shelf.folder.name} {contents.key}")
    try:
        stored = _make(shelf, listing, options, contents)
    # a full or read-only disk; what is wrong with pictures is a DataError
    except OSError as error:
        return _without_disk(listing, options, contents, shelf, error)
    return _mapped(stored, listing, contents)


def is_stored(listing: Listing, identity: Mapping[str, Any]) -> bool:
    """Return whether the images of a listing are in the cache."""
    return Shelf(identity).find(Contents.of(listing)) is not None


def is_kept(listing: Listing) -> bool:
    """Return whether the images of a listing go to the cache, as those of large sets do."""
    return not _is_small(listing)


def _is_small(listing: Listing) -> bool:
    entries = [*listing.train.entries, *listing.test.entries]
    return len(entries) < _SMALL_COUNT and sum(own.size for own in entries) < _SMALL_BYTES


def _make(shelf: Shelf, listing: Listing, options: PictureOptions, contents: Contents) -> Stored:
    """Read all pictures into files, unless another process has done so meanwhile."""
    with shelf.locked():
        stored = shelf.find(contents)
        if stored is not None:
            return stored
        head = _head(listing, options)
        shape, size = head.shape, len(listing) * head.pixels.nbytes
        with shelf.draft() as draft:
            free = shutil.disk_usage(draft.folder).free
            if free < size:
                raise OSError(None, f"{as_text(size)} needed, {as_text(free)} free")
            hashes, counts, moving = dict[str, str](), list[Counts](), list[str]()
            for part in PARTS:
                own: Part = getattr(listing, part)
                with _RowFile(draft.rows(part)) as file:
                    moving += decode(own.entries, options, head, file.write, _heard(listing, part))
                labels = torch.tensor(own.labels, dtype=torch.int64)
                parts = _class_by_class(draft.rows(part), getattr(contents, part), shape, counts)
                hashes[part] = digest_images(shape, parts, labels)
            _tell_of_frames(moving)
            draft.write_histograms(np.stack(counts[: len(contents.train)]))
            return shelf.keep(draft, contents, {"shape": list(shape), "sha256": hashes})


def _class_by_class(
    path: Path, blocks: Sequence[Block], shape: tuple[int, ...], counts: list[Counts]
) -> Iterator[Rows]:
    """Give the rows of a file, some of a class at a time, and count the values of each class.

    Rows are read, not mapped: pages of a map would count as memory of this process.
    """
    per_row = int(np.prod(shape))
    with path.open("rb") as file:
        for block in blocks:
            count = np.zeros((shape[0], 256), dtype=np.int64)
            left = block.count
            while left:
                taken = min(left, max(1, _CHUNK_BYTES // per_row))
                rows = np.fromfile(file, np.uint8, taken * per_row).reshape(taken, *shape)
                count += histogram(torch.from_numpy(rows)).numpy()
                yield rows
                left -= taken
            counts.append(count)


def _head(listing: Listing, options: PictureOptions) -> Head:
    """Return the first picture by name: where one of another size is the first, the next tells."""
    parts = sorted((listing.train, listing.test), key=lambda part: part.entries[0].name)
    return read_first(chain(*(part.entries for part in parts)), options)


class _RowFile:
    """A file that takes rows in any order, and is on the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _RowFile:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o666)
        return self

    def write(self, first: int, rows: Rows) -> None:
        """Write rows; several threads may. A full disk is an OSError here, not a signal later."""
        offset, data = first * rows[0].nbytes, rows.reshape(-1).data
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            offset, data = offset + written, data[written:]

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def _heard(listing: Listing, part: PartName) -> Report:
    """Return who hears of the pictures of a part, counted over both."""
    before, hearing = 0 if part == "train" else len(listing.train), listener()

    def hear(done: int, total: int) -> None:
        hearing("reading pictures", before + done, len(listing))

    return hear


def _mapped(stored: Stored, listing: Listing, contents: Contents) -> Dataset:
    """Return the images of a listing as a view of rows in files."""
    stored.touch()
    places = {b.name: i for i, b in enumerate(stored.contents.train)}
    own_places = [places[b.name] for b in contents.train]
    counts = torch.from_numpy(stored.histograms[own_places].sum(axis=0))
    normalisation, parts = Normalisation.of_histogram(counts), []
    for name in PARTS:
        rows, own = torch.from_numpy(stored.rows(name)), getattr(listing, name)
        known = {(b.name, b.digest): b for b in getattr(stored.contents, name)}
        blocks = [known[b.name, b.digest] for b in getattr(contents, name)]
        index = torch.cat([torch.arange(b.start, b.start + b.count) for b in blocks])
        whole = len(index) == len(rows) and torch.equal(index, torch.arange(len(rows)))
        parts.append(
            ImageSet(
                rows, torch.tensor(own.labels, dtype=torch.int64), listing.classes, normalisation,
                index=None if whole else index,
                known_sha256=stored.about["sha256"][name] if whole else None,
            )
        )  # fmt: skip
    return Dataset(*parts)


def _without_disk(
    listing: Listing, options: PictureOptions, contents: Contents, shelf: Shelf, error: OSError
) -> Dataset:
    """Read into memory what cannot be kept in files."""
    head = _head(listing, options)
    size = len(listing) * head.pixels.nbytes
    free = psutil.virtual_memory().available
    problem = f"cannot keep the images of {listing.where} in {shelf.folder}: {error.strerror}"
    if size > 0.8 * free:
        raise DataError(
            problem,
            got=f"{as_text(free)} of memory, {as_text(size)} needed",
            fix="HPD_CACHE names another folder; data.resolution and data.classes make it less.",
        )
    _logger.warning(
        "%s. They are read into memory (%s), as at every start; HPD_CACHE names another folder",
        problem, as_text(size),
    )  # fmt: skip
    return _in_memory(listing, options, f"{shelf.folder.name} {contents.key}", head)


def _in_memory(
    listing: Listing, options: PictureOptions, key: str, head: Head | None = None
) -> Dataset:
    """Return the images of a listing in memory, which this process may still have.

    Args:
        listing: what to read.
        options: what pictures are turned into.
        key: by which they are remembered.
        head: the first picture, where it is read already.
    """
    found = _remembered.get(key)
    if found is None:
        found = _read(listing, options, head or _head(listing, options))
        if sum(rows.nbytes for rows in found.values()) <= _REMEMBERED_BYTES:
            _remembered[key] = found
    if key in _remembered:
        _remembered.move_to_end(key)
        while len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
        # whoever writes to their images must not write to those of others
        found = {part: rows.clone() for part, rows in found.items()}
    measured = Normalisation.of(found["train"])
    return Dataset(
        *(
            ImageSet(
                found[name], torch.tensor(part.labels, dtype=torch.int64), listing.classes,
                measured,
            )
            for name, part in zip(PARTS, (listing.train, listing.test), strict=True)
        )
    )  # fmt: skip


def _read(listing: Listing, options: PictureOptions, head: Head) -> dict[str, Tensor]:
    """Read all pictures into memory: uint8 [N, C, H, W] by part."""
    found, moving = dict[str, Tensor](), list[str]()
    for part in PARTS:
        own: Part = getattr(listing, part)
        rows = torch.empty(len(own), *head.shape, dtype=torch.uint8)

        def take(first: int, pixels: Rows, rows: Tensor = rows) -> None:
            rows[first : first + len(pixels)] = torch.from_numpy(pixels)

        moving += decode(own.entries, options, head, take, _heard(listing, part))
        found[part] = rows
    _tell_of_frames(moving)
    return found


def _tell_of_frames(names: Sequence[str]) -> None:
    if names:
        _logger.warning(
            "%d pictures have several frames, of which the first is taken: %s",
            len(names), shown_names([name.rpartition("/")[2] for name in names]),
        )  # fmt: skip
