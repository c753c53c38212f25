"""Files of pictures: how they are held, how large they are, what is broken about them."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from hpd.data.listing import FileEntry
from hpd.data.pictures.reading import (
    PictureFacts,
    PictureOptions,
    facts_of,
    read_picture,
    read_with_facts,
    shown_path,
)
from hpd.errors import DataError

RNG = np.random.default_rng(3)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def scene(width: int, height: int) -> Image.Image:
    """Return a smooth picture with some grain, as a photo is."""
    small = noise(max(2, width // 40), max(2, height // 40)).resize((width, height))
    grain = RNG.integers(-6, 7, (height, width, 3))
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def read(path: Path, channels: int = 3, resolution: int | None = None) -> np.ndarray:
    return read_picture(FileEntry.of(path), PictureOptions(channels, resolution))


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.PNG", "a", "a.txt"])
def test_content_decides_and_not_the_suffix(kind: str, name: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 2, (16, 16, 1)).repeat(3, 2).astype(np.uint8) * 255
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(array).save(tmp_path / name, kind, **lossless)
    assert np.array_equal(read(tmp_path / name), array)


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(count)]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
@pytest.mark.parametrize("count", [1, 3])
def test_of_several_frames_the_first_is_read_and_told(
    suffix: str, count: int, tmp_path: Path
) -> None:
    path, (first, *others) = tmp_path / f"a.{suffix}", frames(count)
    first.save(
        path,
        save_all=True,
        append_images=others,
        **({"lossless": True} if suffix == "webp" else {}),
    )
    pixels, facts = read_with_facts(FileEntry.of(path), PictureOptions())
    assert not pixels.any()
    assert facts.several_frames is (count > 1)
    assert facts_of(FileEntry.of(path)) == facts


def test_a_photo_with_its_previews_is_one_picture(tmp_path: Path) -> None:
    first, *others = frames(2)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=others)
    facts = facts_of(FileEntry.of(tmp_path / "a.jpg"))
    assert (facts.format, facts.several_frames) == ("MPO", False)


def test_facts_say_format_mode_and_size(tmp_path: Path) -> None:
    Image.new("LA", (5, 7)).save(tmp_path / "a.png")
    assert facts_of(FileEntry.of(tmp_path / "a.png")) == PictureFacts("PNG", "LA", 5, 7, False)


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (10000, 1), (1, 10000), (33, 65), (200, 100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_resolution_gives_what_pillow_fits(
    size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    image = noise(*size)
    image.save(tmp_path / "a.png")
    fitted = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (32, 32), Image.LANCZOS)
    pixels = read(tmp_path / "a.png", channels, 32)
    assert np.array_equal(pixels, np.asarray(fitted).reshape(32, 32, channels))


@pytest.mark.parametrize("size", [(255, 300), (64, 64), (900, 200)])
def test_a_jpeg_that_is_not_much_larger_is_decoded_whole(
    size: tuple[int, int], tmp_path: Path
) -> None:
    scene(*size).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        fitted = ImageOps.fit(image.convert("RGB"), (32, 32), Image.LANCZOS)
    assert np.array_equal(read(tmp_path / "a.jpg", 3, 32), np.asarray(fitted))


def large_jpeg(path: Path, mode: str, orientation: int = 1) -> None:
    image = scene(1300, 1037).convert(mode)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, quality=92, exif=exif)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_a_large_jpeg_differs_by_less_than_one_from_decoding_it_whole(
    mode: str, orientation: int, channels: int, resolution: int, tmp_path: Path
) -> None:
    large_jpeg(tmp_path / "a.jpg", mode, orientation)
    with Image.open(tmp_path / "a.jpg") as image:
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        size, want = upright.size, ImageOps.fit(upright, (resolution,) * 2, Image.LANCZOS)
    options = PictureOptions(channels, resolution)
    pixels, facts = read_with_facts(FileEntry.of(tmp_path / "a.jpg"), options)
    assert mean_difference(pixels[..., 0], np.asarray(want).reshape(pixels.shape)[..., 0]) < 1
    assert (facts.width, facts.height) == size


def test_a_large_jpeg_is_read_at_least_three_times_as_quickly(tmp_path: Path) -> None:
    scene(4000, 3000).save(tmp_path / "a.jpg", quality=90)

    def seconds(resolution: int) -> float:
        taken = []
        for _ in range(3):
            start = time.process_time()
            read(tmp_path / "a.jpg", 3, resolution)
            taken.append(time.process_time() - start)
        return min(taken)

    # at 376 both sides are less than eight times as long: decoded whole
    assert 3 * seconds(64) < seconds(376)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    scene(40, 30).save(buffer, kind)
    return buffer.getvalue()


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "ICO", "SGI", "QOI")
IMPOSTORS = {
    "nothing": (b"", "an empty file"),
    "text": (b"these are not the pixels\n", "a text file"),
    "page": (b"<!DOCTYPE html><html>404", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "zeros": (bytes(4000), "zeros"),
    "bytes": (bytes(range(128, 256)) * 9, "no kind of picture"),
    "drawing": (b"<svg xmlns='x'/>", "SVG"),
    "magic": (b"\x89PNG\r\n\x1a\n", "a broken PNG file"),
    "jpeg": (b"\xff\xd8\xff", ""),
}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert path.name in text
    assert len(text) <= 600
    assert "\n" not in text
    return text


@pytest.mark.parametrize("impostor", IMPOSTORS)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
def test_what_is_no_picture_is_refused_with_what_it_is(
    impostor: str, name: str, tmp_path: Path
) -> None:
    data, word = IMPOSTORS[impostor]
    (tmp_path / name).write_bytes(data)
    assert word in refused(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    data = encoded(kind)
    for share in (0.02, 0.1, 0.5, 0.9):
        (tmp_path / "a.png").write_bytes(data[: int(len(data) * share)])
        refused(tmp_path / "a.png")


def test_a_chunk_with_flipped_bytes_is_refused_by_name(tmp_path: Path) -> None:
    data = bytearray(encoded("PNG"))
    data[60] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png")


def test_a_missing_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    entry = FileEntry.of(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    for call in (lambda: read_picture(entry, PictureOptions()), lambda: facts_of(entry)):
        with pytest.raises(DataError, match=r"a\.png: got No such file or directory"):
            call()


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert "no regular file" in refused(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes by name are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "no regular file" in refused(tmp_path / "a.png")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "Permission denied" in refused(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken"), SyntaxError("x"), ValueError("x"), TypeError("x"), EOFError(),
        AttributeError("x"), IndexError("x"), KeyError("x"), MemoryError(), OverflowError("x"),
        RecursionError("x"), AssertionError(), NotImplementedError("x"), ZeroDivisionError("x"),
        UserWarning("x"), Image.DecompressionBombError("x"), OSError("x" * 2000),
        ValueError("two\nlines"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_reader_raises_is_told_by_name(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(4, 4).save(tmp_path / "a.png")

    def fails(self: ImageFile.ImageFile) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    refused(tmp_path / "a.png")


def test_an_interrupt_is_no_broken_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(4, 4).save(tmp_path / "a.png")

    def fails(self: ImageFile.ImageFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "a.png")


def test_long_and_odd_names_are_cut_to_their_end_and_printable() -> None:
    assert shown_path("x" * 9000 + "/cat.png").endswith("/cat.png")
    assert len(shown_path("x" * 9000 + "/cat.png")) == 240
    assert shown_path("a\nb\udce9\u202e.png") == "a\\nb\\udce9\\u202e.png"
    shown_path("a\udce9").encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_leaves_no_file_open(kind: str, tmp_path: Path) -> None:
    data = encoded(kind)
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    (tmp_path / "b").write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused(tmp_path / "a")
        read(tmp_path / "b")
        gc.collect()
    assert [str(w.message) for w in caught if w.category is ResourceWarning] == []


LIMITS = """
import sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = 1000
from concurrent.futures import ThreadPoolExecutor
from hpd.data.listing import FileEntry
from hpd.data.pictures.reading import PictureOptions, facts_of, read_picture
def read(path):
    facts_of(FileEntry.of(path))
    return read_picture(FileEntry.of(path), PictureOptions(resolution=8)).shape
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(read, sys.argv[1:] * 20)))
"""


def test_between_one_and_two_limits_of_pillow_it_warns_and_the_picture_is_read(
    tmp_path: Path,
) -> None:
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
    for kind in kinds:
        noise(50, 30).save(tmp_path / kind, kind)
    paths = [str(tmp_path / kind) for kind in kinds]
    done = subprocess.run([sys.executable, "-c", LIMITS, *paths], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("{(8, 8, 3)}", 0), done.stderr
    assert "DecompressionBombWarning" in done.stderr


def test_a_warning_of_pillow_that_is_made_an_error_names_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(50, 30).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "1500 pixels" in refused(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_above_two_limits_of_pillow_a_picture_is_refused_by_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(50, 41).save(tmp_path / "a.png", kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "picture too large" in refused(tmp_path / "a.png")


def test_without_a_limit_of_pillow_nothing_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(50, 41).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(tmp_path / "a.png").shape == (41, 50, 3)


def test_threads_read_the_same_as_one(tmp_path: Path) -> None:
    paths = []
    for i, kind in enumerate(KINDS * 4):
        paths.append(tmp_path / f"{i}.dat")
        scene(300 if kind == "JPEG" else 30, 280 if kind == "JPEG" else 28).save(paths[-1], kind)
    alone = [read(path, 3, 16) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: read(path, 3, 16), paths))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_state_of_pillow_is_changed(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        return (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))

    before = state()
    large_jpeg(tmp_path / "a.jpg", "RGB")
    read(tmp_path / "a.jpg", 3, 16)
    assert state() == before


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_what_ghostscript_would_run_is_refused(name: str, tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / name, "EPS")
    assert "EPS" in refused(tmp_path / name)
