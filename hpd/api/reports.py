"""Reports: a page to look at for every run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hpd.api.identity import check_data
from hpd.api.loading import load_dataset
from hpd.api.runs import Run, folder_of, opened
from hpd.artifacts.report import write_report
from hpd.data import DATASETS, ImageSet
from hpd.data.finding import at_place
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
            goes without if they are gone or others now, which the report says; None goes without.
        out: the file; None: `report.html` in the folder of the run.

    Returns:
        the file.

    Raises:
        RunError: if there is no finished run, or no folder of it.
        DataError: if the data that were given are missing, or are not those of the run.
    """
    run = opened(run)
    folder, target = folder_of(run), None if out is None else Path(out).expanduser()
    known = run.data_facts
    if data is None:
        return write_report(folder, out=target)
    if data != "auto":
        real = data if isinstance(data, ImageSet) else _read(run, data)
        check_data(known, real, folder.path)
        return write_report(folder, real, out=target)
    try:
        real = run.config.data.build().train
        check_data(known, real)
    except DataError as error:
        reason = error.problem if error.got is None else f"{error.problem}: {error.got}"
        return write_report(folder, note=reason, out=target)
    return write_report(folder, real, out=target)


def _read(run: Run, data: str | Path) -> ImageSet:
    """Return the training images of a data set by name, or of the place where the run's are."""
    settings = run.config.data
    if str(data) == DATASETS.kind_of(settings):
        # with the classes and options that the run has of it
        return settings.build().train
    moved = at_place(settings, data)
    return load_dataset(data).train if moved is None else moved.build().train
