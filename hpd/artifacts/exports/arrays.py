"""Whole arrays in one file, every float as it is: NumPy's npz, and safetensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from hpd.artifacts.distilled import FILE_NAME, DistilledSet
from hpd.artifacts.exports.base import EXPORTS, ExportSettings, write_about
from hpd.artifacts.packed.provenance import Provenance
from hpd.disk.files import write_bytes


@EXPORTS.register("npz")
class NpzSettings(ExportSettings):
    """`distilled.npz`: images float32 [N, C, H, W] in [0, 1], labels, classes, mean and std.

    Soft labels [N, K], float32, are there if the set has them.
    """

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the file; see `ExportSettings.write`."""
        arrays: dict[str, Any] = {
            "images": distilled.images.numpy(),
            "labels": distilled.labels.numpy(),
            "classes": np.array(distilled.classes),
            "mean": np.array(distilled.normalisation.mean, dtype=np.float32),
            "std": np.array(distilled.normalisation.std, dtype=np.float32),
        }
        if distilled.soft_labels is not None:
            arrays["soft_labels"] = distilled.soft_labels.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(folder / "distilled.npz", buffer.getvalue())
        write_about(folder, distilled, provenance)


@EXPORTS.register("safetensors")
class SafetensorsSettings(ExportSettings):
    """`distilled.safetensors`, which `hpd.load_distilled` reads."""

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the file; see `ExportSettings.write`."""
        distilled.save(folder / FILE_NAME)
        write_about(folder, distilled, provenance)
