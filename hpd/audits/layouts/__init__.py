"""Layouts in which people store distilled sets: which one it is, and what its files hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpd.audits.layouts import array_files, own_sets, picture_folders, torch_files
from hpd.audits.stored import Stored, Wanted
from hpd.data.layouts.scanning import shown
from hpd.errors import DataError

__all__ = ["LAYOUTS", "Layout", "read_stored"]


@dataclass(frozen=True)
class Layout:
    """One way to store a set.

    Args:
        name: by which a user asks for it.
        words: what it is.
        fits: whether a path looks like it; nothing of it is read but names and heads.
        read: its reader.
    """

    name: str
    words: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Wanted], Stored]


LAYOUTS: tuple[Layout, ...] = (
    Layout("export", "a folder of hpd export", own_sets.is_export, own_sets.read_export),
    Layout("hpd", "a run of hpd, or its set", own_sets.is_run, own_sets.read_run),
    Layout("mtt", "images_best.pt, labels_best.pt", torch_files.is_mtt, torch_files.read_mtt),
    Layout("res", "res_*.pt of DC, DSA and DM", torch_files.is_res, torch_files.read_res),
    Layout("idc", "data_best.pt of IDC", torch_files.is_idc, torch_files.read_idc),
    Layout("ddranking", "images.pt, labels.pt", torch_files.is_pair, torch_files.read_pair),
    Layout("npz", "arrays: RFAD, KIP, plain ones", array_files.is_npz, array_files.read_npz),
    Layout(
        "safetensors", "tensors of images and labels",
        array_files.is_safetensors, array_files.read_safetensors,
    ),
    Layout("webdataset", "shards", own_sets.is_shards, own_sets.read_shards),
    Layout("parquet", "tables of pictures", own_sets.is_parquet, own_sets.read_parquet),
    Layout(
        "folder", "pictures by class: SRe2L, RDED, CDA, plain ones",
        picture_folders.is_folder, picture_folders.read_folder,
    ),
)  # fmt: skip
"""The first that fits is taken."""


def read_stored(path: Path, wanted: Wanted, layout: str | None = None) -> Stored:
    """Read a set in the layout that it is in.

    Args:
        path: file or folder.
        wanted: what it is to be compared with.
        layout: its name; None: found out.

    Raises:
        DataError: if there is nothing, none fits, or it is damaged.
        HpdError: for what is wrong with its files.
    """
    if not path.exists():
        raise DataError(f"no distilled set at {shown(path)}", fix="Give a file or a folder.")
    asked = [own for own in LAYOUTS if layout in (None, own.name)]
    if not asked:
        known = ", ".join(own.name for own in LAYOUTS)
        raise DataError(f"unknown format {layout!r}", expected=known)
    found = next((own for own in asked if own.fits(path)), None)
    if found is None:
        expected = "; ".join(f"{own.name} ({own.words})" for own in asked)
        raise DataError(f"{shown(path)} is in no layout that is known", expected=expected)
    return found.read(path, wanted)
