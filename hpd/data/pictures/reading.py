"""One picture of any kind to bytes of one kind."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from hpd.data.listing import Entry
from hpd.data.pictures.modes import flattened, stored_as
from hpd.errors import DataError

# pixels, and how many of them a byte of an honest file of that size may hold
_LARGE, _DENSEST = 2**25, 500
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

# a JPEG is decoded at a fraction of its size where both sides stay this many times the result:
# then the result differs by less than 1 of 255 on average
_DRAFT_GAP = 4
_DRAFT_KINDS, _DRAFT_MODES = ("JPEG", "MPO"), ("RGB", "L")
# an MPO is one photo with its previews, a PSD one picture with its layers
_NOT_FRAMES = ("MPO", "PSD")
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)
_NAME_CHARACTERS, _REASON_CHARACTERS = 240, 120


@dataclass(frozen=True)
class PictureOptions:
    """What pictures are turned into.

    Args:
        channels: 1 for grey, 3 for colour.
        resolution: the shorter side is resized to this and the centre cropped; None: as stored.
        ground: colour under what is transparent, by a name that Pillow knows, or ``#rrggbb``.
    """

    channels: Literal[1, 3] = 3
    resolution: int | None = None
    ground: str = "white"


@dataclass(frozen=True)
class PictureFacts:
    """What a picture is before it is turned into bytes.

    Args:
        format: as Pillow calls it, ``"JPEG"``; ``"array"`` for one that is no file.
        mode: as Pillow calls it, ``"RGBA"``.
        width: in pixels, when it is held upright.
        height: likewise.
        several_frames: whether it is an animation or has several pages, of which the first is read.
    """

    format: str
    mode: str
    width: int
    height: int
    several_frames: bool


def read_picture(entry: Entry, options: PictureOptions) -> Pixels:
    """Read one picture: upright by its EXIF, on a ground where it is transparent, of 8 bits.

    Of several frames the first is taken. With a resolution the shorter side is resized with
    Lanczos' filter, as `PIL.ImageOps.fit` does; a JPEG whose sides are eight times as long is
    decoded at 1/2, 1/4 or 1/8 of its size, so that they stay at least four times as long: that is
    up to ten times as quick, and differs by less than 1 of 255 on average. What modes become is
    told by `hpd.data.pictures.modes.flattened`.

    No state of the process is changed: this may run in several threads at a time.

    Returns:
        uint8 [H, W, C].

    Raises:
        DataError: naming the picture, if it is broken, too large or of a kind whose meaning is not
            plain.
    """
    return read_with_facts(entry, options)[0]


def read_with_facts(entry: Entry, options: PictureOptions) -> tuple[Pixels, PictureFacts]:
    """Read one picture, and say what it was; see `read_picture`.

    Returns:
        uint8 [H, W, C], and the facts.

    Raises:
        DataError: see `read_picture`.
    """
    try:
        with entry.open() as picture:
            return _read(picture, options)
    except DataError as error:
        raise DataError(
            f"{error.problem}: {shown_path(entry.name)}",
            got=error.got, expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    # readers of Pillow raise whatever a broken file makes of them: OSError, SyntaxError,
    # ValueError, EOFError, struct.error, zlib.error, AttributeError, IndexError, KeyError, ...
    except Exception as error:
        raise _unreadable(entry.name, error) from None


def facts_of(entry: Entry) -> PictureFacts:
    """Say what a picture is from its header; pixels are not read, so the rest may be broken.

    A PNG that keeps its EXIF behind the pixels counts as upright.

    Raises:
        DataError: naming the picture, if it cannot be opened.
    """
    try:
        with entry.open() as picture:
            size = picture.size
            # a PNG would be read for it
            known = picture.format != "PNG" or "exif" in picture.info
            # Pillow has turned the size of a TIFF already
            if known and picture.format != "TIFF" and _orientation(picture) in _LYING:
                size = (size[1], size[0])
            return _facts(picture, picture.mode, size)
    except Exception as error:
        raise _unreadable(entry.name, error) from None


def shown_path(name: str) -> str:
    """Return a path as messages show it: on one line, printable, and its end if it is long.

    >>> shown_path("cats/a b.png"), shown_path("cats/a" + chr(10) + ".png")
    ('cats/a b.png', 'cats/a\\\\n.png')
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return shown if len(shown) <= _NAME_CHARACTERS else f"...{shown[3 - _NAME_CHARACTERS :]}"


