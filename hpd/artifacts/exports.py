"""Exports: the distilled set in formats that anyone can train on."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpd.artifacts.distilled import FILE_NAME, DistilledSet
from hpd.artifacts.pictures import folder_names, write_image_folder
from hpd.errors import ConfigError, RunError, nearest
from hpd.files import write_bytes, write_json


def export_image_folder(distilled: DistilledSet, folder: Path) -> None:
    """Write ``<class>/<nnn>.png`` as torchvision's `ImageFolder` reads it, 8 bits a value.

    Beside the classes, `normalisation.json` holds mean, std and the class of each folder.
    """
    write_image_folder(distilled, folder)
    write_json(
        folder / "normalisation.json",
        {
            "mean": distilled.normalisation.mean,
            "std": distilled.normalisation.std,
            "image_range": [0, 1],
            "classes": dict(zip(folder_names(distilled.classes), distilled.classes, strict=True)),
        },
    )


def export_npz(distilled: DistilledSet, folder: Path) -> None:
    """Write `distilled.npz`: images float32 [N, C, H, W] in [0, 1], labels, classes, mean, std."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=distilled.images.numpy(),
        labels=distilled.labels.numpy(),
        classes=np.array(distilled.classes),
        mean=np.array(distilled.normalisation.mean, dtype=np.float32),
        std=np.array(distilled.normalisation.std, dtype=np.float32),
    )
    write_bytes(folder / "distilled.npz", buffer.getvalue())


def export_safetensors(distilled: DistilledSet, folder: Path) -> None:
    """Write `distilled.safetensors`, which `hpd.load_distilled` reads."""
    distilled.save(folder / FILE_NAME)


EXPORTS: dict[str, Callable[[DistilledSet, Path], None]] = {
    "imagefolder": export_image_folder,
    "npz": export_npz,
    "safetensors": export_safetensors,
}


def export(distilled: DistilledSet, format_name: str, folder: str | Path) -> Path:
    """Write a distilled set in a format of `EXPORTS`, whole or not at all.

    Args:
        distilled: the set.
        format_name: a key of `EXPORTS`.
        folder: a folder that does not exist yet, or is empty.

    Returns:
        the folder.

    Raises:
        ConfigError: for an unknown format.
        RunError: if the folder holds something.
    """
    if format_name not in EXPORTS:
        raise ConfigError(f"unknown format {format_name!r}", fix=nearest(format_name, EXPORTS))
    folder = Path(folder).expanduser()
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        draft = Path(temporary) / "draft"
        draft.mkdir()
        EXPORTS[format_name](distilled, draft)
        if folder.exists():
            folder.rmdir()
        shutil.move(draft, folder)
    return folder


def check_free(folder: Path) -> None:
    """Check that something can be written to `folder` without mixing with what is there.

    Raises:
        RunError: if it is a file, or a folder that is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        kind = "a run" if (folder / "config.yaml").exists() else "other files"
        raise RunError(f"{folder} already holds {kind}", fix="Choose another folder with --out.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file", fix="Choose another folder with --out.")
