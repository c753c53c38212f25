"""Every mode of Pillow to bytes, against conversions written here in numpy."""

from __future__ import annotations

import colorsys
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpd.data.listing import ArrayEntry, FileEntry
from hpd.data.pictures.reading import PictureOptions, read_picture
from hpd.errors import DataError

SIZE = (24, 16)
RNG = np.random.default_rng(7)


@dataclass(frozen=True)
class Held:
    """A picture in memory."""

    image: Image.Image
    name: str = "held"
    stamp: str = "held"

    def open(self) -> Image.Image:
        return self.image


def noise(bands: int) -> np.ndarray:
    return RNG.integers(0, 256, (SIZE[1], SIZE[0], bands), dtype=np.uint8)


def of(mode: str, array: np.ndarray) -> Image.Image:
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


def read(image: Image.Image, channels: int = 3, **options: object) -> np.ndarray:
    pixels = read_picture(Held(image), PictureOptions(channels=channels, **options))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == channels
    return pixels


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow documents it."""
    return np.rint(rgb.astype(float) @ [0.299, 0.587, 0.114])[..., None]


def laid(rgb: np.ndarray, alpha: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(rgb * share + np.array(ground) * (1 - share))


def off(got: np.ndarray, want: np.ndarray) -> int:
    assert got.shape == want.shape
    return int(np.abs(got.astype(int) - want.astype(int)).max())


def in_both(image: Image.Image, rgb: np.ndarray, within: int = 1, **options: object) -> None:
    """Check colour and grey of a picture whose colours [H, W, 3] are known."""
    assert off(read(image.copy(), 3, **options), rgb) <= within
    assert off(read(image.copy(), 1, **options), luma(rgb)) <= within + 1


def test_colour_stays_as_it_is() -> None:
    array = noise(3)
    in_both(of("RGB", array), array, within=0)


def test_grey_stays_as_it_is_and_fills_three_channels() -> None:
    array = noise(1)
    assert np.array_equal(read(of("L", array), 1), array)
    assert np.array_equal(read(of("L", array), 3), array.repeat(3, 2))


def test_bits_are_black_and_white() -> None:
    array = noise(1) > 127
    in_both(Image.fromarray(array[..., 0]), array.repeat(3, 2) * 255, within=0)


def test_a_fourth_byte_without_a_meaning_is_ignored() -> None:
    array = noise(4)
    in_both(of("RGBX", array), array[..., :3])


@pytest.mark.parametrize(
    ("ground", "colour"),
    [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("black", (0, 0, 0))],
)
def test_transparent_colour_is_laid_on_the_ground(ground: str, colour: tuple) -> None:
    array = noise(4)
    want = laid(array[..., :3], array[..., 3], colour)
    in_both(of("RGBA", array), want, ground=ground)


def test_transparent_grey_is_laid_on_the_ground() -> None:
    array = noise(2)
    want = laid(array[..., :1].repeat(3, 2), array[..., 1], (255, 0, 0))
    in_both(of("LA", array), want, ground="red")


@pytest.mark.parametrize(("mode", "straight"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_alpha_is_laid_on_the_ground(mode: str, straight: str) -> None:
    array = noise(len(straight))
    array[..., -1] |= 128  # a small alpha leaves too few bits of the colour to compare
    image = of(straight, array)
    assert off(read(image.convert(mode)), read(image)) <= 2


def test_a_palette_is_looked_up() -> None:
    index, palette = noise(1), RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = of("P", index)
    image.putpalette(palette.tobytes())
    in_both(image, palette[index[..., 0]], within=0)


def test_a_palette_with_alpha_is_laid_on_the_ground() -> None:
    index, palette = noise(1), RNG.integers(0, 256, (256, 4), dtype=np.uint8)
    image = of("P", index)
    image.putpalette(palette.tobytes(), "RGBA")
    colours = palette[index[..., 0]]
    in_both(image, laid(colours[..., :3], colours[..., 3], (0, 0, 255)), ground="blue")


def test_a_palette_beside_alpha_is_laid_on_the_ground() -> None:
    array, palette = noise(2), RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = of("PA", array)
    image.putpalette(palette.tobytes())
    in_both(image, laid(palette[array[..., 0]], array[..., 1], (255, 255, 255)))


@pytest.mark.parametrize("transparency", [5, bytes(range(256))])
def test_transparent_entries_of_a_palette_are_laid_on_the_ground(
    transparency: int | bytes, tmp_path: Path
) -> None:
    index, palette = noise(1), RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = of("P", index)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "p.png", transparency=transparency)
    alphas = np.full(256, 255)
    alphas[slice(None) if isinstance(transparency, bytes) else transparency] = (
        list(transparency) if isinstance(transparency, bytes) else 0
    )
    with Image.open(tmp_path / "p.png") as stored:
        want = laid(palette[index[..., 0]], alphas[index[..., 0]], (255, 255, 255))
        in_both(stored, want)


def test_ink_becomes_light() -> None:
    array = noise(4)
    ink = array.astype(float)
    want = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    in_both(of("CMYK", array), np.rint(want))


def test_inks_of_a_jpeg_are_inverted_as_adobe_stores_them(tmp_path: Path) -> None:
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    pixels = read_picture(FileEntry.of(tmp_path / "red.jpg"), PictureOptions())
    assert off(pixels, np.broadcast_to([255, 0, 0], pixels.shape)) <= 1


def test_luminance_and_chrominance_become_colour() -> None:
    array = noise(3)
    y, cb, cr = array.astype(float).transpose(2, 0, 1)
    r = y + 1.402 * (cr - 128)
    g = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    b = y + 1.772 * (cb - 128)
    want = np.rint(np.stack([r, g, b], -1).clip(0, 255))
    assert off(read(of("YCbCr", array)), want) <= 1
    assert off(read(of("YCbCr", array), 1), array[..., :1]) == 0


def test_hue_becomes_colour() -> None:
    array = noise(3)
    want = [[colorsys.hsv_to_rgb(*(pixel / 255)) for pixel in row] for row in array]
    in_both(of("HSV", array), np.rint(np.array(want) * 255), within=2)


def test_lightness_becomes_colour() -> None:
    array = np.zeros((16, 16, 3), np.uint8)
    array[..., 0] = np.arange(256).reshape(16, 16)
    y = array[..., :1] / 255 * 100
    linear = np.where(y > 8, ((y + 16) / 116) ** 3, y / 903.3)
    grey = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    in_both(of("LAB", array), np.rint(grey * 255).repeat(3, 2), within=2)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_257(mode: str, channels: int) -> None:
    values = RNG.integers(0, 65536, SIZE[::-1])
    stored = values.astype(">u2" if mode == "I;16B" else "<u2")
    want = np.rint(values / 257)[..., None].repeat(channels, 2)
    assert np.array_equal(read(of(mode, stored), channels), want)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_files_of_sixteen_bits_are_divided_by_257(suffix: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, SIZE[::-1]).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    pixels = read_picture(FileEntry.of(tmp_path / f"deep.{suffix}"), PictureOptions(1))
    assert np.array_equal(pixels[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("most", [1, 100, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_grey_map_is_scaled_by_the_largest_value_that_it_names(
    most: int, plain: bool, tmp_path: Path
) -> None:
    values = RNG.integers(0, most + 1, (4, 6))
    body = values.astype(">u2" if most > 255 else "u1").tobytes()
    if plain:
        body = " ".join(map(str, values.flatten())).encode()
    (tmp_path / "a.pgm").write_bytes(b"P%d\n6 4\n%d\n" % (2 if plain else 5, most) + body)
    pixels = read_picture(FileEntry.of(tmp_path / "a.pgm"), PictureOptions(1))
    assert off(pixels[..., 0], values * 255 / most + 0.5) <= 1


def test_dark_files_of_sixteen_bits_are_not_taken_for_eight(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 1\n65535\n" + b"\0\xc8\0\xff")
    pixels = read_picture(FileEntry.of(tmp_path / "a.pgm"), PictureOptions(1))
    assert pixels.flatten().tolist() == [1, 1]


def test_integers_of_32_bits_within_16_are_divided_by_257(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, SIZE[::-1]).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = read_picture(FileEntry.of(tmp_path / "a.tif"), PictureOptions(1))
    assert np.array_equal(pixels[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("values", [[0, 65536], [-1, 3000], [0, 255], [1, 1], [-5, -1]])
def test_integers_whose_range_is_not_plain_are_refused_with_it(values: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    with pytest.raises(
        DataError, match=rf"held: got values from {values[0]} to {values[1]}.*8 bit"
    ):
        read(image)


def test_integers_of_zero_are_black() -> None:
    assert read(Image.new("I", (2, 2)), 1).max() == 0


def test_real_numbers_of_a_unit_are_scaled() -> None:
    values = RNG.random(SIZE[::-1]).astype(np.float32)
    want = np.rint(values.astype(float) * 255)[..., None]
    assert np.array_equal(read(Image.fromarray(values), 1), want)
    assert np.array_equal(read(Image.fromarray(values), 3), want.repeat(3, 2))


def test_real_numbers_that_are_bytes_stay() -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(read(Image.fromarray(values), 1)[..., 0], values)


@pytest.mark.parametrize(
    "values", [[0.0, 1.5], [-0.5, 0.5], [0.0, 256.0], [0.0, np.nan], [0.0, np.inf], [-np.inf, 0.0]]
)
def test_real_numbers_whose_range_is_not_plain_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"numbers is not plain: held: got values from"):
        read(Image.fromarray(np.array([values], np.float32)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour: int, row: bytes, width: int, transparent: bytes) -> Image.Image:
    """Return a PNG of one row, written by hand: Pillow writes few of these kinds."""
    head = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    key = [(b"tRNS", transparent)] if transparent else []
    parts = [(b"IHDR", head), *key, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    return Image.open(io.BytesIO(file))


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x40", b"\0\1"),
        (2, 0, b"\x30", b"\0\3"),
        (4, 0, b"\x0f", b"\0\x0f"),
        (8, 0, b"\0\xff", b"\0\xff"),
        (16, 0, b"\0\0\xff\xff", b"\xff\xff"),
        (8, 2, b"\0\0\0\xff\xfe\xff", b"\0\xff\0\xfe\0\xff"),
        (16, 2, b"\0" * 6 + b"\x80\0\x70\0\x60\0", b"\x80\0\x70\0\x60\0"),
        (16, 4, b"\0\0\xff\xff\xff\xff\0\0", b""),
        (16, 6, b"\0" * 6 + b"\xff\xff" + b"\xff\xff" * 3 + b"\0\0", b""),
    ],
)
def test_one_transparent_value_of_a_png_is_laid_on_the_ground_at_every_depth(
    depth: int, colour: int, row: bytes, transparent: bytes
) -> None:
    image = png(depth, colour, row, 2, transparent)
    assert read(image, ground="red").tolist() == [[[0, 0, 0], [255, 0, 0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_in_which_zero_is_white_is_turned_round(dtype: type, tmp_path: Path) -> None:
    most = np.iinfo(dtype).max
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, most]], dtype)).save(path)
    entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"
    assert path.read_bytes().count(entry + b"\x01") == 1
    path.write_bytes(path.read_bytes().replace(entry + b"\x01", entry + b"\x00"))
    assert read_picture(FileEntry.of(path), PictureOptions(1)).flatten().tolist() == [255, 0]


def test_a_tiff_of_twelve_bits_is_scaled_by_4095(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((1, 2), np.uint16)).save(path)
    entry = b"\x02\x01\x03\x00\x01\x00\x00\x00"
    data = path.read_bytes().replace(entry + b"\x10", entry + b"\x0c")
    assert data.endswith(bytes(4))
    path.write_bytes(data[:-4] + b"\xff\xf8\x00\x00")  # 4095 and 2048
    assert read_picture(FileEntry.of(path), PictureOptions(1)).flatten().tolist() == [255, 128]


def test_an_unknown_mode_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("L", (4, 4))
    monkeypatch.setattr(image, "_mode", "XYZ")
    with pytest.raises(DataError, match="not read: held: got mode XYZ"):
        read(image)


@pytest.mark.parametrize(
    ("array", "want"),
    [
        (np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), None),
        (np.full((1, 2, 2), 7, np.uint8), 7),
        (np.full((1, 2, 2, 1), 7, np.uint8), 7),
        (np.full((1, 2, 2), 771, np.uint16), 3),
        (np.full((1, 2, 2), 1.0, np.float64), 255),
        (np.ones((1, 2, 2), bool), 255),
    ],
)
def test_rows_of_arrays_are_read_like_pictures(
    array: np.ndarray, want: int | None, tmp_path: Path
) -> None:
    (tmp_path / "a.npz").touch()
    pixels = read_picture(ArrayEntry(FileEntry.of(tmp_path / "a.npz"), array, 0), PictureOptions())
    assert np.array_equal(pixels, array[0] if want is None else np.full((2, 2, 3), want))


@pytest.mark.parametrize(
    "array", [np.zeros((1, 0, 4), np.uint8), np.zeros((1, 4, 4), np.int64), np.zeros((1, 4), "U3")]
)
def test_rows_that_are_no_pictures_are_refused_by_name(array: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    with pytest.raises(DataError, match=r"a\.npz\[0\]"):
        read_picture(ArrayEntry(FileEntry.of(tmp_path / "a.npz"), array, 0), PictureOptions())
