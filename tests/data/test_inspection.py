"""What an inspection tells of a good data set, and of one with everything wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hpd
from hpd.data.inspection import Inspection
from hpd.errors import ConfigError, DataError

RNG = np.random.default_rng(5)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def put(path: Path, width: int = 20, height: int = 20, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height).save(path, **options)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    root = tmp_path / "good"
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count + (name == "dog")):
                put(root / part / name / f"{i}.png")
    return root


def test_parts_and_classes_are_counted(good: Path) -> None:
    about = hpd.inspect_dataset(good)
    assert (about.kind, about.classes) == ("folder", ("cat", "dog"))
    assert about.counts == {"train": (6, 7), "test": (3, 4)}
    assert (about.total, about.looked_at, about.sample) == (20, 20, None)


def test_a_good_set_has_nothing_to_be_told(good: Path) -> None:
    about = hpd.inspect_dataset(good)
    assert (about.broken.count, about.odd, about.several_frames.count) == (0, {}, 0)
    assert {r.count for r in about.repeats.values()} == {0}
    assert about.advice == ()
    assert (about.sizes, about.modes, about.formats) == ({"20x20": 20}, {"RGB": 20}, {"PNG": 20})


@pytest.mark.parametrize("options", [{}, {"channels": 1}, {"resolution": 8}])
def test_shape_mean_and_deviation_are_those_of_a_run(good: Path, options: dict) -> None:
    about, train = hpd.inspect_dataset(good, **options), hpd.load_dataset(good, **options).train
    assert about.shape == train.image_shape
    assert about.mean == pytest.approx(train.normalisation.mean)
    assert about.std == pytest.approx(train.normalisation.std)


def test_the_cost_is_bytes_of_all_images(good: Path) -> None:
    about = hpd.inspect_dataset(good, sample=1)
    assert about.cost is not None
    assert about.cost.size_bytes == 20 * 3 * 20 * 20
    assert about.cost.seconds > 0
    assert (about.cost.kept, about.cost.stored) == (False, False)


def test_what_is_in_the_cache_already_is_told(
    good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hpd.data import store

    monkeypatch.setenv("HPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_SMALL_COUNT", 0)
    before = hpd.inspect_dataset(good).cost
    hpd.load_dataset(good)
    after = hpd.inspect_dataset(good).cost
    assert before is not None
    assert after is not None
    assert (before.kept, before.stored, after.stored) == (True, False, True)
    assert hpd.inspect_dataset(good, resolution=8).cost.stored is False


def test_broken_pictures_are_told_by_name_and_the_rest_is_looked_at(good: Path) -> None:
    for i in range(12):
        (good / "train" / "cat" / f"broken{i:02}.png").write_bytes(b"<html>")
    about = hpd.inspect_dataset(good)
    assert (about.broken.count, len(about.broken.names), about.looked_at) == (12, 10, 32)
    assert "broken00.png" in about.broken.names[0]
    assert "a web page" in about.broken.names[0]
    assert about.sizes == {"20x20": 20}
    assert about.mean is not None
    assert about.advice[0].startswith("12 pictures are broken")
    with pytest.raises(DataError):
        hpd.load_dataset(good)


def test_a_set_that_is_all_broken_is_told(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{i}.png").touch()
    about = hpd.inspect_dataset(tmp_path)
    assert (about.broken.count, about.shape, about.sizes) == (6, None, {})
    with pytest.raises(DataError, match="no whole picture"):
        hpd.inspect_dataset(tmp_path, grid=tmp_path / "grid.png")


def test_sizes_that_differ_are_told_with_a_resolution_that_fits(good: Path) -> None:
    for i in range(60):
        put(good / "train" / "cat" / f"large{i}.png", 90 + i, 70)
    about = hpd.inspect_dataset(good)
    assert (about.shape, about.mean, about.cost.size_bytes) == (None, None, None)
    assert about.sizes["20x20"] == 20
    assert (about.smallest, about.largest, about.not_square) == ("20x20", "149x70", 60)
    [advice] = about.advice
    assert "resolution=20" in advice
    assert hpd.inspect_dataset(good, resolution=20).shape == (3, 20, 20)


def test_a_size_that_is_not_square_is_told(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(3):
            put(tmp_path / name / f"{i}.png", 24, 16)
    about = hpd.inspect_dataset(tmp_path)
    assert (about.shape, about.sizes, about.not_square) == ((3, 16, 24), {"24x16": 6}, 6)
    assert "not square" in about.advice[0]


def test_odd_pictures_are_told_by_name(good: Path) -> None:
    put(good / "train" / "cat" / "tiny.png", 4, 4)
    put(good / "train" / "cat" / "long.png", 200, 20)
    Image.new("RGB", (20, 20), "red").save(good / "train" / "cat" / "red.png")
    odd = hpd.inspect_dataset(good).odd
    assert {what: named.count for what, named in odd.items()} == {
        "below 16 px": 1, "more than 4 times as long as wide": 1, "of one colour": 1,
    }  # fmt: skip
    assert "tiny.png (4x4)" in odd["below 16 px"].names[0]
    assert "red.png" in odd["of one colour"].names[0]


def test_pictures_that_a_resolution_enlarges_are_told(good: Path) -> None:
    odd = hpd.inspect_dataset(good, resolution=32).odd
    assert odd["enlarged by resolution=32"].count == 20


def test_animations_are_told(good: Path) -> None:
    put(good / "train" / "cat" / "moving.gif", save_all=True, append_images=[picture(20, 20)])
    about = hpd.inspect_dataset(good)
    assert about.several_frames.count == 1
    assert about.several_frames.names[0].endswith("moving.gif")


def test_equal_pictures_are_told_within_and_between_the_parts(good: Path) -> None:
    train, test = good / "train", good / "test"
    # the same pixels in another file
    with Image.open(train / "cat" / "0.png") as image:
        image.save(train / "cat" / "again.bmp")
    shutil.copy(train / "cat" / "1.png", train / "dog" / "other.png")
    shutil.copy(train / "dog" / "2.png", test / "dog" / "leaked.png")
    shutil.copy(test / "cat" / "0.png", test / "cat" / "twice.png")
    about = hpd.inspect_dataset(good)
    counts = {where: (r.count, r.other_class) for where, r in about.repeats.items()}
    assert counts == {"within train": (2, 1), "within test": (1, 0), "of test in train": (1, 0)}
    [(first, again)] = about.repeats["of test in train"].pairs
    assert (Path(first).name, Path(again).name) == ("2.png", "leaked.png")
    assert any("in both parts" in advice for advice in about.advice)
    assert any("another class" in advice for advice in about.advice)


def test_at_most_ten_pairs_are_named(good: Path) -> None:
    for i in range(15):
        shutil.copy(good / "train" / "cat" / "0.png", good / "train" / "cat" / f"copy{i}.png")
    repeats = hpd.inspect_dataset(good).repeats["within train"]
    assert (repeats.count, len(repeats.pairs)) == (15, 10)


def test_a_sample_is_so_many_of_each_class_and_part(good: Path) -> None:
    about = hpd.inspect_dataset(good, sample=2)
    assert (about.looked_at, about.total, about.sample) == (8, 20, 2)
    assert hpd.inspect_dataset(good, sample=100).looked_at == 20
    with pytest.raises(ConfigError, match="sample"):
        hpd.inspect_dataset(good, sample=0)


def test_progress_is_told_to_the_last_picture(good: Path) -> None:
    heard: list[tuple[int, int]] = []
    hpd.inspect_dataset(good, report=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (20, 20)


def test_classes_that_are_wanted_are_looked_at_alone(good: Path) -> None:
    put(good / "train" / "eel" / "0.png")
    put(good / "test" / "eel" / "0.png")
    about = hpd.inspect_dataset(good, classes=["eel", "dog"])
    assert about.counts == {"train": (1, 7), "test": (1, 4)}


def test_a_set_without_pictures_of_its_own_is_inspected_too() -> None:
    about, digits = hpd.inspect_dataset("digits"), hpd.load_dataset("digits")
    assert (about.kind, about.shape, about.cost) == ("digits", digits.train.image_shape, None)
    assert sum(about.counts["train"]) == len(digits.train)
    assert about.mean == digits.train.normalisation.mean
    assert about.formats == {"array": len(digits.train) + len(digits.test)}


def test_json_says_the_same(good: Path) -> None:
    (good / "train" / "cat" / "broken.png").touch()
    about = hpd.inspect_dataset(good)
    facts = json.loads(json.dumps(about.as_json()))
    assert facts["total"] == about.total == 21
    assert facts["counts"] == {"train": [7, 7], "test": [3, 4]}
    assert facts["broken"] == {"count": 1, "names": about.broken.names}
    assert facts.keys() == {"total", *Inspection.__dataclass_fields__}


@pytest.mark.parametrize("where", ["good", "digits"])
def test_a_grid_shows_pictures_of_each_class_under_its_name(
    where: str, good: Path, tmp_path: Path
) -> None:
    (good / "train" / "cat" / "broken.png").touch()
    path = tmp_path / "new" / "grid.png"
    hpd.inspect_dataset(good if where == "good" else "digits", grid=path)
    with Image.open(path) as grid:
        pixels = np.asarray(grid.convert("RGB"))
    columns = 2 if where == "good" else 10
    # tiles of 96 px and gaps of 6
    assert pixels.shape[1] == columns * 102 + 6
    for column in range(columns):
        tile = pixels[18 : 18 + 96, 6 + column * 102 : 6 + column * 102 + 96]
        assert tile.std() > 20


def test_a_grid_of_many_classes_has_twenty_of_them(tmp_path: Path) -> None:
    for i in range(23):
        for j in range(2):
            put(tmp_path / "d" / f"class{i:02}" / f"{j}.png")
    hpd.inspect_dataset(tmp_path / "d", grid=tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid.convert("L")).astype(int)
    # two bands of ten classes, of one training picture each
    assert pixels.shape == (2 * (18 + 102 + 6), 10 * 102 + 6)
    assert (pixels[126 + 18 : 126 + 18 + 96, -102:-6].std()) > 20


def test_a_place_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        hpd.inspect_dataset(tmp_path / "nowhere")
