"""Reports: a page to look at for every run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hpd.api.loading import load_dataset
from hpd.api.runs import Run, folder_of, opened
from hpd.artifacts.report import write_report
from hpd.data import ImageSet
from hpd.errors import DataError


def report(
    run: Run | str | Path,
    data: ImageSet | str | Path | Literal["auto"] | None = "auto",
    *,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run: one HTML file, with everything in it.

    It holds the images by class, each beside the nearest real training image of its class, curves,
    accuracies, cost, provenance and configuration, and loads nothing from anywhere.

    Args:
        run: a finished run with a folder, or its folder.
        data: the real training images, or the name of their data set, or the folder where the
            data of the run's configuration are now; ``"auto"`` reads them from where they were, and
            goes without if they are gone or others now; None goes without.
        out: the file; None: `report.html` in the folder of the run.

    Returns:
        the file.

    Raises:
        RunError: if there is no finished run, or no folder of it.
        DataError: if the data that were given are missing, or are not those of the run.
    """
    run = opened(run)
    folder, target = folder_of(run), None if out is None else Path(out).expanduser()
    real, note = _real(run, data)
    try:
        return write_report(folder, real, note=note, out=target)
    except DataError as error:
        if data != "auto":
            raise
        # the data are others than they were
        return write_report(folder, note=error.problem, out=target)


def _real(run: Run, data: ImageSet | str | Path | None) -> tuple[ImageSet | None, str]:
    """Return the real training images, or why there are none."""
    if data is None or isinstance(data, ImageSet):
        return data, ""
    settings = run.config.data
    if data != "auto":
        if Path(data).expanduser().is_dir() and "root" in type(settings).model_fields:
            # the same data at another place
            settings = settings.model_copy(update={"root": str(data)})
            return settings.build().train, ""
        return load_dataset(data).train, ""
    try:
        return settings.build().train, ""
    except DataError as error:
        return None, error.problem
