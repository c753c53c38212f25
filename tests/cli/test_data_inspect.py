"""`hpd data inspect`: what it shows, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hpd.cli import main

RNG = np.random.default_rng(2)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", "inspect", *map(str, arguments)])


def put(path: Path, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat [red]", "dog"):
        for i in range(5):
            put(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_classes_and_facts_are_shown(photos: Path) -> None:
    shown = call(photos)
    assert shown.exit_code == 0, shown.output
    assert "2 classes, 8 train and 2 test" in shown.output
    for text in ("cat [red]", "20x20, 3 channels", "PNG", "RGB", "no test part"):
        assert text in shown.output


def test_what_is_wrong_is_shown_by_name(photos: Path) -> None:
    (photos / "dog" / "broken.png").write_bytes(b"no picture")
    put(photos / "dog" / "large.png", 70)
    shown = call(photos)
    assert shown.exit_code == 0, shown.output
    for text in ("1 broken", "broken.png: got a text file", "sizes differ", "resolution="):
        assert text in shown.output


def test_many_classes_are_shown_by_their_ends_and_extremes(tmp_path: Path) -> None:
    for i in range(24):
        for j in range(2 + (i == 11) * 3):
            put(tmp_path / f"class{i:02}" / f"{j}.png", 4)
    shown = call(tmp_path).output
    assert "14 more" in shown
    assert "most: class11" in shown
    assert "class04" in shown
    assert "class12" not in shown


def test_a_sample_is_said_to_be_one(photos: Path) -> None:
    shown = call(photos, "--sample", 1)
    assert "looked at 4 of 10 pictures, at most 1 of each class and part" in shown.output


def test_options_are_those_of_the_data_set(photos: Path) -> None:
    assert "8x8, 1 channel " in call(photos, "resolution=8", "channels=1").output


def test_json_has_the_same_facts_and_nothing_else(photos: Path) -> None:
    shown = call(photos, "--json")
    facts = json.loads(shown.stdout)
    assert facts["counts"] == {"train": [4, 4], "test": [1, 1]}


def test_a_grid_is_written(photos: Path, tmp_path: Path) -> None:
    shown = call(photos, "--grid", tmp_path / "grid.png")
    assert shown.exit_code == 0, shown.output
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 2 * 102 + 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "nowhere"), (["digits", "colour=1"], "unknown key 'colour'")],
)
def test_mistakes_are_one_line(arguments: list[str], says: str) -> None:
    shown = call(*arguments)
    assert shown.exit_code == 2
    assert says in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
