"""Random trees of folders and files: read as Pillow's functions read them, or refused by name."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures_at_random import SUFFIXES, Damage, Kind, damages, expected, kinds, profile
from PIL import Image

import hpd
from hpd.data import Dataset
from hpd.errors import DataError

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))
# composed and taken apart, with spaces, dashes and dots at their ends, numbers, right to left
NAMES = (
    "cat", "dog", "a b", "-dash", "x.y", "007", "12", "e\u0301te\u0301", "\u00e9t\u00e9", "\u732b",
    "\u05d7\u05ea\u05d5\u05dc", "UPPER", "upper", "tab\tname", "#hash", "[red]", "per%cent", "{x}",
    "=", "~", "null", "true", "no", "1e3", " space",
)  # fmt: skip
ODD_NAMES = (
    "plain",
    "two words",
    "-rf",
    "trailing.",
    "\u00e9",
    "e\u0301",
    "1",
    "a.tar",
    "q?&",
    "%s",
)
HIDDEN = (".hidden.png", "._0.png", "Thumbs.db", "notes.txt", ".DS_Store")


@dataclass(frozen=True)
class File:
    """A file of a class.

    Args:
        name: without its suffix.
        suffix: any; content decides.
        below: folders between the class and it.
        kind: of picture.
        damage: done to it; None: whole.
        link: whether it is a link to a file elsewhere.
    """

    name: str
    suffix: str
    below: str
    kind: Kind
    damage: Damage | None
    link: bool

    def data(self) -> bytes:
        """Return its bytes."""
        data = self.kind.data()
        return data if self.damage is None else self.damage.done_to(data)


def files(damaged: bool) -> st.SearchStrategy[File]:
    return st.builds(
        File,
        st.sampled_from(ODD_NAMES), st.sampled_from(SUFFIXES),
        st.sampled_from(["", "", "", "deep", "deep/er", "with space"]), kinds(SIZES),
        st.one_of(*[st.none()] * 3, damages()) if damaged else st.none(), st.booleans(),
    )  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """Classes with files.

    Args:
        classes: files of each class, by the name of its folder.
        parted: whether there are a training and a test part above the classes.
        junk: hidden files, and such that are no pictures, that lie in each class.
        linked: whether the folders of the classes are links.
    """

    classes: dict[str, list[File]]
    parted: bool
    junk: tuple[str, ...]
    linked: bool

    def write(self, root: Path, elsewhere: Path) -> dict[str, dict[str, bytes]]:
        """Write it; return the bytes of the pictures of each class by path."""
        written: dict[str, dict[str, bytes]] = {}
        elsewhere.mkdir(parents=True)
        for i, (name, own) in enumerate(self.classes.items()):
            held = written.setdefault(name, {})
            for part in ("train", "test") if self.parted else (".",):
                folder = root / part / name
                folder.parent.mkdir(parents=True, exist_ok=True)
                if self.linked:
                    real = elsewhere / f"{part.strip('.')}class{i}"
                    real.mkdir()
                    folder.symlink_to(real, target_is_directory=True)
                folder.mkdir(exist_ok=True)
                for j, file in enumerate(own):
                    path = folder / file.below / f"{file.name}{j}{file.suffix}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _write(path, file, elsewhere / f"{part.strip('.')}{i}-{j}")
                    held[str(path)] = file.data()
                for junk in self.junk:
                    (folder / junk).write_bytes(b"no picture")
                (folder / ".cache").mkdir()
                (folder / ".cache" / "0.png").write_bytes(b"no picture")
        return written


def _write(path: Path, file: File, elsewhere: Path) -> None:
    if file.link:
        elsewhere.write_bytes(file.data())
        path.symlink_to(elsewhere)
    else:
        path.write_bytes(file.data())


def trees(damaged: bool) -> st.SearchStrategy[Tree]:
    names = st.lists(
        st.sampled_from(NAMES), min_size=2, max_size=4,
        # they are the same name, and on some file systems the same folder
        unique_by=lambda name: unicodedata.normalize("NFC", name).lower(),
    )  # fmt: skip
    return st.builds(
        Tree,
        names.flatmap(
            lambda chosen: st.fixed_dictionaries(
                {name: st.lists(files(damaged), min_size=2, max_size=4) for name in chosen}
            )
        ),
        st.booleans(), st.lists(st.sampled_from(HIDDEN), max_size=3).map(tuple), st.booleans(),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)


@pytest.fixture
def place() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def fresh(place: Path) -> tuple[Path, Path]:
    """Return an empty root and an empty place for what links lead to."""
    for child in list(place.iterdir()):
        shutil.rmtree(child)
    return place / "root", place / "elsewhere"


def of_class(dataset: Dataset, name: str) -> list[np.ndarray]:
    """Return all pictures [H, W, C] of a class."""
    found = []
    for part in (dataset.train, dataset.test):
        label = part.classes.index(unicodedata.normalize("NFC", name))
        found += list(part.pixels(part.by_class[label]).permute(0, 2, 3, 1).numpy())
    return found


def is_close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a.astype(int) - b).max() <= 1)


def same_pictures(found: list[np.ndarray], want: list[np.ndarray]) -> bool:
    """Return whether each of two lists of pictures has its like in the other."""
    if len(found) != len(want):
        return False
    left = list(found)
    for picture in want:
        match = next((i for i, other in enumerate(left) if is_close(other, picture)), None)
        if match is None:
            return False
        left.pop(match)
    return True


@given(
    tree=trees(damaged=False), channels=st.sampled_from([1, 3]), resolution=st.sampled_from([4, 8])
)
@profile(60)
def test_a_whole_tree_has_every_picture_as_pillow_makes_it(
    tree: Tree, channels: Literal[1, 3], resolution: int, place: Path
) -> None:
    root, elsewhere = fresh(place)
    written = tree.write(root, elsewhere)
    dataset = hpd.load_dataset(root, channels=channels, resolution=resolution)
    names = {unicodedata.normalize("NFC", name) for name in tree.classes}
    assert set(dataset.train.classes) == names
    for name, files_of_class in written.items():
        want = [expected(data, channels, resolution) for data in files_of_class.values()]
        assert same_pictures(of_class(dataset, name), want), name


@pytest.mark.filterwarnings("ignore")
@given(
    tree=trees(damaged=True),
    channels=st.sampled_from([1, 3]),
    resolution=st.sampled_from([None, 8]),
)
@profile(100)
def test_a_damaged_tree_is_read_or_refused_by_the_name_of_a_file(
    tree: Tree, channels: Literal[1, 3], resolution: int | None, place: Path
) -> None:
    root, elsewhere = fresh(place)
    written = tree.write(root, elsewhere)
    try:
        dataset = hpd.load_dataset(root, channels=channels, resolution=resolution)
    except DataError as error:
        text = str(error)
        assert len(text) <= 600
        assert "\n" not in text
        assert str(root) in text or "..." in text
        # the message folds blanks
        tails = {" ".join(ascii(Path(path).name)[1:-1].split()) for path in _paths(written)}
        assert any(tail in ascii(text).replace("\\\\", "\\") for tail in tails), text
        return
    for name, files_of_class in written.items():
        found = of_class(dataset, name)
        assert len(found) == len(files_of_class)
        for data in files_of_class.values():
            try:
                want = expected(data, channels, resolution)
            except Exception:
                continue
            assert any(other.shape == want.shape and is_close(other, want) for other in found)


def _paths(written: dict[str, dict[str, bytes]]) -> list[str]:
    return [path for own in written.values() for path in own]


@given(tree=trees(damaged=True))
@profile(25)
@pytest.mark.filterwarnings("ignore")
def test_an_inspection_survives_every_tree(tree: Tree, place: Path) -> None:
    root, elsewhere = fresh(place)
    written = tree.write(root, elsewhere)
    about = hpd.inspect_dataset(root)
    assert about.looked_at == about.total == len(_paths(written))
    assert about.broken.count + sum(about.sizes.values()) == about.total
