"""Pictures of every mode that Pillow has to 8 bits of grey or colour, with nothing lost unsaid."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageColor

from hpd.errors import DataError

_PLAIN = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)
_NUMBERS = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
# what Pillow multiplies grey values of fewer bits by, in a PNG; it leaves the transparent one
_PNG_SCALES = {"L;2": 85, "L;4": 17}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_FIX = "Convert it to 8 bit."

Values = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def stored_as(picture: Image.Image) -> str:
    """Return how the samples of a picture are stored that is not loaded yet, ``"L;4"`` for one.

    An empty text where the file does not say.
    """
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    last = tiles[0][3]
    if isinstance(last, tuple):
        last = last[0] if last else ""
    return last if isinstance(last, str) else ""


def flattened(
    picture: Image.Image, channels: Literal[1, 3], ground: str, stored: str = ""
) -> Image.Image:
    """Return a picture as 8 bits of grey or colour, laid on a ground where it is transparent.

    16 bits become ``round(v / 257)``; 32-bit integers likewise where they are within 0 and 65535
    and some are above 255; real numbers become ``round(255 v)`` where all are in [0, 1], and stay
    where all are whole and in [0, 255]. Grey of colour is Pillow's ``convert("L")``.

    Args:
        picture: loaded.
        channels: 1 for grey, 3 for colour.
        ground: colour under what is transparent.
        stored: from `stored_as`.

    Returns:
        a picture of mode L or RGB; the same one if it is that already.

    Raises:
        DataError: for a mode that is not known, or numbers whose range is not plain.
    """
    mode = "L" if channels == 1 else "RGB"
    if picture.mode not in _PLAIN:
        picture = _of_numbers(picture)
    if picture.mode in _WITH_ALPHA or picture.has_transparency_data:
        picture = _on_ground(picture, ground, stored)
    if picture.mode == "LAB":
        # the only mode that it is turned into
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _on_ground(picture: Image.Image, ground: str, stored: str) -> Image.Image:
    _mend_transparency(picture, stored)
    if picture.mode == "La":
        picture = picture.convert("LA")
    above = picture.convert("RGBA")
    below = Image.new("RGBA", above.size, (*ImageColor.getrgb(ground)[:3], 255))
    return Image.alpha_composite(below, above).convert("RGB")


def _mend_transparency(picture: Image.Image, stored: str) -> None:
    """Bring the transparent value of a PNG to the scale that Pillow brought its pixels to."""
    value = picture.info.get("transparency")
    if picture.mode == "1" and isinstance(value, int):
        # until Pillow 13 this is 1 where the pixels are 255
        picture.info["transparency"] = 255 if value else 0
    elif stored in _PNG_SCALES and isinstance(value, int):
        picture.info["transparency"] = value * _PNG_SCALES[stored] & 255
    elif stored == "RGB;16B" and isinstance(value, tuple):
        picture.info["transparency"] = tuple(v >> 8 for v in value)


def _of_numbers(picture: Image.Image) -> Image.Image:
    """Return a picture of wider numbers as L, or LA where one value is transparent."""
    if picture.mode not in _NUMBERS:
        raise DataError("pictures of this mode are not read", got=f"mode {picture.mode}", fix=_FIX)
    values: Values = np.asarray(picture)
    if picture.mode == "I":
        grey = _of_integers(picture, values)
    elif picture.mode == "F":
        grey = _of_reals(values)
    else:
        grey = _of_words(values, _tag(picture, _BITS_PER_SAMPLE, 16))
    # 0 is white: Pillow turns this round for 8 bits alone
    if _tag(picture, _PHOTOMETRIC, 1) == 0:
        grey = 255 - grey
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    alpha = np.where(values == transparent, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _of_words(values: Values, bits: int) -> Bytes:
    most = (1 << bits) - 1 if 8 < bits < 16 else 65535
    wide = values.astype(np.uint32)
    return ((wide * 255 + most // 2) // most).clip(max=255).astype(np.uint8)


def _of_integers(picture: Image.Image, values: Values) -> Bytes:
    low, high = int(values.min()), int(values.max())
    # both formats have 16 bits here, which Pillow brings to 0..65535; TIFF may have a sign too
    known = getattr(picture, "format", None) in ("PNG", "PPM")
    signed = _tag(picture, _BITS_PER_SAMPLE, 32) == 16
    # all black is black at every scale
    plain = known or (not signed and high > 255) or high == 0
    if low < 0 or high > 65535 or not plain:
        raise DataError(
            "the range of its integers is not plain",
            got=f"values from {low} to {high}",
            expected="a largest one between 256 and 65535, the range of 16 bits",
            fix=_FIX,
        )
    return _of_words(values, 16)


def _of_reals(values: Values) -> Bytes:
    real = values.astype(np.float64)
    low, high = float(real.min()), float(real.max())
    # a comparison with what is not a number is False
    if low >= 0 and high <= 1:
        return np.rint(real * 255).astype(np.uint8)
    if low >= 0 and high <= 255 and bool((real == np.rint(real)).all()):
        return real.astype(np.uint8)
    raise DataError(
        "the range of its numbers is not plain",
        got=f"values from {low:g} to {high:g}",
        expected="all in [0, 1], or whole and in [0, 255]",
        fix=_FIX,
    )


def _tag(picture: Image.Image, tag: int, default: int) -> int:
    """Return a number that a TIFF says of itself."""
    value = getattr(picture, "tag_v2", {}).get(tag, default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value if isinstance(value, int) else default
