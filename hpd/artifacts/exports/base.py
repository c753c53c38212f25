"""The registry of formats, and what all exports share."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.places import check_free, drafted
from hpd.artifacts.provenance import Provenance
from hpd.errors import ConfigError
from hpd.files import write_json
from hpd.registry import Registry, Settings

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


EXPORTS: Registry[ExportSettings] = Registry("format")


def export(
    distilled: DistilledSet | str | Path,
    format_name: str,
    folder: str | Path,
    *,
    provenance: Provenance | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a distilled set in a format of `EXPORTS`, whole or not at all.

    Args:
        distilled: the set, or the run folder or file that it is in.
        format_name: ``imagefolder``, ``npz``, ``safetensors``, ``huggingface``, ``webdataset`` or
            ``ddranking``.
        folder: a folder that does not exist yet, or is empty.
        provenance: where the set came from; None: what its run folder tells.
        options: options of the format by name, such as ``{"shard_images": 500}``.

    Returns:
        the folder.

    Raises:
        ConfigError: for an unknown format or option, or one whose library is missing.
        RunError: if the folder holds something, or there is no distilled set.
    """
    settings = EXPORTS[format_name].read(options or {})
    folder = Path(folder).expanduser()
    check_free(folder)
    if not isinstance(distilled, DistilledSet):
        provenance = provenance or Provenance.read(distilled)
        distilled = DistilledSet.load(distilled)
    with drafted(folder) as draft:
        draft.mkdir()
        settings.write(distilled, provenance or Provenance(), draft)
    return folder


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
        "stored_floats": distilled.stored_floats,
        "provenance": provenance.facts(),
    }
    write_json(folder / ABOUT, {**about, **more})


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
