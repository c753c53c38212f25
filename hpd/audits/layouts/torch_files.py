"""Sets in files of torch: MTT, GLaD, DM and DC, IDC, DD-Ranking; read as data, nothing runs.

- MTT (Cazenavette et al.) and what builds on it, GLaD among them: ``images_best.pt`` and
  ``labels_best.pt``, or another word or number for ``best``, with ``lr.pt`` or ``lr_best.pt`` for a
  rate that was learnt.
- DC, DSA and DM (Zhao et al.): ``res_*.pt`` with a list ``data`` of images and labels, one for each
  experiment.
- IDC (Kim et al.): ``data_best.pt``, a list of images and labels; each image holds parts, as many
  along a side as ``factor2`` in the name of the file or of a folder above says.
- DD-Ranking (Li et al.): ``images.pt`` and ``labels.pt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from generators.checkpoints.contents import Contents, open_contents
from hpd.audits.spaces import OF_DATA_SET
from hpd.audits.stored import Stored, Wanted, as_numbers, storage_of
from hpd.data.layouts.scanning import shown
from hpd.errors import DataError, GeneratorError

_FACTOR = re.compile(r"factor_?(\d)(?!\d)")
_PAIR = re.compile(r"images_(.+)\.pt")
_BEST = "images_best.pt"
# MTT writes what was whitened once more as it looks, under this name
_UNDONE = "zca_"


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """Open a torch file, whose tensors can be read until it is closed.

    Raises:
        DataError: if it is none, is damaged, or names what would run.
    """
    try:
        with open_contents(path) as contents:
            yield contents
    except GeneratorError as error:
        # what to do about a file that should hold a generator is no help here
        helps = "attack" in error.fix or "anew" in error.fix
        raise DataError(
            f"cannot read {shown(path)}: {error.problem}", got=error.got,
            expected="tensors as torch.save writes them", fix=error.fix if helps else "",
        ) from None  # fmt: skip


def only_tensor(path: Path) -> Tensor:
    """Return the tensor that a file is.

    Raises:
        DataError: if it holds something else.
    """
    with opened(path) as contents:
        names = list(contents.tensors)
        if len(names) != 1:
            got = f"{len(names)} tensors"
            raise DataError(f"{shown(path)} is not one tensor", got=got, expected="a tensor")
        return contents.tensors[names[0]]


def is_mtt(path: Path) -> bool:
    """Return whether there are ``images_*.pt`` and labels to go with them."""
    return bool(_pairs(path))


def read_mtt(path: Path, wanted: Wanted) -> Stored:
    """Read a pair of MTT, GLaD or DM.

    Raises:
        DataError: if there are several pairs and none is the best, or a file is not what it is to
            be.
    """
    pairs = _pairs(path)
    images_at, labels_at = _meant(path, pairs)
    others = [own.name for own, _ in pairs if own != images_at]
    notes = (f"passed over: {', '.join(others)}",) if others else ()
    rate = _rate(labels_at)
    return _of_pair(
        "mtt", (images_at, labels_at), only_tensor(images_at), only_tensor(labels_at),
        convention=_mtt_convention(images_at.name), notes=notes,
        facts={} if rate is None else {"lr": rate},
    )  # fmt: skip


def _meant(path: Path, pairs: Sequence[tuple[Path, Path]]) -> tuple[Path, Path]:
    """Return the pair that is meant: the file that was given, the best, or the only one."""
    given = [pair for pair in pairs if pair[0] == path]
    # a copy of a whitened set as it looks is not a set of its own
    plain = [pair for pair in pairs if _UNDONE not in pair[0].name]
    best = [pair for pair in plain if pair[0].name == _BEST]
    for found in (given, best, plain):
        if len(found) == 1:
            return found[0]
    raise DataError(
        f"{shown(path)} holds several sets",
        got=", ".join(images.name for images, _ in pairs[:5]),
        fix="Give one of the files of images.",
    )


def _mtt_convention(name: str) -> tuple[str, ...]:
    return ("unit",) if _UNDONE in name else ("cifar10", OF_DATA_SET, "zca pixels")


def _pairs(path: Path) -> list[tuple[Path, Path]]:
    """Return the files of images that have labels beside them, and these."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir() or (path.is_file() and not _PAIR.fullmatch(path.name)):
        return []
    files = [own for own in sorted(folder.glob("images_*.pt")) if _PAIR.fullmatch(own.name)]
    pairs = [(own, folder / own.name.replace("images", "labels", 1)) for own in files]
    pairs = [(own, labels.with_name(labels.name.replace(_UNDONE, ""))) for own, labels in pairs]
    return [(own, labels) for own, labels in pairs if labels.is_file()]


def _rate(labels_at: Path) -> float | None:
    """Return the rate that was learnt with a set; None where no file holds one."""
    for name in (labels_at.name.replace("labels", "lr", 1), "lr.pt"):
        if labels_at.with_name(name).is_file():
            with opened(labels_at.with_name(name)) as contents:
                values = [*contents.numbers.values()]
                values += [float(t.flatten()[0]) for t in contents.tensors.values() if t.numel()]
                return values[0] if values else None
    return None


