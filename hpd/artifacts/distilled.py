"""The distilled set: images, labels and all that a user needs to train on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import TensorDataset

from hpd.data import Normalisation
from hpd.errors import RunError
from hpd.files import read_about, write_tensors
from hpd.seals import digest_tensor, sealed, unsealed
from hpd.storage import Amount, Storage

FILE_NAME = "distilled.safetensors"
SOFT_LABELS = "soft_labels"


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic images with labels.

    Args:
        images: [N, C, H, W], float32, in [0, 1] nominally: optimised values may lie outside.
        labels: [N], int64.
        classes: name of each class.
        normalisation: mean and std with which students were trained; apply them as
            ``(x - mean) / std``, or take `normalised`.
        stored_floats: number of floats that the images count for in comparisons.
        soft_labels: a teacher's probabilities [N, K], float32; None: there are none. They count
            for `label_floats` more.
        stored_bits: that these floats take; None: 32 each.
        generator_floats: of the pretrained generator without which the images cannot be had again
            from what is stored; 0 where they are stored themselves.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    normalisation: Normalisation
    stored_floats: int
    soft_labels: Tensor | None = None
    stored_bits: int | None = None
    generator_floats: int = 0

    def __len__(self) -> int:
        return len(self.images)

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
        return Storage(images, Amount.of(self.label_floats), Amount.of(self.generator_floats))

    def only(self, indices: Tensor, stored_floats: int) -> DistilledSet:
        """Return some of the images, which count for `stored_floats`, at as many bits each."""
        soft = None if self.soft_labels is None else self.soft_labels[indices]
        bits = self.stored_bits
        if bits is not None:
            bits = round(bits * stored_floats / max(self.stored_floats, 1))
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            stored_floats=stored_floats,
            soft_labels=soft,
            stored_bits=bits,
        )

    def normalised(self) -> Tensor:
        """Return the images as students expect them [N, C, H, W]."""
        return self.normalisation.apply(self.images)

    def tensor_dataset(self) -> TensorDataset:
        """Return (normalised image, label) pairs, ready for a torch `DataLoader`."""
        return TensorDataset(self.normalised(), self.labels)

    def uint8(self) -> Tensor:
        """Return the images as stored in pictures: rounded and clipped to 0..255."""
        return (self.images * 255).round().clamp(0, 255).to(torch.uint8)

    def save(self, path: Path) -> str:
        """Write one safetensors file, and return its SHA-256; equal sets give equal bytes."""
        return write_tensors(
            path,
            self._tensors(),
            sealed(
                {
                    "classes": self.classes,
                    "mean": self.normalisation.mean,
                    "std": self.normalisation.std,
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
        """Read a distilled set from its file, or from the run folder that holds it.

        Raises:
            RunError: if it is not there or not whole.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            path = path / FILE_NAME
        if not path.is_file():
            raise RunError(f"no distilled set at {path}", fix="Give a finished run folder.")
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
                    classes=tuple(about["classes"]),
                    normalisation=Normalisation(tuple(about["mean"]), tuple(about["std"])),
                    stored_floats=about["stored_floats"],
                    soft_labels=tensors.get(SOFT_LABELS),
                    stored_bits=None if known is None else known.images.bits,
                    generator_floats=0 if known is None else known.generator.floats,
                )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from None


def _digests(tensors: Mapping[str, Tensor]) -> list[str]:
    return [digest_tensor(tensor) for tensor in tensors.values()]
