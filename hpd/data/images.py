"""Labelled images: a view of rows of uint8, normalised batch by batch where they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpd.checks import check_labels, check_shape
from hpd.data.classes import chosen_classes
from hpd.data.normalisation import Normalisation, histogram
from hpd.errors import DataError, ShapeError
from hpd.showing import as_html, grid_html, names_text, never_fails, shape_text

_READ_BYTES = 1 << 24
_ALL = slice(None)
_CPU = torch.device("cpu")


def digest_images(
    shape: tuple[int, int, int],
    parts: Iterable[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
    labels: Tensor,
) -> str:
    """Return the SHA-256 of images and labels: of their shape, pixels and labels.

    Args:
        shape: (C, H, W) of an image.
        parts: all images, some at a time.
        labels: [N], int64.
    """
    digest = hashlib.sha256(repr((len(labels), *shape)).encode())
    for part in parts:
        digest.update(part.data)
    digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()


def unit_of(pixels: Tensor) -> Tensor:
    """Return bytes as numbers in [0, 1], of torch's default dtype, where they are."""
    return pixels.to(torch.get_default_dtype()).div_(255)


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: some rows of a store, or all of them.

    Images stay uint8 where they lie, in memory or in a file that is mapped into it; a part of a set
    is a list of rows. `unit`, `normalised` and `seen_on` make numbers of a batch where it is used.

    Args:
        rows: the store, uint8 [M, C, H, W], on the CPU.
        labels: of the images [N], int64, indices into `classes`.
        classes: name of each class.
        normalisation: mean and std of the training images.
        index: which row each image is [N], int64; None: image i is row i.
        known_sha256: `sha256`, where it is known already.
    """

    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    normalisation: Normalisation
    index: Tensor | None = None
    known_sha256: str | None = None

    def __post_init__(self) -> None:
        check_shape(self.rows, "M C H W", "images")
        if self.rows.dtype != torch.uint8:
            raise ShapeError("images of a set are bytes", got=self.rows.dtype, expected="uint8")
        count = len(self.rows) if self.index is None else len(self.index)
        check_shape(self.labels, "N", "labels", N=count)
        check_labels(self.labels, len(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = shape_text(self.image_shape)
        return f"ImageSet({len(self):,} images of {shape}, {names_text(self.classes)})"

    @never_fails
    def _repr_html_(self) -> str:
        return as_html(repr(self), self._picture())

    def _picture(self) -> str:
        return grid_html(
            lambda chosen: self.pixels(torch.tensor(chosen)), self.labels, self.classes
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        c, h, w = self.rows.shape[1:]
        return (c, h, w)

    @property
    def images(self) -> Tensor:
        """The images as bytes, uint8 [N, C, H, W]: a copy, unless the set is the whole store."""
        return self.rows if self.index is None else self.rows[self.index]

    @cached_property
    def by_class(self) -> tuple[Tensor, ...]:
        """Indices of the images of each class, ascending."""
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        return self.labels.argsort(stable=True).split(counts.tolist())

    def pixels(self, indices: Tensor | slice = _ALL) -> Tensor:
        """Return images as bytes, uint8 [n, C, H, W]."""
        rows = indices if self.index is None else self.index[indices]
        # several times as fast as rows[rows], which copies one byte after another
        return self.rows.index_select(0, rows) if isinstance(rows, Tensor) else self.rows[rows]

    def parts(self) -> Iterator[Tensor]:
        """Give all images in their order as bytes, uint8 [n, C, H, W], some at a time."""
        size = max(1, _READ_BYTES // max(self.rows[:1].numel(), 1))
        # one part of none, where there are none, as tensors give
        for start in range(0, max(len(self), 1), size):
            yield self.pixels(slice(start, start + size))

    def unit(self, indices: Tensor | slice = _ALL, device: torch.device | None = None) -> Tensor:
        """Return images in [0, 1], [n, C, H, W] of torch's default dtype, on the CPU or `device`.

        Bytes are moved, a fourth of what numbers would be.
        """
        pixels = self.pixels(indices)
        if device is not None:
            pixels = pixels.to(device)
        return unit_of(pixels)

    def normalised(
        self, indices: Tensor | slice = _ALL, device: torch.device | None = None
    ) -> Tensor:
        """Return normalised images, [n, C, H, W] of torch's default dtype; see `unit`."""
        return self.normalisation.apply_(self.unit(indices, device))

    def seen_on(self, device: torch.device = _CPU) -> SeenImages:
        """Return the images as a student on a device sees them, batch by batch."""
        return SeenImages(self, device)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        if self.known_sha256 is not None:
            return self.known_sha256
        parts = (part.contiguous().numpy() for part in self.parts())
        return digest_images(self.image_shape, parts, self.labels)

    def draw(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return `count` random indices of one class, without repetition.

        All of the class, shuffled, where it has fewer than `count`.
        """
        own = self.by_class[label]
        return own[torch.randperm(len(own), generator=rng)[:count]]

    def draw_per_class(self, count: int, rng: torch.Generator) -> Tensor:
        """Return `count` random indices of every class, ordered by class.

        Raises:
            DataError: if a class has fewer.
        """
        self.check_per_class(count)
        return self.draw_each(count, rng)

    def draw_each(self, count: int, rng: torch.Generator) -> Tensor:
        """Return up to `count` random indices of every class, ordered by class; see `draw`."""
        return torch.cat([self.draw(c, count, rng) for c in range(self.num_classes)])

    def check_per_class(self, count: int) -> None:
        """Check that every class has `count` images.

        Raises:
            DataError: if one has fewer.
        """
        short = [c for c, own in enumerate(self.by_class) if len(own) < count]
        if short:
            raise DataError(
                f"class {self.classes[short[0]]!r} has too few images",
                got=len(self.by_class[short[0]]),
                expected=f"at least {count}",
            )

    def at(self, indices: Tensor) -> ImageSet:
        """Return some of the images, in the order given; nothing is copied.

        Args:
            indices: [n], int64.
        """
        rows = indices if self.index is None else self.index[indices]
        return replace(self, labels=self.labels[indices], index=rows, known_sha256=None)

    def measured(self) -> ImageSet:
        """Return the same images with their own mean and deviation."""
        counts = torch.zeros(self.image_shape[0], 256, dtype=torch.int64)
        for part in self.parts():
            counts += histogram(part)
        return replace(self, normalisation=Normalisation.of_histogram(counts))

    def only(self, classes: Sequence[int]) -> ImageSet:
        """Return the images of some classes, relabelled in the order given; nothing is copied."""
        position = torch.full((self.num_classes,), -1)
        position[list(classes)] = torch.arange(len(classes))
        kept = self.at((position[self.labels] >= 0).nonzero().flatten())
        return replace(
            kept,
            labels=position[kept.labels],
            classes=tuple(self.classes[c] for c in classes),
        )

    def with_images(self, images: Tensor, labels: Tensor | None = None) -> ImageSet:
        """Return a set of other images of the same classes and normalisation.

        Args:
            images: uint8 [N, C, H, W].
            labels: [N]; None: those of this set.
        """
        own = self.labels if labels is None else labels
        return replace(self, rows=images, labels=own, index=None, known_sha256=None)


class SeenImages:
    """Images as a student sees them: bytes until a batch of them is used.

    Stands where a tensor of normalised images [N, C, H, W] does: an index of images, a slice or
    `split` gives normalised tensors on the device, of torch's default dtype.

    Args:
        images: the set.
        device: where batches are normalised.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self._images, self.device = images, device
        self.dtype = torch.get_default_dtype()

    def __repr__(self) -> str:
        return f"SeenImages({self._images!r}, {self.device})"

    def __len__(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self), *self._images.image_shape))

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        if isinstance(indices, Tensor):
            indices = indices.cpu()
        return self._images.normalised(indices, self.device)

    def at(self, indices: Tensor) -> SeenImages:
        """Return some of the images, in the order given; nothing is copied.

        Args:
            indices: [n], int64.
        """
        return SeenImages(self._images.at(indices.cpu()), self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Give all images in their order, at most `size` at a time."""
        # one part of none, where there are none, as tensors give
        for start in range(0, max(len(self), 1), size):
            yield self[start : start + size]

    def to(self, device: torch.device) -> SeenImages:
        """Return the same images, seen on another device."""
        return SeenImages(self._images, device)


Images = Tensor | SeenImages
"""Normalised images [N, C, H, W]: in memory, or made batch by batch."""


@dataclass(frozen=True)
class Dataset:
    """A training part, which distillation sees, and a test part, which only evaluation sees."""

    train: ImageSet
    test: ImageSet

    def __repr__(self) -> str:
        train = self.train
        counts = f"{len(train):,} to train and {len(self.test):,} to test"
        return f"Dataset({counts}, of {shape_text(train.image_shape)}, {names_text(train.classes)})"

    @never_fails
    def _repr_html_(self) -> str:
        return as_html(repr(self), self.train._picture())

    @classmethod
    def of(
        cls,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        classes: Sequence[str],
        subset: Sequence[str | int] | None = None,
    ) -> Dataset:
        """Make a data set from (images uint8 [N, C, H, W], labels [N]) of both parts.

        Args:
            train: images and labels of the training part.
            test: images and labels of the test part.
            classes: name of each class.
            subset: names or indices of the classes to keep, in the order wanted; None keeps all.

        Raises:
            DataError: for an unknown class, a class named twice, or one without images.
        """
        names = tuple(classes)
        unknown = Normalisation((0.0,), (1.0,))
        parts = [ImageSet(images, labels, names, unknown) for images, labels in (train, test)]
        if subset is not None:
            chosen = chosen_classes(subset, names)
            parts = [part.only(chosen) for part in parts]
        for part, name in zip(parts, ("training", "test"), strict=True):
            empty = [part.classes[c] for c, own in enumerate(part.by_class) if not len(own)]
            if empty:
                raise DataError(f"the {name} part has no image of class {empty[0]!r}")
        train_part = parts[0].measured()
        return cls(train_part, replace(parts[1], normalisation=train_part.normalisation))
