"""A picture by its content, and what a file is that is none."""

from __future__ import annotations

import codecs
import os
import stat
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

# loaded with Pillow
_COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")
# read by other programs, if at all; Ghostscript would run what is written in the file
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# what a text says that stands where a picture should be, and what it is
_IMPOSTORS = (
    (b"%!ps", "an EPS file, which would be run rather than read"),
    (b"\x89png", "a broken PNG file"),
    (b"\xff\xd8\xff", "a broken JPEG file"),
    (b"gif8", "a broken GIF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not yet the file itself"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML text, perhaps an SVG drawing"),
)


def open_picture(source: str | Path | IO[bytes]) -> ImageFile.ImageFile:
    """Open a picture by its content; the suffix says nothing.

    Args:
        source: a path, or a file in memory; a path is closed with the picture.

    Returns:
        the picture, whose pixels are read when they are asked for.

    Raises:
        OSError: if there is no file, or none that Pillow reads (`UnidentifiedImageError`, which
            says what it is instead).
        DecompressionBombError: if it has more than twice ``Image.MAX_IMAGE_PIXELS``.
        ValueError: and others, for some broken files; see `hpd.data.pictures.reading.read_picture`.
    """
    # a pipe would wait for somebody to write; a Path takes three times as long
    if isinstance(source, (str, Path)) and not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116
        raise UnidentifiedImageError("no regular file")
    # a kind that is not there would make Pillow import all of them
    Image.preinit()
    try:
        picture = Image.open(source, formats=_COMMON)
    except UnidentifiedImageError:
        try:
            picture = Image.open(source, formats=_others())
        except UnidentifiedImageError:
            raise UnidentifiedImageError(_what_it_is(source)) from None
    if isinstance(source, (str, Path)):
        # then it is not mapped into memory: Pillow mixes up the rows of a mapped TIFF that lies
        # on its side, and who maps a file that another process cuts is killed
        picture.filename = ""
    return picture


@cache
def _others() -> tuple[str, ...]:
    """Return the other kinds that are decoded: those whose files begin with a sign first.

    Pillow's own order is that in which its parts happened to be loaded.
    """
    # imports all of them, which takes a while
    Image.init()
    kinds = set(Image.ID) - set(_COMMON) - NOT_DECODED
    return tuple(sorted(kinds, key=lambda kind: (Image.OPEN[kind][1] is None, kind)))


def _what_it_is(source: str | Path | IO[bytes]) -> str:
    """Return what a file is that is no picture, as far as its beginning says."""
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            start = file.read(64)
    else:
        source.seek(0)
        start = source.read(64)
    if not start:
        return "an empty file"
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _IMPOSTORS:
        if lowered.startswith(beginning):
            return what
    if not start.strip(b"\0"):
        return "a file that begins with zeros"
    try:
        # the last character may be cut in two
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        text = "\0"
    if all(c.isprintable() or c.isspace() for c in text):
        return "a text file"
    return "no kind of picture that Pillow knows"
