"""Reports: a page to look at for every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpd.api.identity import check_data
from hpd.api.naming import Where, data_again, split_data
from hpd.api.runs import Run, folder_of, opened
from hpd.artifacts.report import write_report
from hpd.boundary import public
from hpd.data import ImageSet
from hpd.errors import ConfigError, DataError, RunError


@public
def report(
    run: Run | str | Path,
    data: ImageSet | str | Path | Mapping[str, Any] | None = "auto",
    *overrides: str,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run: one HTML file, with everything in it.

    It holds the images by class, each beside the nearest real training image of its class, curves,
    accuracies, cost, provenance and configuration, and loads nothing from anywhere.

    Args:
        run: a finished run with a folder, its folder, a packed file or ``"hub:org/name"``.
        data: the real training images, or their data set as for `load_dataset`, where the folder
            in which the data of the run are now needs none of their options; ``"auto"`` reads them
            from where they were, and goes without if they are gone or others now, which the report
            says; None goes without.
        overrides: ``"data.root=FOLDER"``, ...: options of the data.
        out: the file; None: `report.html` in the folder of the run, which a packed one has not.

    Returns:
        the file.

    Raises:
        RunError: if there is no finished run, or no folder of it.
        DataError: if the data that were given are missing, or are not those of the run.
    """
    run = opened(run)
    folder, target = folder_of(run), None if out is None else Path(out).expanduser()
    if run.origin is not None and target is None:
        fix = "Name a file for the report: --out report.html."
        raise RunError(f"{run.origin} is a run to read, not to write to", fix=fix)
    known = run.data_facts
    if data is None:
        return write_report(folder, out=target)
    if isinstance(data, ImageSet) or data != "auto" or overrides:
        real = data if isinstance(data, ImageSet) else _read(run, data, overrides)
        check_data(known, real, folder.path)
        return write_report(folder, real, out=target)
    try:
        real = run.config.data.build().train
        check_data(known, real)
    # a data set of the user's own may not be registered here
    except (DataError, ConfigError) as error:
        reason = error.problem if error.got is None else f"{error.problem}: {error.got}"
        return write_report(folder, note=reason, out=target)
    return write_report(folder, real, out=target)


def _read(run: Run, data: Where, overrides: Sequence[str]) -> ImageSet:
    """Return the training images of the run, where they are now."""
    of_data, others = split_data(overrides)
    if others:
        raise ConfigError("a report takes options of the data alone", got=", ".join(others))
    return data_again(run.config.data, None if data == "auto" else data, of_data).build().train
