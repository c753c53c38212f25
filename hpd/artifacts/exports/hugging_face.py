"""A data set for Hugging Face's `datasets`: Parquet, and the card that describes it."""

from __future__ import annotations

import io
from pathlib import Path

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import EXPORTS, ExportSettings, check_pictures, require, write_about
from hpd.artifacts.exports.card import card
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.pictures import png_bytes, to_picture
from hpd.disk.files import write_bytes


@EXPORTS.register("huggingface")
class HuggingFaceSettings(ExportSettings):
    """`data/train-*.parquet` with image and label, and `README.md`, the card.

    ``datasets.load_dataset(folder)`` reads it, and the folder can be uploaded as it is.
    """

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the folder; see `ExportSettings.write`.

        Raises:
            ConfigError: if `datasets` is not installed.
            ShapeError: if the images are neither grey nor colour.
        """
        datasets = require("datasets", "huggingface")
        arrow, parquet = (require(f"pyarrow{part}", "huggingface") for part in ("", ".parquet"))
        names = list(distilled.classes)
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        )
        check_pictures(distilled)
        pictures = [
            {"bytes": png_bytes(to_picture(image)), "path": None} for image in distilled.uint8()
        ]
        columns = {"image": pictures, "label": distilled.labels.tolist()}
        # by way of Arrow: datasets' own writer draws a progress bar, and caches
        buffer = io.BytesIO()
        parquet.write_table(arrow.table(columns, schema=features.arrow_schema), buffer)
        (folder / "data").mkdir()
        write_bytes(folder / "data" / "train-00000-of-00001.parquet", buffer.getvalue())
        write_bytes(folder / "README.md", card(distilled, provenance).encode())
        write_about(folder, distilled, provenance)
