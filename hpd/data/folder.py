"""Any folder of images: one subfolder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from hpd.data.classes import names_without, shown_names
from hpd.data.images import Dataset
from hpd.data.registry import DATASETS, DatasetSettings
from hpd.errors import DataError
from hpd.rng import Streams

_TEST_NAMES = ("test", "val", "valid", "validation")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"}

Files = list[tuple[Path, int]]


@DATASETS.register("folder")
class FolderSettings(DatasetSettings):
    """Images in ``root/train/<class>/*`` and ``root/test/<class>/*`` (or ``val``).

    Without these two folders, ``root/<class>/*`` is split by class, at random but always alike.
    """

    root: str = Field(description="the folder")
    resolution: int | None = Field(
        None, ge=4, description="resize the shorter side and crop the centre; null: as stored"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of each class kept for the test, where root has no test"
    )

    def build(self) -> Dataset:
        """Read all images.

        Raises:
            DataError: naming the folder or file that is missing or broken.
        """
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise DataError(f"no such data folder: {root}", fix="Set data.root to your images.")
        test_root = next((root / n for n in _TEST_NAMES if (root / n).is_dir()), None)
        if (root / "train").is_dir() and test_root is not None:
            classes = _class_names(root / "train")
            _check_same_classes(classes, test_root)
            train, test = _files(root / "train", classes), _files(test_root, classes)
        else:
            classes = _class_names(root)
            train, test = _split(_files(root, classes), self.test_fraction)
        return Dataset.of(self._read(train), self._read(test), classes, self.classes)

    def _read(self, files: Files) -> tuple[Tensor, Tensor]:
        arrays = [self._read_one(path) for path, _ in files]
        for (path, _), array in zip(files, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DataError(
                    f"images differ in size: {path}",
                    got=f"{array.shape[1]}x{array.shape[0]} px",
                    expected=f"{arrays[0].shape[1]}x{arrays[0].shape[0]} px as {files[0][0]}",
                    fix="Set data.resolution to bring all to one size.",
                )
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor([label for _, label in files])

    def _read_one(self, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if self.channels == 1 else "RGB")
        # Pillow raises SyntaxError and ValueError too for some broken files
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"broken image file: {path}", got=error, fix="Replace or remove it."
            ) from None
        if self.resolution is not None:
            size = (self.resolution, self.resolution)
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        array = np.asarray(image, dtype=np.uint8)
        return array[:, :, None] if array.ndim == 2 else array


def _class_names(root: Path) -> list[str]:
    """Return the subfolders of `root`, sorted, as class names."""
    names = _subfolders(root)
    if len(names) < 2:
        raise DataError(
            f"{root} needs a subfolder per class", got=f"{len(names)} subfolders", expected=">= 2"
        )
    return names


def _subfolders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _check_same_classes(classes: list[str], test_root: Path) -> None:
    """Check that the test images are of the classes of the training images, by name."""
    found = _subfolders(test_root)
    pairs = (("no", names_without(classes, found)), ("also", names_without(found, classes)))
    differs = [f"{word} {shown_names(names)}" for word, names in pairs if names]
    if differs:
        raise DataError(
            f"{test_root} has other classes than {test_root.parent / 'train'}",
            got="; ".join(differs),
            expected="the same subfolders",
        )


def _files(root: Path, classes: list[str]) -> Files:
    """Return all image files below `root` with their labels, in a fixed order."""
    found: Files = []
    for label, name in enumerate(classes):
        own = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not own:
            raise DataError(f"no images in {root / name}", expected=", ".join(sorted(_SUFFIXES)))
        found += [(path, label) for path in own]
    return found


def _split(files: Files, test_fraction: float) -> tuple[Files, Files]:
    """Split by class, at least one image to each part, the same at every call."""
    train: Files = []
    test: Files = []
    for label in sorted({label for _, label in files}):
        own = [entry for entry in files if entry[1] == label]
        if len(own) < 2:
            raise DataError(f"a class has a single image: {own[0][0]}", expected=">= 2 to split")
        rng = Streams(0).generator("folder split", label)
        order = torch.randperm(len(own), generator=rng).tolist()
        count = min(max(1, round(test_fraction * len(own))), len(own) - 1)
        test += [own[i] for i in sorted(order[:count])]
        train += [own[i] for i in sorted(order[count:])]
    return train, test
