"""The pair of files that DD-Ranking takes.

Source: DD-Ranking 0.2.0 (Li et al., 2025). Its scores train on the image tensor as it is given and
test on real images that it normalised itself, with constants of its own. Its hard-label score
takes no labels: it counts on `ipc` images of every class, ordered by class.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import EXPORTS, ExportSettings, write_about
from hpd.artifacts.packed.provenance import Provenance
from hpd.data import Normalisation
from hpd.disk.files import write_bytes
from hpd.errors import ConfigError, ShapeError

_CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CONSTANTS = {"cifar10": _CIFAR, "cifar100": _CIFAR, "imagenet": _IMAGENET}


@EXPORTS.register("ddranking")
class DDRankingSettings(ExportSettings):
    """`images.pt`, float32 [N, C, H, W], normalised, and `labels.pt`, int64 [N]; both by class."""

    constants: Literal["auto", "own", "cifar10", "cifar100", "imagenet"] = Field(
        "auto",
        description="mean and std: those of DD-Ranking for this data (imagenet: TinyImageNet and "
        "the subsets of ImageNet as well), or the set's own; auto: by the kind of the data",
    )

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the pair; see `ExportSettings.write`.

        Raises:
            ConfigError: if classes differ in their number of images.
            ShapeError: if the constants are for other channels.
        """
        counts = distilled.labels.bincount(minlength=len(distilled.classes)).unique()
        if len(counts) > 1:
            raise ConfigError(
                "DD-Ranking takes as many images of every class",
                got=f"{int(counts[0])} to {int(counts[-1])}",
                fix="Choose another format, or distil with one number of images per class.",
            )
        name, constants = self._constants(distilled, provenance)
        if len(constants.mean) != distilled.images.shape[1]:
            raise ShapeError(
                f"the constants of {name} do not fit the images",
                got=f"{distilled.images.shape[1]} channels",
                expected=f"{len(constants.mean)}",
                fix="Export with constants=own.",
            )
        order = distilled.labels.argsort(stable=True)
        _save(folder / "images.pt", constants.apply(distilled.images[order]))
        _save(folder / "labels.pt", distilled.labels[order])
        write_about(
            folder, distilled, provenance,
            mean=constants.mean, std=constants.std, normalised=True, image_range=None,
            images_per_class=int(counts[0]), constants=name,
        )  # fmt: skip

    def _constants(
        self, distilled: DistilledSet, provenance: Provenance
    ) -> tuple[str, Normalisation]:
        name = self.constants
        if name == "auto":
            known = provenance.data if provenance.data in _CONSTANTS else "own"
            return str(known), _CONSTANTS.get(str(known), distilled.normalisation)
        return name, _CONSTANTS.get(name, distilled.normalisation)


def _save(path: Path, tensor: Any) -> None:
    """Write one tensor as `torch.load(weights_only=True)` reads it."""
    buffer = io.BytesIO()
    # a copy: torch.save writes the whole storage that a view looks into
    torch.save(tensor.contiguous().clone(), buffer)
    write_bytes(path, buffer.getvalue())
