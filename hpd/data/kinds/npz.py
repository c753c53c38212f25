"""Arrays of images and labels in one ``.npz`` file, as MedMNIST and Keras have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from hpd.data.classes import shown_names
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.layouts.files import file_at
from hpd.data.layouts.npz_arrays import Array, load_arrays
from hpd.data.layouts.parts import Labelled, listing_of_labelled
from hpd.data.layouts.scanning import shown
from hpd.data.listing import ArrayEntry, FileEntry, Listing
from hpd.data.registry import DATASETS
from hpd.errors import DataError

_TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"))
_TEST = (
    ("test_images", "test_labels"), ("x_test", "y_test"),
    ("val_images", "val_labels"), ("x_val", "y_val"),
)  # fmt: skip
_WHOLE = (("images", "labels"), ("x", "y"), ("data", "labels"))
_CLASS_NAMES = ("classes", "class_names", "label_names")
_CHANNELS = (1, 3, 4)


@DATASETS.register("npz")
class NpzSettings(PictureSetSettings):
    """Arrays ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` in one file.

    Or ``x_train``, ...; or ``images`` and ``labels``, split by class. Names of the classes may be
    in ``classes``, else they are the numbers that occur.
    """

    root: str = Field(description="the file")

    def listing(self) -> Listing:
        """Return what is in the file; see `PictureSetSettings.listing`."""
        file = file_at(self.root, ".npz")
        arrays = _load(file.name)
        train, test, notes = _parts(file.name, arrays)
        numbers = sorted({number for part in (train, test) if part for number in part[1]})
        names = _names(file.name, arrays, numbers)
        place = {number: place for place, number in enumerate(numbers)}
        if len(names) != len(numbers):
            place = {number: number for number in numbers}
        both = [
            part and Labelled(_rows(file, part[0]), [place[n] for n in part[1]])
            for part in (train, test)
        ]
        assert both[0] is not None
        return listing_of_labelled(
            file.name, names, both[0], both[1], wanted=self.wanted, notes=notes
        )


_Pair = tuple[Array, list[int]]


def _load(path: str) -> dict[str, Array]:
    """Return the arrays of a file, of those names that are known; see `load_arrays`."""
    known = {name for pairs in (_TRAIN, _TEST, _WHOLE) for pair in pairs for name in pair}
    return load_arrays(path, known | set(_CLASS_NAMES))


def _parts(path: str, arrays: Mapping[str, Array]) -> tuple[_Pair, _Pair | None, list[str]]:
    """Return pictures and labels of both parts; None for a test part that is not there."""
    train = _pair(path, arrays, _TRAIN)
    if train is None:
        whole = _pair(path, arrays, _WHOLE)
        if whole is None:
            raise DataError(
                f"{shown(path)} holds no images and labels by names that are known",
                got=shown_names(sorted(arrays)) or "no arrays",
                expected="train_images, train_labels, test_images, test_labels; or images, labels",
            )
        return whole, None, []
    test = _pair(path, arrays, _TEST)
    validation = [name for pair in _TEST[2:] for name in pair[:1] if name in arrays]
    used = test is not None and any(pair[0] in arrays for pair in _TEST[:2])
    return (
        train,
        test,
        [f"{name} is passed over: test is the test part" for name in validation] if used else [],
    )


def _pair(path: str, arrays: Mapping[str, Array], pairs: Sequence[tuple[str, str]]) -> _Pair | None:
    for images, labels in pairs:
        if images in arrays or (labels in arrays and labels != "labels"):
            lacking = [name for name in (images, labels) if name not in arrays]
            if not lacking:
                return _checked(path, images, arrays[images], labels, arrays[labels])
            if images == "data":
                continue
            raise DataError(
                f"{shown(path)} lacks {lacking[0]!r}",
                got=shown_names(sorted(arrays)) or "no arrays",
            )
    return None


def _checked(path: str, name: str, images: Array, labels_name: str, labels: Array) -> _Pair:
    """Return pictures, [N, H, W] or [N, H, W, C], and their labels."""
    numbers = _labels(f"{labels_name!r} in {shown(path)}", labels)
    pictures = _pictures(f"{name!r} in {shown(path)}", images)
    if len(pictures) != len(numbers):
        raise DataError(
            f"{name!r} and {labels_name!r} in {shown(path)} differ in length",
            got=f"{len(pictures)} images, {len(numbers)} labels",
        )
    return pictures, numbers


def _labels(what: str, labels: Array) -> list[int]:
    """Return labels [N], given as [N] or [N, 1]."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what} is not one label an image",
            got=f"shape {list(labels.shape)}",
            expected="[N] or [N, 1]",
            fix="Several labels an image cannot be distilled; one-hot ones: argmax(1).",
        )
    if labels.dtype.kind not in "iub":
        raise DataError(f"{what} is not of integers", got=labels.dtype, expected="int64")
    numbers: list[int] = labels.astype(np.int64).tolist()
    if numbers and min(numbers) < 0:
        raise DataError(
            f"{what} has a negative label", got=min(numbers), fix="Leave out what has no label."
        )
    return numbers


def _pictures(what: str, images: Array) -> Array:
    """Return pictures [N, H, W] or [N, H, W, C] where the order of the axes is plain."""
    shape = list(images.shape)
    last = images.ndim == 4 and shape[3] in _CHANNELS
    first = images.ndim == 4 and shape[1] in _CHANNELS
    if images.ndim not in (3, 4) or (images.ndim == 4 and not last and not first) or 0 in shape[1:]:
        raise DataError(
            f"{what} is not of pictures",
            got=f"shape {shape}",
            expected="[N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1, 3 or 4",
        )
    if last and first:
        raise DataError(
            f"{what} may have its channels first or last",
            got=f"shape {shape}",
            fix="Save grey pictures as [N, H, W].",
        )
    if first:
        images = images.transpose(0, 2, 3, 1)
    grey = images.ndim == 3 or images.shape[3] == 1
    if images.dtype != np.uint8 and not (grey and images.dtype.kind in "buf"):
        raise DataError(
            f"{what} is of a type that pictures are not of",
            got=images.dtype,
            expected="uint8" + (", uint16 or float32" if grey else " of colour pictures"),
            fix="Save it as uint8, 0 to 255.",
        )
    return _unit(what, images) if images.dtype.kind == "f" else images


def _unit(what: str, images: Array) -> Array:
    """Return floats as float32 if they are in [0, 1], as those of pictures must be."""
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    # NaN is on no side of anything
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"{what} is of floats that are not in [0, 1]",
            got=f"{low:.4g} to {high:.4g}",
            fix="Save it as uint8, 0 to 255.",
        )
    return images.astype(np.float32, copy=False)


def _names(path: str, arrays: Mapping[str, Array], numbers: Sequence[int]) -> list[str]:
    """Return names of the classes: of all labels, or of those that occur."""
    name = next((name for name in _CLASS_NAMES if name in arrays), None)
    if name is None:
        return [str(number) for number in numbers]
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise DataError(
            f"{name!r} in {shown(path)} is not a list of names",
            got=f"{array.dtype} {list(array.shape)}",
        )
    try:
        names = [v.decode() if isinstance(v, bytes) else str(v) for v in array.tolist()]
    except UnicodeDecodeError:
        raise DataError(f"{name!r} in {shown(path)} is not UTF-8") from None
    # numpy says so of characters that there are not
    except (SystemError, ValueError) as error:
        raise DataError(f"{name!r} in {shown(path)} is no text", got=error) from None
    if numbers and numbers[-1] >= len(names):
        raise DataError(
            f"{name!r} in {shown(path)} has too few names",
            got=f"{len(names)} names, label {numbers[-1]}",
        )
    return names


def _rows(file: FileEntry, pictures: Array) -> list[ArrayEntry]:
    return [ArrayEntry(file, pictures, row) for row in range(len(pictures))]
