"""Shards of WebDataset: tar files with a picture and a label a sample, read in place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from hpd.data.classes import plain_name, shown_names
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.layouts.files import read_json, read_lines
from hpd.data.layouts.parts import Labelled, in_order, listing_of_labelled
from hpd.data.layouts.scanning import is_passed_over, look_into, shown
from hpd.data.layouts.shards import Sample, expanded, read_shard
from hpd.data.layouts.words import by_preference, part_of
from hpd.data.listing import Listing
from hpd.data.registry import DATASETS
from hpd.errors import DataError

_NAME_FILES = ("classnames.txt", "classes.txt")
# what `hpd export` writes beside its shards
_ABOUT = "about.json"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@DATASETS.register("webdataset")
class WebDatasetSettings(PictureSetSettings):
    """Tar files whose samples have a picture and a label, as `.cls` or in `.json`.

    Files or folders called ``train...`` and ``test...`` are the parts, else each class is split.
    Names of the classes are in ``classnames.txt`` or ``classes.txt`` beside them, a line each.
    """

    root: str = Field(
        description="a folder of shards, one shard, or a pattern: data-{000000..000009}.tar"
    )

    def listing(self) -> Listing:
        """Return what is in the shards; see `PictureSetSettings.listing`."""
        root = Path(self.root).expanduser()
        parts, notes = _parts(root, _shards(root))
        samples = {part: _read(paths) for part, paths in parts.items()}
        every = [sample for own in samples.values() for sample in own]
        names = _names(root, every)
        place = {plain_name(name): i for i, name in enumerate(names)}
        both = {
            part: Labelled(
                [sample.picture for sample in own if sample.picture is not None],
                [_index(root, sample, names, place) for sample in own],
            )
            for part, own in samples.items()
        }
        return listing_of_labelled(
            str(root), names, both["train"], both.get("test"), wanted=self.wanted, notes=notes
        )


def _shards(root: Path) -> list[Path]:
    """Return the tar files that are meant, in order.

    Raises:
        DataError: if there is none, or some are missing.
    """
    if not root.is_dir():
        paths = expanded(root)
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"no such data file: {shown(missing[0])}",
                got=f"{len(missing)} of {len(paths)} are missing",
                fix="Set data.root to a folder of .tar files, to one, or to a pattern.",
            )
        return paths
    folders = [root, *(root / name for name in look_into(root).folders)]
    files = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and not is_passed_over(path.name)
    ]
    shards = [path for path in files if path.suffix.lower() == ".tar"]
    packed = [path for path in files if path.name.lower().endswith(_COMPRESSED)]
    if packed:
        raise DataError(
            f"compressed shard: {shown(packed[0])}",
            fix="Shards are read in place: decompress them.",
        )
    if not shards:
        raise DataError(
            f"no .tar files in {shown(root)}", fix="Set data.root to a folder of shards."
        )
    return shards


def _parts(root: Path, shards: Sequence[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the shards of each part, and notes; without parts, all are of the training."""
    words: dict[str, list[Path]] = {}
    for shard in shards:
        inside = shard.parent != root and root.is_dir()
        words.setdefault(_word(shard, inside=inside), []).append(shard)
    if set(words) == {""}:
        return {"train": list(shards)}, []
    unknown = words.pop("", [])
    train = [word for word in words if part_of(word) == "train"]
    tests = by_preference(word for word in words if part_of(word) == "test")
    if unknown or not train:
        raise DataError(
            f"some shards of {shown(root)} are of a part and others of none"
            if unknown
            else f"{shown(root)} has no shards of a training part",
            got=shown_names([path.name for path in [*unknown[:1], *shards[:1]]]),
            expected="names that begin with train or test, or none that does",
        )
    notes = [
        f"shards of {word!r} are passed over: {tests[0]!r} is the test part" for word in tests[1:]
    ]
    parts = {"train": [path for word in train for path in words[word]]}
    return (parts | {"test": words[tests[0]]} if tests else parts), notes


def _word(shard: Path, *, inside: bool) -> str:
    """Return the word that says which part a shard is of; "" if none does."""
    if inside and part_of(shard.parent.name):
        return shard.parent.name.lower()
    parts = (word for word in re.split(r"[^a-z]+", shard.stem.lower()) if part_of(word))
    return next(parts, "")


def _read(paths: Sequence[Path]) -> list[Sample]:
    return [sample for path in paths for sample in read_shard(path)]


def _names(root: Path, samples: Sequence[Sample]) -> list[str]:
    """Return the names of the classes in the order of their indices."""
    folder = root if root.is_dir() else root.parent
    for name in _NAME_FILES:
        if (folder / name).is_file():
            return [line.strip() for line in read_lines(folder / name)]
    about = read_json(folder / _ABOUT) if (folder / _ABOUT).is_file() else None
    classes = about.get("classes") if isinstance(about, Mapping) else None
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        return classes
    labels = {sample.label for sample in samples}
    if not all(isinstance(label, int) for label in labels):
        return in_order(list({str(label) for label in labels}))
    numbers = sorted(label for label in labels if isinstance(label, int))
    if numbers and numbers[0] < 0:
        raise DataError(f"{shown(root)} has a negative label", got=numbers[0])
    said = {sample.label: sample.class_name for sample in samples if sample.class_name}
    return [said.get(number) or str(number) for number in range((numbers or [-1])[-1] + 1)]


def _index(root: Path, sample: Sample, names: Sequence[str], place: Mapping[str, int]) -> int:
    """Return the index of a sample's class."""
    label = sample.label
    index = place.get(plain_name(str(label))) if isinstance(label, str) else label
    if index is None and str(label) in place:
        index = place[str(label)]
    if index is None or not 0 <= index < len(names):
        raise DataError(
            f"{shown(root)} has a label without a name",
            got=repr(label),
            expected=f"one of {len(names)} classes: {shown_names(names)}",
        )
    return index
