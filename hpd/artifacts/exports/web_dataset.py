"""Shards of WebDataset: tar files that are read from front to end."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import torch
from pydantic import Field

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import EXPORTS, ExportSettings, check_pictures, write_about
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.pictures import png_bytes, to_picture
from hpd.disk.files import write_bytes
from hpd.rng import Streams


@EXPORTS.register("webdataset")
class WebDatasetSettings(ExportSettings):
    """``distilled-<nnnnnn>.tar``: for each image a `.png`, its label as `.cls`, and a `.json`.

    The shards are plain tar files, so that writing them needs no library.
    """

    shard_images: int = Field(1000, ge=1, description="most images in a shard")
    shuffle_seed: int | None = Field(
        0, ge=0, description="seed of the order of the images; null: ordered by class"
    )

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the shards; see `ExportSettings.write`.

        Raises:
            ShapeError: if the images are neither grey nor colour.
        """
        check_pictures(distilled)
        order = torch.arange(len(distilled))
        if self.shuffle_seed is not None:
            # shards are read in order, and readers shuffle within a small buffer at the most
            rng = Streams(self.shuffle_seed).generator("webdataset")
            order = torch.randperm(len(distilled), generator=rng)
        shards = order.split(self.shard_images)
        for number, indices in enumerate(shards):
            content = _shard(distilled, indices.tolist())
            write_bytes(folder / f"distilled-{number:06d}.tar", content)
        write_about(folder, distilled, provenance, shards=len(shards))


def _shard(distilled: DistilledSet, indices: list[int]) -> bytes:
    """Return a tar file with the images of `indices`."""
    buffer, pixels = io.BytesIO(), distilled.uint8()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as shard:
        for i in indices:
            label = int(distilled.labels[i])
            about = {"label": label, "class_name": distilled.classes[label]}
            parts = {
                "cls": str(label).encode(),
                "json": json.dumps(about).encode(),
                "png": png_bytes(to_picture(pixels[i])),
            }
            for ending, content in parts.items():
                # owner and time of a fresh TarInfo are zero, so the bytes depend on the set alone
                entry = tarfile.TarInfo(f"{i:08d}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
