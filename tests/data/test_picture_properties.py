"""Whatever a file is: it is read as Pillow's own functions read it, or refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures_at_random import Damage, Kind, damages, expected, kinds, profile
from PIL import Image

from hpd.data.listing import FileEntry
from hpd.data.pictures.reading import PictureOptions, facts_of, read_picture
from hpd.errors import DataError

CHANNELS = st.sampled_from([1, 3])
RESOLUTIONS = st.sampled_from([None, None, 4, 9, 32])
SMALL = st.tuples(st.integers(1, 24), st.integers(1, 24))
ANY = SMALL | st.sampled_from([(300, 1), (1, 300), (700, 520), (64, 64)])


@pytest.fixture(autouse=True)
def _no_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit in a size must not take all memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@given(
    kind=kinds(ANY), channels=CHANNELS, resolution=RESOLUTIONS, suffix=st.sampled_from(["png", ""])
)
@profile(300)
def test_a_whole_picture_is_what_pillow_makes_of_it(
    kind: Kind, channels: Literal[1, 3], resolution: int | None, suffix: str, tmp_path: Path
) -> None:
    path, data = tmp_path / f"a.{suffix}", kind.data()
    path.write_bytes(data)
    pixels = read_picture(FileEntry.of(path), PictureOptions(channels, resolution))
    want = expected(data, channels, resolution)
    assert pixels.shape == want.shape
    difference = np.abs(pixels.astype(int) - want)
    # Pillow decodes a large JPEG of noise at a fraction of its size, where it says so
    drafted = kind.file == "JPEG" and resolution is not None and min(kind.size) >= 8 * resolution
    assert difference.mean() < 1 if drafted else difference.max() <= 1
    facts = facts_of(FileEntry.of(path))
    if resolution is None and (kind.file != "PNG" or kind.orientation == 1):
        assert (facts.height, facts.width) == want.shape[:2]


@pytest.mark.filterwarnings("ignore")
@given(kind=kinds(SMALL), damage=damages(), channels=CHANNELS, resolution=RESOLUTIONS)
@profile(1000)
def test_a_damaged_picture_is_what_pillow_makes_of_it_or_refused_by_name(
    kind: Kind, damage: Damage, channels: Literal[1, 3], resolution: int | None, tmp_path: Path
) -> None:
    path, data = tmp_path / "a.png", damage.done_to(kind.data())
    path.write_bytes(data)
    options = PictureOptions(channels, resolution)
    try:
        pixels = read_picture(FileEntry.of(path), options)
    except DataError as error:
        text = str(error)
        assert str(path) in text
        assert len(text) <= 600
        assert "\n" not in text
        return
    assert (pixels.dtype, pixels.shape[2]) == (np.uint8, channels)
    try:
        want = expected(data, channels, resolution)
    except Exception:
        # what Pillow's functions stumble over may lie beside the pixels
        return
    assert pixels.shape == want.shape
    assert np.abs(pixels.astype(int) - want).max() <= 1


@pytest.mark.filterwarnings("ignore")
@given(kind=kinds(SMALL), damage=damages())
@profile(300)
def test_a_header_that_is_damaged_gives_facts_or_is_refused_by_name(
    kind: Kind, damage: Damage, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(damage.done_to(kind.data()))
    try:
        facts = facts_of(FileEntry.of(path))
    except DataError as error:
        assert str(path) in str(error)
        assert len(str(error)) <= 600
        return
    assert min(facts.width, facts.height) > 0


@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"GIF89a"]))
@profile(300)
def test_bytes_at_random_are_read_or_refused_by_name(
    data: bytes, start: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(start + data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_picture(FileEntry.of(path), PictureOptions())
        except DataError as error:
            assert str(path) in str(error)
