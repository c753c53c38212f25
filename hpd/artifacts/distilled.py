"""The distilled set: images, labels and all that a user needs to train on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import TensorDataset

from hpd.arrays import (
    as_count,
    as_images,
    as_labels,
    as_names,
    as_numbers,
    as_probabilities,
)
from hpd.artifacts.packed.opening import folder_at
from hpd.artifacts.places import going_on
from hpd.data import Normalisation
from hpd.data.whitening import Zca, ZcaKind, recipe_of
from hpd.disk.files import read_about, write_tensors
from hpd.disk.seals import digest_tensor, sealed, unsealed
from hpd.errors import DataError, HpdError, RunError, ShapeError
from hpd.showing import as_html, grid_html, names_text, never_fails, shape_text
from hpd.storage import Amount, Storage

FILE_NAME = "distilled.safetensors"
SOFT_LABELS = "soft_labels"
# images that are turned into bytes together
_AT_ONCE = 256
_OPTIMISED = "Those of a run may lie outside: DistilledSet(..., optimised=True)."


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic images with labels.

    What is given is checked, and converted where its meaning is plain; see `hpd.arrays`. Tensors of
    the right kind are kept as they are, other arrays are copied; all of it lies on the CPU.

    Args:
        images: [N, C, H, W], float32, in [0, 1] nominally: optimised values may lie outside. uint8
            is divided by 255; floats that are not near [0, 1] are refused.
        labels: [N], int64.
        classes: name of each class, all different.
        normalisation: mean and std of each channel with which students were trained; apply them as
            ``(x - mean) / std``, or take `normalised`.
        stored_floats: number of floats that the images count for in comparisons.
        soft_labels: a teacher's probabilities [N, K], float32; None: there are none. They count
            for `label_floats` more.
        stored_bits: that these floats take; None: 32 each.
        label_bits: that soft labels take; None: 32 a probability.
        generator_floats: of the pretrained generator without which the images cannot be had again
            from what is stored; 0 where they are stored themselves.
        optimised: whether the images are those of a run, which may lie anywhere; they are finite
            even so.

    Raises:
        ShapeError: for a wrong shape, dtype, range, name or number, or if they do not fit together.
        NumericError: for NaN or Inf.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    normalisation: Normalisation
    stored_floats: int
    soft_labels: Tensor | None = None
    stored_bits: int | None = None
    generator_floats: int = 0
    optimised: bool = False
    label_bits: int | None = None

    def __repr__(self) -> str:
        shape = shape_text(tuple(self.images.shape[1:]))
        soft = "" if self.soft_labels is None else ", soft labels"
        return (
            f"DistilledSet({len(self.images):,} images of {shape}, {names_text(self.classes)}, "
            f"{self.stored_floats:,} floats{soft})"
        )

    @never_fails
    def _repr_html_(self) -> str:
        return as_html(
            repr(self),
            grid_html(lambda chosen: as_bytes(self.images[chosen]), self.labels, self.classes),
        )

    def __post_init__(self) -> None:
        if not isinstance(self.optimised, bool):
            got = type(self.optimised).__name__
            raise ShapeError("optimised is not valid", got=got, expected="True or False")
        images = as_images(self.images, any_range=self.optimised, way_out=_OPTIMISED)
        classes = as_names(self.classes)
        count, num_classes = len(images), len(classes)
        checked: dict[str, Any] = {
            "images": images.contiguous(),
            "labels": as_labels(self.labels, count=count, num_classes=num_classes),
            "classes": classes,
            "normalisation": _checked_normalisation(self.normalisation, images.shape[1]),
        }
        if self.soft_labels is not None:
            checked[SOFT_LABELS] = as_probabilities(
                self.soft_labels, "soft_labels", count=count, num_classes=num_classes
            )
        for name in ("stored_floats", "stored_bits", "generator_floats", "label_bits"):
            value = getattr(self, name)
            if value is not None or name in ("stored_floats", "generator_floats"):
                checked[name] = as_count(value, name)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # frozen

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def by_class(self) -> tuple[Tensor, ...]:
        """Indices of the images of each class, ascending."""
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        return self.labels.argsort(stable=True).split(counts.tolist())

    @property
    def images_per_class(self) -> float:
        """Mean number of images in a class."""
        return len(self) / len(self.classes)

    @property
    def label_floats(self) -> int:
        """Number of floats in the soft labels."""
        return 0 if self.soft_labels is None else self.soft_labels.numel()

    @property
    def storage(self) -> Storage:
        """What must be kept: images or latents, labels, generator."""
        images = Amount.of(self.stored_floats)
        if self.stored_bits is not None:
            images = Amount(self.stored_floats, self.stored_bits)
        labels = Amount.of(self.label_floats)
        if self.label_bits is not None:
            labels = Amount(self.label_floats, self.label_bits)
        return Storage(images, labels, Amount.of(self.generator_floats))

    def only(self, indices: Tensor, stored_floats: int) -> DistilledSet:
        """Return some of the images, which count for `stored_floats`, at as many bits each.

        Raises:
            ShapeError: for what are no indices of images.
        """
        indices = as_labels(indices, "indices", num_classes=len(self))
        soft = None if self.soft_labels is None else self.soft_labels[indices]
        bits = self.stored_bits
        if bits is not None:
            bits = round(bits * stored_floats / max(self.stored_floats, 1))
        told = self.label_bits
        if told is not None:
            told = round(told * len(indices) / max(len(self), 1))
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            stored_floats=stored_floats,
            soft_labels=soft,
            stored_bits=bits,
            label_bits=told,
        )

    def seen_as(self, normalisation: Normalisation) -> DistilledSet:
        """Return a set that students see as they do given data, where its file says only how.

        Args:
            normalisation: of the data.

        Raises:
            DataError: if it was made for students that see images otherwise.
        """
        own, theirs = recipe_of(self.normalisation), recipe_of(normalisation)
        if own != theirs:
            got, expected = (
                "none" if recipe is None else recipe["kind"] for recipe in (own, theirs)
            )
            raise DataError(
                "the set was made for students that see images otherwise than those of the data",
                got=f"zca {got}", expected=expected, fix="Set data.zca as it was.",
            )  # fmt: skip
        return self if own is None else replace(self, normalisation=normalisation)

    def normalised(self) -> Tensor:
        """Return the images as students expect them [N, C, H, W]."""
        return self.normalisation.apply(self.images)

    def tensor_dataset(self) -> TensorDataset:
        """Return (normalised image, label) pairs, ready for a torch `DataLoader`."""
        return TensorDataset(self.normalised(), self.labels)

    def uint8(self) -> Tensor:
        """Return the images as stored in pictures: rounded and clipped to 0..255."""
        return as_bytes(self.images)

    def save(self, path: Path) -> str:
        """Write one safetensors file, and return its SHA-256; equal sets give equal bytes."""
        recipe = recipe_of(self.normalisation)
        return write_tensors(
            path,
            self._tensors(),
            sealed(
                {
                    "classes": self.classes,
                    "mean": self.normalisation.mean,
                    "std": self.normalisation.std,
                    **({} if recipe is None else {"zca": recipe}),
                    "stored_floats": self.stored_floats,
                    "storage": self.storage.as_json(),
                    "tensors": _digests(self._tensors()),
                }
            ),
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"images": self.images, "labels": self.labels}
        return tensors if self.soft_labels is None else {**tensors, SOFT_LABELS: self.soft_labels}

    @classmethod
    def load(cls, path: str | Path) -> DistilledSet:
        """Read a distilled set from its file, or from the run that holds it.

        Args:
            path: the file; or a run folder, a packed run or ``"hub:org/name"``.

        Raises:
            RunError: if it is not there or not whole.
            HubError: if the hub does not give it.
        """
        path = _file_at(path)
        try:
            with safe_open(path, framework="pt") as file:
                about = read_about(file.metadata())
                names = ["images", "labels", *({SOFT_LABELS} & set(file.keys()))]
                tensors = {name: file.get_tensor(name) for name in names}
                # sets of earlier versions have no checksums; one that is damaged has a part of them
                checked = not {"sha256", "tensors"}.isdisjoint(about)
                if checked and unsealed(about)["tensors"] != _digests(tensors):
                    raise ValueError("its numbers were changed after it was written")
                # sets of earlier versions tell of floats alone
                known = Storage.read(about["storage"]) if "storage" in about else None
                return cls(
                    images=tensors["images"],
                    labels=tensors["labels"],
                    classes=about["classes"],
                    normalisation=_normalisation(about),
                    stored_floats=about["stored_floats"],
                    soft_labels=tensors.get(SOFT_LABELS),
                    stored_bits=None if known is None else known.images.bits,
                    generator_floats=0 if known is None else known.generator.floats,
                    optimised=True,
                    label_bits=None if known is None else known.labels.bits,
                )
        except HpdError as error:
            raise RunError(f"cannot read {path}", got=error) from None
        except (
            SafetensorError,
            ArithmeticError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from None


def _file_at(path: str | Path) -> Path:
    """Return the file of a set, given as such or by the folder that it lies in."""
    try:
        found = folder_at(path)
        if found.is_dir():
            found /= FILE_NAME
        reason, there = None, found.is_file()
    # no path at all, no such user, a name that is too long, a folder that may not be looked into
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason, there = f"{type(error).__name__}: {error}", False
    if there:
        return found
    if reason is None and (found.parent / "config.yaml").is_file():
        whole = (found.parent / "manifest.json").is_file()
        raise RunError(
            f"no {found.name} at {found.parent}" if whole else f"the run in {path} is not finished",
            fix=f"Go on with it by {going_on(found.parent)}.",
        )
    raise RunError(
        f"no distilled set at {path}", got=reason,
        fix="Give a finished run, or an export as safetensors; `hpd audit` reads others.",
    )  # fmt: skip


def _digests(tensors: Mapping[str, Tensor]) -> list[str]:
    return [digest_tensor(tensor) for tensor in tensors.values()]


def _checked_normalisation(given: Normalisation, channels: int) -> Normalisation:
    """Return mean and deviation as numbers, one of each for a channel."""
    if not isinstance(given, Normalisation):
        raise ShapeError(
            "normalisation is not valid",
            got=type(given).__name__,
            expected="hpd.data.Normalisation(mean, std)",
        )
    mean, std = (
        as_numbers(values, f"the {name} of the normalisation", dtype=torch.float64)
        for values, name in ((given.mean, "mean"), (given.std, "std"))
    )
    if not mean.shape == std.shape == (channels,) or bool((std <= 0).any()):
        raise ShapeError(
            "the normalisation does not fit the images",
            got=f"mean {given.mean}, std {given.std}",
            expected=f"{channels} numbers each, one for a channel, std above 0",
        )
    means, deviations = tuple(mean.tolist()), tuple(std.tolist())
    if isinstance(given, Zca):
        return replace(given, mean=means, std=deviations)
    return Normalisation(means, deviations)


def _normalisation(about: Mapping[str, Any]) -> Normalisation:
    """Return what a file says of how students see its images."""
    zca = about.get("zca")
    if zca is None:
        return Normalisation(about["mean"], about["std"])
    if zca["kind"] not in get_args(ZcaKind):
        raise ValueError(f"unknown zca {zca['kind']!r}")
    return Zca(about["mean"], about["std"], kind=zca["kind"], sha256=str(zca["sha256"]))


def as_bytes(images: Tensor) -> Tensor:
    """Return images as pictures hold them, uint8: rounded and clipped to 0..255."""
    found = torch.empty(images.shape, dtype=torch.uint8)
    # some at a time, so that no copy as large as all of them comes between
    for part, own in zip(found.split(_AT_ONCE), images.split(_AT_ONCE), strict=True):
        part.copy_((own * 255).round_().clamp_(0, 255))
    return found
