"""How pictures are held: upright, by their EXIF."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from hpd.data.listing import FileEntry
from hpd.data.pictures.reading import PictureOptions, facts_of, read_picture, read_with_facts

RNG = np.random.default_rng(3)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def read(path: Path) -> np.ndarray:
    return read_picture(FileEntry.of(path), PictureOptions())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pictures_are_held_as_exif_says(orientation: int, suffix: str, tmp_path: Path) -> None:
    image, path = noise(24, 16), tmp_path / f"a.{suffix}"
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    image.save(path, exif=exif, **options)
    with Image.open(path) as stored:
        want = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert want.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    pixels, facts = read_with_facts(FileEntry.of(path), PictureOptions())
    assert np.array_equal(pixels, want)
    assert (facts.height, facts.width) == want.shape[:2]


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_a_header_is_enough_to_know_how_a_picture_is_held(suffix: str, tmp_path: Path) -> None:
    image, path = noise(24, 16), tmp_path / f"a.{suffix}"
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(path, exif=exif)
    facts = facts_of(FileEntry.of(path))
    assert (facts.width, facts.height) == (16, 24)


@pytest.mark.parametrize(
    "exif",
    [b"", b"\0", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\xff" * 40],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.filterwarnings("ignore:Possibly corrupt EXIF")
@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_broken_exif_leaves_a_picture_as_it_is(exif: bytes, suffix: str, tmp_path: Path) -> None:
    noise(24, 16).save(tmp_path / f"a.{suffix}", exif=exif)
    assert read(tmp_path / f"a.{suffix}").shape == (16, 24, 3)


def test_an_orientation_that_is_no_number_is_passed_over(tmp_path: Path) -> None:
    tag = struct.pack("<HHI4s", ExifTags.Base.Orientation, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4)
    noise(24, 16).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif()[ExifTags.Base.Orientation] == "abc"
    assert read(tmp_path / "a.jpg").shape == (16, 24, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_tiff_on_its_side_is_turned_in_the_modes_that_pillow_maps(
    mode: str, orientation: int, tmp_path: Path
) -> None:
    bands = 4 if mode in ("RGBA", "CMYK") else 1
    size = 2 if mode == "I;16" else 1
    image = Image.frombytes(mode, (24, 16), RNG.bytes(24 * 16 * bands * size))
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "a.tif", exif=exif)
    with Image.open(io.BytesIO((tmp_path / "a.tif").read_bytes())) as stored:
        turned = ImageOps.exif_transpose(stored)
    assert turned.size == ((16, 24) if orientation > 4 else (24, 16))
    turned.save(tmp_path / "b.png" if mode != "CMYK" else tmp_path / "b.tif", exif=Image.Exif())
    want = read(tmp_path / "b.png" if mode != "CMYK" else tmp_path / "b.tif")
    assert np.array_equal(read(tmp_path / "a.tif"), want)
