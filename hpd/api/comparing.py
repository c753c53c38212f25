"""Comparing runs that were evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpd.api.identity import EvaluationData, check_evaluation, check_same_data
from hpd.api.runs import Run, folder_of, stored_config
from hpd.artifacts import RunFolder, check_free
from hpd.artifacts.evaluations import find_record
from hpd.artifacts.run_folder import CONFIG, EVALUATION
from hpd.boundary import public
from hpd.errors import RunError
from hpd.evaluation import Row, summary
from hpd.evaluation.frontier import frontier
from hpd.files import write_bytes, write_json


@public
def compare(
    runs: Sequence[Run | str | Path], *, out: str | Path | None = None, name: str | None = None
) -> summary.Comparison:
    """Compare runs that were evaluated; those that differ only by their seed are one group.

    Args:
        runs: with a folder each, or their folders.
        out: folder to write `comparison.md`, `.json`, `.csv` and `.png` to, and `frontier.png`,
            accuracy against bits; None writes nothing.
        name: of the evaluation of each that is meant; None: the newest.

    Returns:
        a line for each group, set and kind of student: mean, deviation over the seeds of the
        distillation and over students, standard error. Lines that were judged alike, by the same
        students in the same training on the same test images, have one number of a `table`; only
        those compare.

    Raises:
        RunError: if a folder holds no evaluated run, one was evaluated with other data than its
            own, runs of one group with different data, or `out` holds something.
    """
    if not runs:
        raise RunError("there are no runs to compare", fix="Give their folders.")
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_free(folder)
    # a folder that is given twice would count as another seed
    paths = dict.fromkeys(_folder(run).expanduser().resolve() for run in runs)
    results: list[summary.Result] = []
    groups: dict[str, dict[Path, EvaluationData]] = {}
    for path in paths:
        result, data = _read(path, name)
        results.append(result)
        if data is not None:
            groups.setdefault(result.group, {})[path] = data
    for evaluated in groups.values():
        check_same_data(evaluated)
    lines = summary.Comparison(summary.summarise(results))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "comparison.png", summary.picture(lines))
        write_bytes(folder / "frontier.png", frontier(lines))
        write_bytes(folder / "comparison.md", summary.markdown(lines).encode())
        write_json(folder / "comparison.json", summary.as_json(lines))
        write_bytes(folder / "comparison.csv", summary.as_csv(lines).encode())
    return lines


def _folder(run: Run | str | Path) -> Path:
    """Return the folder of a run."""
    return folder_of(run).path if isinstance(run, Run) else Path(run)


def _read(path: Path, name: str | None) -> tuple[summary.Result, EvaluationData | None]:
    """Return an evaluation, and its data: None where an earlier version made it."""
    folder = RunFolder(path)
    config = stored_config(folder)
    if not isinstance(config, Mapping) or not isinstance(config.get("seed", 0), int):
        raise RunError(f"cannot read {path / CONFIG}", expected="options, and a number as seed")
    again = f"Evaluate it: `hpd evaluate {path}`."
    records = folder.read_evaluations()
    if not records:
        raise RunError(f"the run in {path} has no evaluation", fix=again)
    record = records[-1] if name is None else find_record(records, name)
    try:
        rows = [Row.read(row) for row in record["rows"]]
        settings = record["settings"] if "settings" in record else config["evaluation"]
        record = {**record, "settings": settings}
        data = EvaluationData.read(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path / EVALUATION}", got=error, fix=again) from None
    if data is not None:
        check_evaluation(folder.read_manifest(), data, path)
    return summary.Result(path.name, config, record, rows), data
