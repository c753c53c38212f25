"""Pictures of random kinds, with random damage, and what Pillow itself makes of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

# modes that each kind of file can hold
KINDS = {
    "PNG": ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"],
    "JPEG": ["1", "L", "RGB", "RGBX", "CMYK", "YCbCr"],
    "WEBP": ["L", "RGB", "RGBA", "LA"],
    "GIF": ["1", "L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB"],
    "TIFF": [
        "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B",
        "I", "F",
    ],
    "PPM": ["1", "L", "RGB", "I;16", "I", "F"],
    "TGA": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA", "YCbCr", "I;16"],
    "SGI": ["L", "RGB", "RGBA"],
    "PCX": ["1", "L", "P", "RGB"],
    "QOI": ["RGB", "RGBA"],
    "DDS": ["L", "LA", "RGB", "RGBA"],
}  # fmt: skip
# a loss of the file, not of reading it
LOSSY = ("JPEG", "WEBP", "JPEG2000")
SUFFIXES = (".png", ".JPG", ".jpeg", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".pgm", ".tga")


def profile(examples: int) -> Callable[..., object]:
    """Return settings of a property: the same examples at every run, more with HPD_EXAMPLES.

    Args:
        examples: how many of 100 % there are; HPD_EXAMPLES=1000 makes ten times as many.
    """
    percent = int(os.environ.get("HPD_EXAMPLES", "100"))
    return settings(
        max_examples=max(1, examples * percent // 100),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Kind:
    """What a picture is: file, mode, size, how it is held, and the seed of its noise."""

    file: str
    mode: str
    size: tuple[int, int]
    orientation: int
    seed: int

    def image(self) -> Image.Image:
        """Return noise of this mode and size."""
        rng, (width, height) = np.random.default_rng(self.seed), self.size
        if self.mode == "1":
            return Image.fromarray(rng.random((height, width)) > 0.5)
        if self.mode == "F":
            return Image.fromarray(rng.random((height, width)).astype(np.float32))
        if self.mode.startswith("I"):
            values = rng.integers(0, 65536, (height, width))
            values[0, 0] = 65535
            if self.mode == "I":
                return Image.fromarray(values.astype(np.int32))
            stored = values.astype(">u2" if self.mode == "I;16B" else "<u2")
            return Image.frombytes(self.mode, self.size, stored.tobytes())
        bands = len(Image.new(self.mode, (1, 1)).getbands())
        image = Image.frombytes(self.mode, self.size, rng.bytes(width * height * bands))
        if self.mode in ("P", "PA"):
            image.putpalette(rng.bytes(768))
        return image

    def data(self) -> bytes:
        """Return the file."""
        buffer, image = io.BytesIO(), self.image()
        options: dict[str, object] = {"lossless": True} if self.file == "WEBP" else {}
        if self.orientation > 1 and self.file in ("PNG", "JPEG", "WEBP", "TIFF"):
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = self.orientation
            options["exif"] = exif
        if self.file in ("PNG", "GIF") and self.seed % 2:
            # one value is transparent, or for a palette in a PNG each to its degree
            if self.mode in ("P", "L"):
                options["transparency"] = self.seed
            if self.mode == "P" and self.file == "PNG" and self.seed % 4 == 1:
                options["transparency"] = bytes(range(256))
        image.save(buffer, self.file, **options)
        return buffer.getvalue()


def kinds(sizes: st.SearchStrategy[tuple[int, int]]) -> st.SearchStrategy[Kind]:
    """Draw kinds of pictures."""
    pairs = [(file, mode) for file, modes in KINDS.items() for mode in modes]
    return st.builds(
        lambda pair, size, orientation, seed: Kind(*pair, size, orientation, seed),
        st.sampled_from(pairs), sizes, st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
        st.integers(0, 99),
    )  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """What happens to a file: it is cut, bytes of it are others, or it is something else."""

    what: str
    where: float
    bits: int

    def done_to(self, data: bytes) -> bytes:
        """Return the file after it."""
        if self.what == "cut":
            return data[: int(self.where * len(data))]
        if self.what == "flipped":
            damaged = bytearray(data)
            for i in range(1 + self.bits % 4):
                damaged[(int(self.where * len(data)) + 37 * i) % len(data)] ^= self.bits
            return bytes(damaged)
        return {"empty": b"", "text": b"404: not found\n", "page": b"<html><body>"}[self.what]


def damages() -> st.SearchStrategy[Damage]:
    """Draw damages."""
    return st.builds(
        Damage,
        st.sampled_from(["cut", "cut", "flipped", "flipped", "flipped", "empty", "text", "page"]),
        st.floats(0, 1, exclude_max=True), st.integers(1, 255),
    )  # fmt: skip


def expected(data: bytes, channels: int, resolution: int | None) -> np.ndarray:
    """Return what the functions of Pillow make of a file: [H, W, C].

    Raises:
        Exception: whatever Pillow raises for a broken file.
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 65535):
            raise ValueError("no 16 bits")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("no unit")
        image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = white
    if image.mode == "LAB":
        image = image.convert("RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    if resolution is not None:
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)
