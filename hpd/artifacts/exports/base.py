"""The registry of formats, and what all exports share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.packed.provenance import Provenance
from hpd.data.whitening import recipe_of
from hpd.disk.files import write_json
from hpd.errors import ConfigError, ShapeError
from hpd.registry import Registry, Settings

_ZCA_NOTE = (
    "Made for students that see images whitened by ZCA of the training images, test images too; the"
    " images here are as they look."
)
ABOUT = "about.json"


class ExportSettings(Settings):
    """Options of a format."""

    def write(self, distilled: DistilledSet, provenance: Provenance, folder: Path) -> None:
        """Write a set; equal sets give equal bytes.

        Args:
            distilled: the set.
            provenance: where it came from.
            folder: an empty folder.
        """
        raise NotImplementedError


EXPORTS: Registry[ExportSettings] = Registry("format", ExportSettings)


def write_about(
    folder: Path, distilled: DistilledSet, provenance: Provenance, **more: object
) -> None:
    """Write `about.json`: classes, range, mean and std, and where the set came from.

    Args:
        folder: of the export.
        distilled: the set.
        provenance: where it came from.
        more: what else there is to say; it replaces what is said otherwise.
    """
    about = {
        "images": len(distilled),
        "image_shape": list(distilled.images.shape[1:]),
        "image_range": [0, 1],
        "classes": distilled.classes,
        "mean": distilled.normalisation.mean,
        "std": distilled.normalisation.std,
        **zca_of(distilled),
        "storage": distilled.storage.as_json(),
        "provenance": provenance.facts(),
    }
    write_json(folder / ABOUT, {**about, **more})


def zca_of(distilled: DistilledSet) -> dict[str, Any]:
    """Return how students are to see the images besides mean and std, where that is by ZCA."""
    recipe = recipe_of(distilled.normalisation)
    return {} if recipe is None else {"zca": {**recipe, "note": _ZCA_NOTE}}


def check_pictures(distilled: DistilledSet) -> None:
    """Check that images can be written as pictures.

    Raises:
        ShapeError: if they are neither grey nor colour.
    """
    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise ShapeError(
            "pictures are grey or in colour",
            got=f"{channels} channels",
            expected="1 or 3",
            fix="Export as npz or safetensors.",
        )


def require(module: str, format_name: str) -> Any:
    """Import the library of a format.

    Raises:
        ConfigError: if it is not installed, saying how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the format {format_name!r} needs {module}, which cannot be imported",
            got=error,
            fix="Install it with: pip install 'hpd[exports]'.",
        ) from None
