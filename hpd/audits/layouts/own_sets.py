"""Runs of hpd, its sets and its exports: files beside them say what their numbers mean."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.artifacts.distilled import FILE_NAME
from hpd.artifacts.exports.base import ABOUT
from hpd.audits.layouts.array_files import is_npz, is_safetensors, read_npz
from hpd.audits.layouts.picture_folders import read_folder, read_pictures
from hpd.audits.layouts.torch_files import is_pair, read_pair
from hpd.audits.spaces import Space
from hpd.audits.stored import Stored, Wanted, pictures_storage
from hpd.data import Normalisation
from hpd.data.layouts.files import read_json
from hpd.data.layouts.scanning import shown
from hpd.data.layouts.shards import read_shard
from hpd.data.listing import Entry
from hpd.data.pictures.opening import open_picture
from hpd.data.whitening import ZcaKind, recipe_of
from hpd.errors import ConfigError, DataError, RunError
from hpd.storage import Storage

_UNIT = Normalisation((0.0,), (1.0,))
# bytes, and how many times smaller an honest table of pictures of that size may be in its file
_LARGE, _DENSEST = 2**28, 200


def is_run(path: Path) -> bool:
    """Return whether it is the folder of a run, or the file of a set of hpd."""
    if path.is_dir():
        return (path / FILE_NAME).is_file()
    if not is_safetensors(path):
        return False
    try:
        DistilledSet.load(path)
    except RunError:
        # another file of such tensors, unless it is one of hpd that was damaged
        return path.name == FILE_NAME
    return True


def read_run(path: Path, wanted: Wanted) -> Stored:
    """Read a set of hpd.

    Raises:
        RunError: if it is damaged.
    """
    found = DistilledSet.load(path)
    recipe = recipe_of(found.normalisation)
    view = "plain" if recipe is None else recipe["kind"]
    file = path / FILE_NAME if path.is_dir() else path
    channels = found.images.shape[1]
    return Stored(
        "hpd", (file,), found.images, found.labels, found.storage, names=found.classes,
        said=Space("unit", _repeated(_UNIT, channels), view), soft_labels=found.soft_labels,
    )  # fmt: skip


def _repeated(one: Normalisation, channels: int) -> Normalisation:
    return Normalisation(one.mean * channels, one.std * channels)


def is_export(path: Path) -> bool:
    """Return whether it is a folder of ``hpd export``."""
    return path.is_dir() and (path / ABOUT).is_file()


def read_export(path: Path, wanted: Wanted) -> Stored:
    """Read what ``hpd export`` wrote, in any of its formats.

    Raises:
        DataError: if `about.json` or another file is damaged, or not what it is to be.
    """
    about = read_json(path / ABOUT)
    if not isinstance(about, Mapping):
        raise DataError(f"{shown(path / ABOUT)} is no list of facts", got=type(about).__name__)
    try:
        classes = tuple(str(name) for name in about["classes"])
        view, constants = _view(about), _constants(about)
        kept = Storage.read(about["storage"])
        folders = {str(k): str(v) for k, v in dict(about.get("folders") or {}).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path / ABOUT)} lacks a fact", got=error) from None
    for fits, read in _READERS:
        if fits(path):
            found = read(path, wanted)
            break
    else:
        raise DataError(f"{shown(path)} holds no set beside {ABOUT}")
    names = found.names
    if names is not None and folders:
        names = tuple(folders.get(name, name) for name in names)
    space = (
        _pictures(found.values, wanted) if constants is None else Space("its own file", constants)
    )
    return replace(
        found, names=classes if names is None else names, storage=kept,
        said=replace(space, view=view), layout=f"hpd {found.layout}",
    )  # fmt: skip


def _pictures(values: Tensor, wanted: Wanted) -> Space:
    """Return what values of pictures mean: bytes, or numbers from 0 to 1."""
    channels = wanted.image_shape[0]
    if values.dtype == torch.uint8:
        return Space("bytes", _repeated(Normalisation((0.0,), (1 / 255,)), channels))
    return Space("unit", _repeated(_UNIT, channels))


def _view(about: Mapping[str, Any]) -> str:
    zca = about.get("zca")
    if zca is None:
        return "plain"
    if zca["kind"] not in get_args(ZcaKind):
        raise ValueError(f"unknown zca {zca['kind']!r}")
    return str(zca["kind"])


def _constants(about: Mapping[str, Any]) -> Normalisation | None:
    """Return by what the images are normalised; None where they are pictures."""
    if not about.get("normalised"):
        return None
    mean, std = (tuple(float(value) for value in about[name]) for name in ("mean", "std"))
    return Normalisation(mean, std)


def is_shards(path: Path) -> bool:
    """Return whether it is a shard of WebDataset, or a folder of them."""
    return bool(_with(path, ".tar"))


def read_shards(path: Path, wanted: Wanted) -> Stored:
    """Read shards of WebDataset; see `hpd.data.layouts.shards`."""
    files = _with(path, ".tar")
    samples = [sample for file in files for sample in read_shard(file)]
    pictures = [sample.picture for sample in samples if sample.picture is not None]
    labels, names = _named([sample.label for sample in samples])
    values = read_pictures(pictures, wanted)
    return Stored(
        "webdataset", tuple(files), values, labels, pictures_storage(values), names=names,
        convention=("bytes",),
    )  # fmt: skip


def _named(labels: list[Any]) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return indices, and what they are called where labels are names."""
    if all(isinstance(label, int) for label in labels):
        return torch.tensor(labels), None
    names = sorted({str(label) for label in labels})
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([place[str(label)] for label in labels]), tuple(names)


