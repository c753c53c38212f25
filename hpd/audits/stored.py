"""A set as somebody stored it, before anything is known of what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hpd.arrays.tensors import FLOATS, check_finite_extremes
from hpd.audits.spaces import Space
from hpd.data.layouts.scanning import shown
from hpd.errors import DataError, ShapeError
from hpd.storage import PIXEL_BITS, Amount, Storage

Axes = Literal["channels first", "channels last"]
"""In which order the values of an image are stored."""


@dataclass(frozen=True)
class Wanted:
    """What a set is to be compared with, and what the user said of its files.

    Args:
        image_shape: (C, H, W) of the real images.
        classes: their names.
        index: which of several sets in a file; None: there is one.
        soft_labels: folder of the batches of soft labels; None: below that of the images, if any.
    """

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    index: int | None = None
    soft_labels: Path | None = None


@dataclass(frozen=True)
class LabelBatches:
    """Soft labels of views of images, epoch by epoch, in the order in which they were drawn.

    Args:
        answers: what the teacher said of each view [E, N, K], as it was stored.
        shares: share of the own image in each view [E, N]; below 1 where images were mixed.
        floats: numbers that are stored for all of them, crops and mixing included.
        bits: that these take.
    """

    answers: Tensor
    shares: Tensor
    floats: int
    bits: int


@dataclass(frozen=True)
class Stored:
    """What the files of a set hold.

    Args:
        layout: name of the layout.
        files: that were read.
        values: the images, any shape that begins with N; uint8 or floats, all finite.
        labels: classes, integers [N] or [N, 1], or numbers for every class [N, K].
        storage: what is kept.
        names: what the classes of the labels are called, in their order; None: they are indices.
        convention: names of what values mean in files of this layout, the likeliest first.
        said: what values mean, where a file says it.
        factor: parts along each side of an image; None: nothing says it.
        batches: soft labels in batches, if any.
        soft_labels: probabilities [N, K] beside classes in `labels`; None: there are none.
        notes: what a user should know of how the files were understood.
        facts: what else the files say: a learning rate, a loss.
    """

    layout: str
    files: tuple[Path, ...]
    values: Tensor
    labels: Tensor
    storage: Storage
    names: tuple[str, ...] | None = None
    convention: tuple[str, ...] = ()
    said: Space | None = None
    factor: int | None = None
    batches: LabelBatches | None = None
    soft_labels: Tensor | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim < 2 or not self.values.numel():
            raise ShapeError(f"the images of {self.where} are none", got=list(self.values.shape))
        if self.values.dtype != torch.uint8:
            check_finite_extremes(self.values, f"the images of {self.where}")
        if len(self.labels) != len(self.values):
            raise DataError(
                f"{self.where} has another number of labels than of images",
                got=f"{len(self.labels)} labels",
                expected=len(self.values),
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def where(self) -> str:
        """The files, for messages."""
        return shown(self.files[0])


def amount_of(values: Tensor) -> Amount:
    """Return what an array takes in a file.

    >>> amount_of(torch.zeros(2, 3, dtype=torch.float16))
    Amount(floats=6, bits=96)
    """
    return Amount.of(values.numel(), 8 * values.element_size())


def storage_of(values: Tensor, labels: Tensor) -> Storage:
    """Return what a set of two arrays keeps: classes cost nothing, numbers for each of them do."""
    told = labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] > 1
    return Storage(amount_of(values), amount_of(labels) if told else Amount())


def pictures_storage(values: Tensor) -> Storage:
    """Return what a set of pictures keeps: 8 bits a value, as real ones do."""
    return Storage(Amount.of(values.numel(), PIXEL_BITS))


def as_numbers(tensor: Tensor, name: str) -> Tensor:
    """Return the images of a file as bytes or as float32.

    Raises:
        ShapeError: for what is neither; integers of more than a byte have no plain range.
    """
    if tensor.dtype == torch.uint8:
        return tensor.detach()
    if tensor.dtype not in FLOATS:
        raise ShapeError(f"{name} are no images", got=tensor.dtype, expected="floats, or uint8")
    return tensor.detach().float()


def arranged(values: Tensor, shape: tuple[int, int, int], axes: Axes) -> Tensor:
    """Return images [N, C, H, W].

    Args:
        values: [N, C, H, W], [N, H, W, C], grey [N, H, W], or flat [N, C H W].
        shape: (C, H, W).
        axes: which of the orders it is, where the shape leaves that open; see `axes_of`.
    """
    channels, height, width = shape
    if axes == "channels first":
        return values.reshape(len(values), channels, height, width)
    return values.reshape(len(values), height, width, channels).permute(0, 3, 1, 2).contiguous()


def axes_of(values: Tensor, shape: tuple[int, int, int], where: str) -> tuple[Axes, ...]:
    """Return the orders of axes that values may be in: one, or both where images are flat.

    Raises:
        ShapeError: if they are not images of the shape.
    """
    channels, height, width = shape
    own = tuple(values.shape[1:])
    first, last = own == (channels, height, width), own == (height, width, channels)
    grey = channels == 1 and own == (height, width)
    if first or grey:
        return ("channels first",)
    if last:
        return ("channels last",)
    if own == (math.prod(shape),):
        return ("channels first",) if channels == 1 else ("channels first", "channels last")
    raise ShapeError(
        f"the images of {where} are not of the shape of the data",
        got=list(values.shape),
        expected=f"[N, {channels}, {height}, {width}]",
        fix="Set data.resolution or data.channels to those of the set.",
    )
