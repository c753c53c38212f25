"""A folder of PNG files in a subfolder per class."""

from __future__ import annotations

import json
from pathlib import Path

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import (
    EXPORTS,
    ExportSettings,
    check_pictures,
    write_about,
    zca_of,
)
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.pictures import folder_names, write_image_folder
from hpd.disk.files import write_bytes


@EXPORTS.register("imagefolder")
class ImageFolderSettings(ExportSettings):
    """``<class>/<nnn>.png``, 8 bits a value, as torchvision's `ImageFolder` reads it.

    Beside the classes lie `metadata.jsonl`, a line per image, which the `imagefolder` loader of
    Hugging Face's `datasets` reads as well, and `about.json`.
    """

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write the folder; see `ExportSettings.write`.

        Raises:
            ShapeError: if the images are neither grey nor colour.
        """
        check_pictures(distilled)
        paths = write_image_folder(distilled, folder)
        lines = [
            json.dumps(
                {
                    "file_name": path.relative_to(folder).as_posix(),
                    "label": label,
                    "class_name": distilled.classes[label],
                    "mean": distilled.normalisation.mean,
                    "std": distilled.normalisation.std,
                    **zca_of(distilled),
                }
            )
            for path, label in zip(paths, distilled.labels.tolist(), strict=True)
        ]
        write_bytes(folder / "metadata.jsonl", ("\n".join(lines) + "\n").encode())
        folders = dict(zip(folder_names(distilled.classes), distilled.classes, strict=True))
        write_about(folder, distilled, provenance, folders=folders)