def is_parquet(path: Path) -> bool:
    """Return whether it is a Parquet file, or a folder with some in it or in ``data``."""
    return bool(_with(path, ".parquet"))


def read_parquet(path: Path, wanted: Wanted) -> Stored:
    """Read pictures and labels of Parquet, as Hugging Face's `datasets` writes them.

    Raises:
        ConfigError: if `pyarrow` is not installed.
        DataError: if a file is damaged, claims more than it holds, or has other columns.
    """
    files, rows = _with(path, ".parquet"), list[Mapping[str, Any]]()
    for file in files:
        rows += _rows(file)
    entries: list[Entry] = []
    for i, row in enumerate(rows):
        image = row["image"]
        content = image.get("bytes") if isinstance(image, Mapping) else None
        if not isinstance(content, bytes):
            raise DataError(f"row {i} of {shown(files[0])} holds no picture")
        entries.append(_Held(f"{files[0]}[{i}]", content))
    labels, names = _named([row["label"] for row in rows])
    values = read_pictures(entries, wanted)
    return Stored(
        "parquet", tuple(files), values, labels, pictures_storage(values), names=names,
        convention=("bytes",),
    )  # fmt: skip


class _Held:
    """A picture whose file is in memory; see `hpd.data.listing.Entry`."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self._content = name, content
        self.stamp, self.size = name, len(content)

    def open(self) -> Any:
        return open_picture(io.BytesIO(self._content))


def _rows(file: Path) -> list[Mapping[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which cannot be imported", got=error,
            fix="Install it with: pip install 'hpd[exports]'.",
        ) from None  # fmt: skip
    try:
        opened, size = parquet.ParquetFile(file), file.stat().st_size
        groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        claimed = sum(group.total_byte_size for group in groups)
        if claimed > _LARGE and claimed > _DENSEST * size:
            raise DataError(
                f"{shown(file)} unpacks to far more than it is", got=f"{claimed:,} from {size:,}"
            )
        rows: list[Mapping[str, Any]] = opened.read(columns=["image", "label"]).to_pylist()
        if rows and not {"image", "label"} <= set(rows[0]):
            raise ValueError(f"columns {list(rows[0])}")
        return rows
    except DataError:
        raise
    # the library raises what its readers do
    except Exception as error:
        raise DataError(f"cannot read {shown(file)}", got=str(error)[:200]) from None


def _with(path: Path, suffix: str) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == suffix else []
    if not path.is_dir():
        return []
    places = [path, path / "data"]
    return sorted(p for place in places for p in place.glob(f"*{suffix}") if p.is_file())


_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Wanted], Stored]], ...] = (
    (is_run, read_run), (is_pair, read_pair), (is_npz, read_npz), (is_shards, read_shards),
    (is_parquet, read_parquet), (lambda path: True, read_folder),
)  # fmt: skip
