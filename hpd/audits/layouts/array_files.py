"""Sets in ``.npz`` files: RFAD, KIP, and plain arrays; and in those of safetensors.

RFAD (Loo et al.) keeps ``images`` [N, C, H, W] and ``labels`` [N, K] around 0, with ``k``, ``jit``
and ``valid_loss``; KIP (Nguyen et al.) the first two alone, channels last. Their code whitens
images in colour: KIP's of unit norm each, RFAD's for CIFAR-10 standardised by channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpd.arrays.tensors import as_tensor
from hpd.audits.stored import Stored, Wanted, as_numbers, storage_of
from hpd.data.layouts.npz_arrays import Array, load_arrays, shapes_of
from hpd.data.layouts.scanning import shown
from hpd.errors import DataError

_IMAGES = ("images", "x", "x_train", "train_images", "data", "image", "X")
_LABELS = ("labels", "y", "y_train", "train_labels", "targets", "label", "Y")
_NAMES = ("classes", "class_names", "label_names")
_SOFT = "soft_labels"
_OF_RFAD = {"k", "jit"}
_MOST_FACTS = 20


def is_npz(path: Path) -> bool:
    """Return whether it is an ``.npz``, or a folder that holds one such file alone."""
    return _file(path) is not None


def read_npz(path: Path, wanted: Wanted) -> Stored:
    """Read arrays of images and labels.

    Raises:
        DataError: if it is no such file, is damaged or claims more than it holds.
    """
    file = _file(path)
    assert file is not None, "asked before"
    layout = _layout(file)
    arrays = load_arrays(file)
    images, labels = _of(arrays, _IMAGES, file), _of(arrays, _LABELS, file)
    told = as_tensor(labels, f"the labels of {shown(file)}")
    values = as_tensor(images, f"the images of {shown(file)}")
    soft = arrays.get(_SOFT)
    return Stored(
        layout, (file,), as_numbers(values, f"the images of {shown(file)}"), told,
        storage_of(values, told),
        names=_class_names(arrays, file),
        convention=_CONVENTIONS[layout],
        soft_labels=None if soft is None else as_tensor(soft, f"{_SOFT} of {shown(file)}"),
        facts=_facts(arrays),
    )  # fmt: skip


_CONVENTIONS: Mapping[str, tuple[str, ...]] = {
    "rfad": ("zca standardised", "data"),
    "kip": ("zca per_image", "zca standardised", "data"),
    "npz": ("bytes", "unit"),
}


def _file(path: Path) -> Path | None:
    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        return found[0] if len(found) == 1 else None
    return path if path.is_file() and path.suffix == ".npz" else None


def _layout(file: Path) -> str:
    """Return which of the layouts a file is in, by the names and the shapes of its arrays."""
    shapes = shapes_of(file)
    if set(shapes) >= _OF_RFAD:
        return "rfad"
    labels = next((shapes[name] for name in _LABELS if name in shapes), ())
    return "kip" if set(shapes) == {"images", "labels"} and len(labels) == 2 else "npz"


def _of(arrays: Mapping[str, Array], names: tuple[str, ...], file: Path) -> Array:
    found = next((name for name in names if name in arrays), None)
    if found is None:
        raise DataError(
            f"{shown(file)} has no array of {names[0]}",
            got=", ".join(sorted(arrays)[:10]) or "no arrays",
            expected=" or ".join(names),
        )
    return arrays[found]


def _class_names(arrays: Mapping[str, Array], file: Path) -> tuple[str, ...] | None:
    found = next((name for name in _NAMES if name in arrays), None)
    if found is None:
        return None
    names = arrays[found]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{found!r} in {shown(file)} is not a list of names", got=names.dtype)
    try:
        return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in names.tolist())
    except (UnicodeDecodeError, SystemError, ValueError) as error:
        raise DataError(f"{found!r} in {shown(file)} is no text", got=error) from None


def _facts(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the single numbers of a file."""
    single = {n: v for n, v in arrays.items() if v.ndim == 0 and v.dtype.kind in "biuf"}
    return {name: value.item() for name, value in list(single.items())[:_MOST_FACTS]}


def is_safetensors(path: Path) -> bool:
    """Return whether it is a file of safetensors with images and labels."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return {"images", "labels"} <= set(file.keys())
    except (SafetensorError, OSError):
        return False


def read_safetensors(path: Path, wanted: Wanted) -> Stored:
    """Read tensors of images and labels.

    Raises:
        DataError: if the file is damaged.
    """
    found: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in ("images", "labels", *({_SOFT} & set(file.keys()))):
                found[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"cannot read {shown(path)}", got=error) from None
    images, labels = found["images"], found["labels"]
    told = labels.float() if labels.dtype in (torch.float16, torch.bfloat16) else labels
    return Stored(
        "safetensors", (path,), as_numbers(images, f"the images of {shown(path)}"), told,
        storage_of(images, told), convention=("bytes", "unit"), soft_labels=found.get(_SOFT),
    )  # fmt: skip
