"""Exporting a run's distilled set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpd.api.runs import Run
from hpd.artifacts import EXPORTS, DistilledSet, Provenance, check_free
from hpd.artifacts.places import drafted
from hpd.boundary import public


@public
def export(
    run: Run | DistilledSet | str | Path,
    format_name: str,
    folder: str | Path,
    *,
    provenance: Provenance | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a distilled set in a format of `hpd.artifacts.EXPORTS`, whole or not at all.

    Args:
        run: a run, its folder, or a set or its file.
        format_name: ``imagefolder``, ``npz``, ``safetensors``, ``huggingface``, ``webdataset`` or
            ``ddranking``.
        folder: a folder that does not exist yet, or is empty.
        provenance: where the set came from; None: what the run's folder tells, if there is one.
        options: options of the format by name, such as ``{"shard_images": 500}``.

    Returns:
        the folder.

    Raises:
        ConfigError: for an unknown format or option, or one whose library is missing.
        ShapeError: if the set was changed to something that is none since it was made, or the
            format is one of pictures and it has no grey or colour ones.
        NumericError: if NaN or Inf came into it.
        RunError: if the folder holds something, or there is no distilled set.
    """
    settings = EXPORTS[format_name].read(options or {})
    folder = Path(folder).expanduser()
    check_free(folder)
    if isinstance(run, Run):
        run = run.distilled if run.folder is None else run.folder
    if not isinstance(run, DistilledSet):
        provenance = provenance or Provenance.read(run)
        run = DistilledSet.load(run)
    # its tensors may have been written to since
    run = replace(run)
    with drafted(folder) as draft:
        draft.mkdir()
        settings.write(run, provenance or Provenance(), draft)
    return folder