def is_res(path: Path) -> bool:
    """Return whether it is a file ``res_*.pt``, or a folder with one."""
    return bool(_named(path, "res_*.pt"))


def read_res(path: Path, wanted: Wanted) -> Stored:
    """Read a set of a file of results of DC, DSA or DM.

    Raises:
        DataError: if it holds several sets and none was named, or is no such file.
    """
    file = _one(path, "res_*.pt")
    with opened(file) as contents:
        numbers = _experiments(contents.tensors)
        if not numbers:
            raise DataError(
                f"{shown(file)} holds no sets",
                got=", ".join(list(contents.tensors)[:5]) or "no tensors",
                expected="a list of images and labels by the name of data",
            )
        index = _chosen(numbers, wanted.index, file)
        images, labels = (contents.tensors[f"data.{index}.{part}"] for part in (0, 1))
    notes = (f"set {index} of {len(numbers)}",) if len(numbers) > 1 else ()
    return _of_pair("res", (file,), images, labels, convention=(OF_DATA_SET,), notes=notes)


def _experiments(names: Mapping[str, Tensor]) -> list[int]:
    found = {int(m[1]) for name in names if (m := re.fullmatch(r"data\.(\d+)\.0", name))}
    return sorted(n for n in found if f"data.{n}.1" in names)


def _chosen(numbers: Sequence[int], index: int | None, file: Path) -> int:
    if index is None and len(numbers) == 1:
        return numbers[0]
    if index is None or index not in numbers:
        raise DataError(
            f"{shown(file)} holds {len(numbers)} sets",
            got="none that was chosen" if index is None else f"index {index}",
            expected=f"{numbers[0]} to {numbers[-1]}",
            fix="Say by --index which one.",
        )
    return index


def is_idc(path: Path) -> bool:
    """Return whether it is a file ``data_best.pt`` or ``data*.pt``, or a folder with one."""
    return bool(_named(path, "data*.pt"))


def read_idc(path: Path, wanted: Wanted) -> Stored:
    """Read a set of IDC; its images are as they were stored, with their parts.

    Raises:
        DataError: if it is no such file.
    """
    file = _one(path, "data*.pt", "data_best.pt")
    with opened(file) as contents:
        if not {"0", "1"} <= set(contents.tensors):
            got = ", ".join(list(contents.tensors)[:5]) or "no tensors"
            raise DataError(f"{shown(file)} is no list of images and labels", got=got)
        images, labels = contents.tensors["0"], contents.tensors["1"]
    named = [m for p in (file, *file.absolute().parents) for m in _FACTOR.findall(p.name)]
    factor = int(named[0]) if named else None
    return _of_pair("idc", (file,), images, labels, convention=("unit",), factor=factor)


def is_pair(path: Path) -> bool:
    """Return whether there are ``images.pt`` and ``labels.pt``."""
    folder = path if path.is_dir() else path.parent
    there = all((folder / name).is_file() for name in ("images.pt", "labels.pt"))
    return there and (path.is_dir() or path.name == "images.pt")


def read_pair(path: Path, wanted: Wanted) -> Stored:
    """Read the pair of DD-Ranking."""
    folder = path if path.is_dir() else path.parent
    images_at, labels_at = folder / "images.pt", folder / "labels.pt"
    return _of_pair(
        "ddranking", (images_at, labels_at), only_tensor(images_at), only_tensor(labels_at),
        convention=(OF_DATA_SET,),
    )  # fmt: skip


def _of_pair(
    layout: str, files: tuple[Path, ...], images: Tensor, labels: Tensor, *,
    convention: tuple[str, ...], factor: int | None = None, notes: tuple[str, ...] = (),
    facts: Mapping[str, float] | None = None,
) -> Stored:  # fmt: skip
    values = as_numbers(images, f"the images of {shown(files[0])}")
    told = labels.detach()
    if told.dtype == torch.float16 or told.dtype == torch.bfloat16:
        told = told.float()
    return Stored(
        layout, files, values, told, storage_of(images, labels),
        convention=convention, factor=factor, notes=notes, facts=facts or {},
    )  # fmt: skip


def _named(path: Path, pattern: str) -> list[Path]:
    if path.is_dir():
        return sorted(own for own in path.glob(pattern) if own.is_file())
    return [path] if path.is_file() and path.match(pattern) else []


def _one(path: Path, pattern: str, best: str = "") -> Path:
    """Return the file of a pattern that is meant.

    Raises:
        DataError: if there are several, and none is the best.
    """
    found = _named(path, pattern)
    if len(found) == 1:
        return found[0]
    chosen = [own for own in found if own.name == best]
    if chosen:
        return chosen[0]
    raise DataError(
        f"{shown(path)} holds several sets",
        got=", ".join(own.name for own in found[:5]),
        fix="Give one of the files.",
    )