def _read(picture: Image.Image, options: PictureOptions) -> tuple[Pixels, PictureFacts]:
    size, mode, stored = picture.size, picture.mode, stored_as(picture)
    if 0 in size:
        raise DataError("a picture without pixels", got=f"{size[0]}x{size[1]} px")
    _check_size(picture)
    resolution = options.resolution
    box = None if resolution is None else _draft(picture, resolution)
    picture.load()
    # Pillow turns a TIFF itself
    orientation = 1 if picture.format == "TIFF" else _orientation(picture)
    turn = _TRANSPOSES.get(orientation)
    if resolution is not None and box is not None:
        flat = flattened(picture, options.channels, options.ground)
        flat = flat.resize((resolution, resolution), Image.Resampling.LANCZOS, box)
        flat = flat if turn is None else flat.transpose(turn)
        size = (size[1], size[0]) if orientation in _LYING else size
    else:
        upright = picture if turn is None else picture.transpose(turn)
        size = upright.size
        flat = flattened(upright, options.channels, options.ground, stored)
        if resolution is not None:
            flat = ImageOps.fit(flat, (resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.array(flat, dtype=np.uint8).reshape(flat.height, flat.width, options.channels)
    # last, as it moves on in the file
    return pixels, _facts(picture, mode, size)


def _check_size(picture: Image.Image) -> None:
    """Refuse what unpacks to far more than it is: photographs do not, and a trap does."""
    count, file = picture.width * picture.height, getattr(picture, "fp", None)
    if count <= _LARGE or file is None:
        return
    place = file.tell()
    stored = file.seek(0, io.SEEK_END)
    file.seek(place)
    if count > _DENSEST * stored:
        raise DataError(
            "a picture that unpacks to far more than it is",
            got=f"{picture.width}x{picture.height} px from {stored:,} bytes",
            fix="Make it smaller or remove it.",
        )


def _draft(picture: Image.Image, resolution: int) -> tuple[float, float, float, float] | None:
    """Have a picture decoded at a fraction of its size, where that is possible and worth it.

    Returns:
        the central square in what will be decoded; None: nothing was changed.
    """
    if picture.format not in _DRAFT_KINDS or picture.mode not in _DRAFT_MODES:
        return None
    least = _DRAFT_GAP * resolution
    if min(picture.size) < 2 * least:
        return None
    drafted = picture.draft(None, (least, least))
    if drafted is None:
        return None
    # the last row and column of what is decoded are padded, which would move the centre
    _, (_, _, width, height) = drafted
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _orientation(picture: Image.Image) -> int:
    """Return EXIF's number for how a picture is to be turned; 1, upright, where it is broken."""
    if _EXIF_KEYS.isdisjoint(picture.info):
        return 1
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    # the same as with a broken picture, but here the picture is whole
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _facts(picture: Image.Image, mode: str, size: tuple[int, int]) -> PictureFacts:
    kind = picture.format or "array"
    try:
        several = kind not in _NOT_FRAMES and bool(getattr(picture, "is_animated", False))
    # what follows the first frame is broken, which nobody reads
    except Exception:
        several = False
    return PictureFacts(kind, mode, *size, several)


def _unreadable(name: str, error: Exception) -> DataError:
    shown = shown_path(name)
    if isinstance(error, OSError) and error.strerror:
        return DataError(
            f"cannot open the picture {shown}", got=error.strerror, fix="Repair or remove it."
        )
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"picture too large: {shown}", got=error, fix="Make it smaller.")
    if isinstance(error, MemoryError):
        return DataError(f"no memory for the picture {shown}", fix="Make it smaller or remove it.")
    reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
    if len(reason) > _REASON_CHARACTERS:
        reason = f"{reason[:_REASON_CHARACTERS]}..."
    return DataError(f"broken image file: {shown}", got=reason, fix="Replace or remove it.")
