"""Labelled images in memory: uint8 as stored, normalised on the fly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hpd.checks import check_labels, check_shape
from hpd.errors import DataError, nearest


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of images in [0, 1].

    Students see ``(x - mean) / std``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1]."""
        return (images - self._channels(self.mean, images)) / self._channels(self.std, images)

    def undo(self, normalised: Tensor) -> Tensor:
        """Return normalised images [N, C, H, W] to [0, 1]."""
        return normalised * self._channels(self.std, normalised) + self._channels(
            self.mean, normalised
        )

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]

    @classmethod
    def of(cls, images: Tensor) -> Normalisation:
        """Measure uint8 images [N, C, H, W]; a constant channel gets std 1.

        Sums are exact in integers, so the order of the images changes nothing.
        """
        flat = images.transpose(0, 1).flatten(1)
        count = flat.shape[1]
        mean = flat.sum(dim=1, dtype=torch.int64).double() / count / 255
        # 2^63 / 255^2 values would be needed to overflow
        square = torch.stack([c.long().square().sum() for c in flat]).double() / count / 255**2
        std = (square - mean**2).clamp(min=0).sqrt()
        std = torch.where(std > 0, std, torch.ones_like(std))
        return cls(tuple(mean.tolist()), tuple(std.tolist()))


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, kept on the CPU.

    Args:
        images: [N, C, H, W], uint8.
        labels: [N], int64, indices into `classes`.
        classes: name of each class.
        normalisation: mean and std of the training images.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    normalisation: Normalisation

    def __post_init__(self) -> None:
        check_shape(self.images, "N C H W", "images")
        check_shape(self.labels, "N", "labels", N=len(self.images))
        check_labels(self.labels, len(self.classes))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        c, h, w = self.images.shape[1:]
        return (c, h, w)

    @cached_property
    def by_class(self) -> tuple[Tensor, ...]:
        """Indices of the images of each class."""
        return tuple((self.labels == c).nonzero().flatten() for c in range(self.num_classes))

    def unit(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return images in [0, 1], [n, C, H, W] of torch's default dtype."""
        return self.images[indices].to(torch.get_default_dtype()).div_(255)

    def normalised(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return normalised images, [n, C, H, W] of torch's default dtype."""
        return self.normalisation.apply(self.unit(indices))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for part in (self.images, self.labels):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

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
        short = [c for c, own in enumerate(self.by_class) if len(own) < count]
        if short:
            raise DataError(
                f"class {self.classes[short[0]]!r} has too few images",
                got=len(self.by_class[short[0]]),
                expected=f"at least {count}",
            )
        return torch.cat([self.draw(c, count, rng) for c in range(self.num_classes)])

    def only(self, classes: Sequence[int]) -> ImageSet:
        """Return the images of some classes, relabelled in the order given."""
        position = torch.full((self.num_classes,), -1)
        position[list(classes)] = torch.arange(len(classes))
        labels = position[self.labels]
        keep = labels >= 0
        return replace(
            self,
            images=self.images[keep],
            labels=labels[keep],
            classes=tuple(self.classes[c] for c in classes),
        )


@dataclass(frozen=True)
class Dataset:
    """A training part, which distillation sees, and a test part, which only evaluation sees."""

    train: ImageSet
    test: ImageSet

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
            chosen = [class_index(name, names) for name in subset]
            if len(set(chosen)) < max(len(chosen), 2):
                raise DataError("classes must be two or more different ones", got=list(subset))
            parts = [part.only(chosen) for part in parts]
        for part, name in zip(parts, ("training", "test"), strict=True):
            empty = [part.classes[c] for c, own in enumerate(part.by_class) if not len(own)]
            if empty:
                raise DataError(f"the {name} part has no image of class {empty[0]!r}")
        measured = Normalisation.of(parts[0].images)
        return cls(*(replace(part, normalisation=measured) for part in parts))


def class_index(name: str | int, classes: Sequence[str]) -> int:
    """Return the index of a class given by name or index.

    Raises:
        DataError: with the nearest known name.
    """
    if isinstance(name, str) and name in classes:
        return classes.index(name)
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    raise DataError(f"unknown class {name!r}", fix=nearest(str(name), classes))
