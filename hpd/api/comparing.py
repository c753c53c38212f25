"""Comparing runs that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpd.api.runs import stored_config
from hpd.artifacts import RunFolder, check_free
from hpd.artifacts.run_folder import EVALUATION
from hpd.errors import RunError
from hpd.evaluation import Row, summary
from hpd.files import write_bytes, write_json
from hpd.seals import read_sealed


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> list[summary.Line]:
    """Compare runs that were evaluated; those that differ only by their seed are one group.

    Args:
        runs: folders.
        out: folder to write `comparison.md`, `comparison.json` and `comparison.png` to; None
            writes nothing.

    Returns:
        a line for each group, set and kind of student: mean, deviation over the seeds of the
        distillation and over students, standard error.

    Raises:
        RunError: if a folder holds no evaluated run, or `out` holds something.
    """
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_free(folder)
    # a folder that is given twice would count as another seed
    paths = dict.fromkeys(Path(run).expanduser().resolve() for run in runs)
    lines = summary.summarise([_read(path) for path in paths])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "comparison.png", summary.picture(lines))
        write_bytes(folder / "comparison.md", summary.markdown(lines).encode())
        write_json(folder / "comparison.json", summary.as_json(lines))
    return lines


def _read(path: Path) -> summary.Result:
    folder = RunFolder(path)
    config = stored_config(folder)
    again = f"Evaluate it: `hpd evaluate {path}`."
    if not (path / EVALUATION).is_file():
        raise RunError(f"the run in {path} has no evaluation", fix=again)
    try:
        values = read_sealed(path / EVALUATION)
        rows = [Row(**row) for row in values["rows"]]
        protocol = values.get("settings", config["evaluation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path / EVALUATION}", got=error, fix=again) from None
    return summary.Result(path.name, config, protocol, rows)
