"""Comparing runs that were evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hpd.api.identity import EvaluationData, check_evaluation, check_same_data
from hpd.api.runs import Run, folder_of, stored_config
from hpd.artifacts import RunFolder, check_free
from hpd.artifacts.evaluations import find_record
from hpd.artifacts.judging import judged_by, judging_key
from hpd.artifacts.packed.opening import Place, place_of
from hpd.artifacts.run_folder import CONFIG, EVALUATION
from hpd.audits import AuditFolder, is_audit
from hpd.boundary import public
from hpd.disk.files import write_bytes, write_json
from hpd.disk.seals import digest_json
from hpd.errors import ConfigError, RunError
from hpd.evaluation import Row, comparison, summary
from hpd.evaluation.drawn.comparison import picture as picture_of
from hpd.evaluation.drawn.frontier import frontier
from hpd.evaluation.drawn.plots import Format
from hpd.evaluation.leaderboard import leaderboard as page_of

_FORMATS = ("png", "svg")
# what reading an evaluation fails with that is none
_NONE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@public
def compare(
    runs: Sequence[Run | str | Path],
    *,
    out: str | Path | None = None,
    name: str | None = None,
    sort: summary.Order = "score",
    picture: str | Path | None = None,
    leaderboard: str | Path | None = None,
) -> comparison.Comparison:
    """Compare runs that were evaluated; those that differ only by their seed are one group.

    Args:
        runs: with a folder each, or their folders, packed files, names on the hub,
            ``"hub:org/name"``, or folders of `audit`. What is given twice, also as a folder and
            packed, counts once.
        out: folder to write `comparison.md`, `.json`, `.csv` and `.png` to, and `frontier.png`,
            accuracy against bits; None writes nothing.
        name: of the evaluation of each that is meant; None: the newest.
        sort: ``"score"``, the most accurate first, of equals the one of fewer bits; ``"bits"``, the
            other way round; ``"given"``, as they are given.
        picture: a file, PNG or SVG, for accuracy against bits alone.
        leaderboard: a file for a page in Markdown: the tables, and what it takes to verify each
            row.

    Returns:
        a line for each group, set and kind of student: mean, deviation over the seeds of the
        distillation and over students, standard error. Lines that were judged alike, by the same
        students in the same training on the same test images, have one number of a `table`; only
        those compare.

    Raises:
        RunError: if there is no evaluated run, one was evaluated with other data than its own, runs
            of one group with different data, a packed file is damaged, or there is something where
            a result is to be written.
        HubError: if the hub does not give a run.
        ConfigError: for a picture that is neither PNG nor SVG.
    """
    if not runs:
        raise RunError("there are no runs to compare", fix="Give their folders.")
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_free(folder)
    drawn, page = _new_file(picture, "picture"), _new_file(leaderboard, "leaderboard")
    kind = _format(drawn)
    lines = comparison.Comparison(
        summary.ordered(summary.summarise([one.result for one in _read_all(runs, name)]), sort)
    )
    if folder is not None:
        _write(folder, lines)
    if drawn is not None:
        write_bytes(drawn, frontier(lines, kind))
    if page is not None:
        write_bytes(page, page_of(lines).encode())
    return lines


def _new_file(given: str | Path | None, what: str) -> Path | None:
    """Return where a file is to be, at which nothing may be yet."""
    path = None if given is None else Path(given).expanduser()
    if path is not None and path.exists():
        raise RunError(f"the {what} {path} is already there", fix="Choose another file.")
    return path


def _format(path: Path | None) -> Format:
    """Return the format of a picture, by the end of its name."""
    ending = "png" if path is None else path.suffix.lower().removeprefix(".")
    if ending not in _FORMATS:
        raise ConfigError("the picture has no format", got=str(path), expected=".png or .svg")
    return cast(Format, ending)


def _write(folder: Path, lines: comparison.Comparison) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "comparison.png", picture_of(lines))
    write_bytes(folder / "frontier.png", frontier(lines))
    write_bytes(folder / "comparison.md", comparison.markdown(lines).encode())
    write_json(folder / "comparison.json", comparison.as_json(lines))
    write_bytes(folder / "comparison.csv", comparison.as_csv(lines).encode())


@dataclass(frozen=True)
class _Evaluated:
    """An evaluation.

    Args:
        result: what is compared.
        data: of it; None where an earlier version made it.
        identity: by which another copy of it is known.
    """

    result: summary.Result
    data: EvaluationData | None
    identity: str


def _read_all(runs: Sequence[Run | str | Path], name: str | None) -> list[_Evaluated]:
    """Return the evaluations of runs, each once.

    Raises:
        RunError: if those of a group are of different data.
    """
    found: dict[str, _Evaluated] = {}
    for run in runs:
        place = _place(run)
        one = _read_audit(place, name) if is_audit(place.folder) else _read(place, name)
        # a copy of it would count as another seed
        found.setdefault(one.identity, one)
    groups: dict[str, dict[Path, EvaluationData]] = {}
    for one in found.values():
        if one.data is not None:
            groups.setdefault(one.result.group, {})[Path(one.result.name)] = one.data
    for evaluated in groups.values():
        check_same_data(evaluated)
    return list(found.values())


def _place(run: Run | str | Path) -> Place:
    """Return where a run is."""
    given = (run.origin or folder_of(run).path) if isinstance(run, Run) else run
    place = place_of(given)
    if place.origin is not None:
        return place
    return Place(place.folder.expanduser().resolve())


def _read(place: Place, name: str | None) -> _Evaluated:
    """Return an evaluation."""
    folder, path = RunFolder(place.folder), place.shown
    config = stored_config(folder)
    if not isinstance(config, Mapping) or not isinstance(config.get("seed", 0), int):
        raise RunError(f"cannot read {CONFIG} of {path}", expected="options, and a number as seed")
    if place.origin is not None:
        folder.check_whole()
    again = f"Evaluate it: `hpd evaluate {path}`." if place.origin is None else ""
    records = folder.read_evaluations()
    if not records:
        raise RunError(f"the run in {path} has no evaluation", fix=again)
    record = records[-1] if name is None else find_record(records, name)
    try:
        rows = [Row.read(row) for row in record["rows"]]
        settings = record["settings"] if "settings" in record else config["evaluation"]
        record = {**record, "settings": settings}
        data = EvaluationData.read(record)
        _check_judged(record, rows)
    except _NONE as error:
        raise RunError(f"cannot read {EVALUATION} of {path}", got=error, fix=again) from None
    manifest = folder.read_manifest()
    if data is not None:
        check_evaluation(manifest, data, place.folder)
    result = summary.Result(place.name, config, record, rows, place.origin, place.sha256)
    return _Evaluated(result, data, _identity(place, manifest, record))


def _read_audit(place: Place, name: str | None) -> _Evaluated:
    """Return what a set of others was judged by."""
    result = AuditFolder(place.folder).result(name)
    try:
        data = EvaluationData.read(result.record)
        _check_judged(result.record, result.rows)
    except _NONE as error:
        raise RunError(f"cannot read {EVALUATION} of {place.shown}", got=error) from None
    identity = digest_json({"audit": result.config["audit"], "rows": result.record["rows"]})
    return _Evaluated(result, data, identity)


def _check_judged(record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Fail where the settings of an evaluation are none, before a table is made of them."""
    for row in rows:
        judged_by(record, row.network)
        judging_key(record, row.network)


def _identity(place: Place, manifest: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return what is the same of copies of a run with the same evaluation."""
    if "files" not in manifest:  # one of an earlier version
        return str(place.folder)
    return digest_json({"files": manifest["files"], "rows": record["rows"]})
