"""Comparing runs that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpd.api.identity import EvaluationData, check_evaluation, check_same_data
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
        RunError: if a folder holds no evaluated run, one was evaluated with other data than its
            own, runs of one group with different data, or `out` holds something.
    """
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_free(folder)
    # a folder that is given twice would count as another seed
    paths = dict.fromkeys(Path(run).expanduser().resolve() for run in runs)
    results: list[summary.Result] = []
    groups: dict[str, dict[Path, EvaluationData]] = {}
    for path in paths:
        result, data = _read(path)
        results.append(result)
        if data is not None:
            groups.setdefault(result.group, {})[path] = data
    for evaluated in groups.values():
        check_same_data(evaluated)
    lines = summary.summarise(results)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "comparison.png", summary.picture(lines))
        write_bytes(folder / "comparison.md", summary.markdown(lines).encode())
        write_json(folder / "comparison.json", summary.as_json(lines))
    return lines


def _read(path: Path) -> tuple[summary.Result, EvaluationData | None]:
    """Return an evaluation, and its data: None where an earlier version made it."""
    folder = RunFolder(path)
    config = stored_config(folder)
    again = f"Evaluate it: `hpd evaluate {path}`."
    if not (path / EVALUATION).is_file():
        raise RunError(f"the run in {path} has no evaluation", fix=again)
    try:
        values = read_sealed(path / EVALUATION)
        rows = [Row.read(row) for row in values["rows"]]
        protocol = values.get("settings", config["evaluation"])
        data = EvaluationData.read(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path / EVALUATION}", got=error, fix=again) from None
    if data is not None:
        check_evaluation(folder.read_manifest(), data, path)
    return summary.Result(path.name, config, protocol, rows), data
