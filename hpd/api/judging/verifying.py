"""Whether a run that was handed on is whole, and whether its figures come out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generators import Generator
from hpd.api.identity import EvaluationData
from hpd.api.judging.evaluating import evaluate, stored_generator
from hpd.api.naming import data_again, split_data
from hpd.api.runs import Run, load_run
from hpd.artifacts import RunFolder
from hpd.artifacts.evaluations import find_record
from hpd.artifacts.packed.opening import folder_at
from hpd.artifacts.packed.packing import CHANGED, WHOLE, folder_states, opened_pack, pack_states
from hpd.artifacts.run_folder import MANIFEST
from hpd.boundary import public
from hpd.config import RunSettings
from hpd.data import Dataset
from hpd.disk.archives import is_archive
from hpd.disk.seals import digest_file
from hpd.errors import ConfigError, GeneratorError, RunError
from hpd.evaluation import Row
from hpd.evaluation.again import APART, MISSING, Figure, figures, surroundings
from hpd.own_code import reading


@dataclass(frozen=True)
class Verification:
    """What was found out about a run that was handed on.

    Args:
        name: the file, folder or name on the hub, as it was given.
        sha256: of the file; None for a folder.
        members: of each file in it, and each that should be: ``whole``, ``changed``, ``missing``
            or ``not in the list``.
        evaluation: name of the evaluation that was made again; None: none was.
        figures: its accuracies as they were stated and as they came out; empty where the data are
            others than they were, as nothing can come out then.
        differs: what was other than it was, by name: as stated, and here.
    """

    name: str
    sha256: str | None
    members: Mapping[str, str]
    evaluation: str | None = None
    figures: list[Figure] = field(default_factory=list)
    differs: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every file is as it was handed on."""
        return all(state == WHOLE for state in self.members.values())

    @property
    def reproduced(self) -> bool | None:
        """Whether the figures came out, equal or within what is allowed; None: nobody asked."""
        if self.evaluation is None:
            return None
        return bool(self.figures) and not any(f.verdict in (APART, MISSING) for f in self.figures)


@public
def verify(
    path: str | Path,
    *overrides: str,
    evaluate: bool = False,
    name: str | None = None,
    generator: Generator | str | Path | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Verification:
    """Say whether a run that was handed on is whole, and whether its figures come out again.

    Every file is held to its SHA-256 in `SHA256SUMS`, and the files of the run to their own in its
    manifest. The checksums guard against accidents; who wrote them is another question.

    Where the same versions run on the same machine the figures come out equal, to the last digit;
    elsewhere within two standard errors of the difference of the two means.

    Args:
        path: what `pack` wrote, a folder that it was unpacked to or that `pull` made, or
            ``"hub:org/name"``.
        overrides: ``"data.root=FOLDER"``: where the data are here; ``"teacher=FOLDER"``.
        evaluate: whether to make an evaluation of it again, by its own settings. Nothing is
            written.
        name: of the evaluation; None: the newest.
        generator: the one of the run, where it lies elsewhere here.
        report: hears (row name, students done, students in all) after each student.

    Raises:
        RunError: if it is nothing of the kind, or damaged so that its files cannot be told apart;
            if there is no evaluation to make again.
        DataError: if the data are not there.
        HubError: if the hub does not give it.
        ConfigError: for another override.
    """
    _check_overrides(overrides, evaluate)
    given, sha256 = Path(path).expanduser(), None
    if is_archive(given):
        with opened_pack(given) as archive:
            members, sha256 = pack_states(archive), digest_file(given)
    else:
        members = folder_states(folder_at(path))
    found = Verification(str(path), sha256, members)
    if sha256 is not None and MANIFEST not in members:
        raise RunError(f"{path} holds no run", got=f"no {MANIFEST}")
    # a generator that was pulled has none
    if found.whole and MANIFEST in members:
        found = replace(found, members=_held_to_manifest(RunFolder(folder_at(path)), members))
    if not evaluate or not found.whole:
        return found
    run = replace(load_run(path), origin=str(path))
    return _judged(found, run, overrides, name, generator, report)


def _check_overrides(overrides: tuple[str, ...], evaluate: bool) -> None:
    _, others = split_data(overrides)
    wrong = [text for text in others if text.partition("=")[0] != "teacher"]
    if wrong or (overrides and not evaluate):
        raise ConfigError(
            "an evaluation is made again by its own settings", got=", ".join(wrong or overrides),
            expected="data.root=FOLDER, teacher=FOLDER, and to evaluate",
        )  # fmt: skip


def _held_to_manifest(folder: RunFolder, members: Mapping[str, str]) -> dict[str, str]:
    """Return what is true of the files, now of those of the run also by their manifest."""
    known: Mapping[str, str] = folder.read_manifest().get("files") or {}
    wrong = [n for n in members if n in known and digest_file(folder.path / n) != known[n]]
    return {**members, **dict.fromkeys(wrong, CHANGED)}


def _judged(
    found: Verification,
    run: Run,
    overrides: tuple[str, ...],
    name: str | None,
    generator: Generator | str | Path | None,
    report: Callable[[str, int, int], None],
) -> Verification:
    """Return what is found when the run is evaluated as it was."""
    record, stated = _record(run, name)
    found = replace(found, evaluation=str(record["name"]))
    config = _as_it_was(run, record)
    of_data, _ = split_data(overrides)
    config = config.model_copy(update={"data": data_again(config.data, None, of_data)})
    dataset = config.data.build()
    differs = _other_data(record, dataset)
    if differs:
        return replace(found, differs=differs)
    run = replace(run, config=config)
    differs, fits = _other_generator(run, dataset, generator)
    again = evaluate(
        run, *[text for text in overrides if text not in of_data],
        generator=generator if fits else None, report=report,
    )  # fmt: skip
    made = again.as_json()
    return replace(
        found,
        figures=figures(stated, again.rows),
        differs={**differs, **surroundings(record, made)},
    )


def _record(run: Run, name: str | None) -> tuple[Mapping[str, Any], list[Row]]:
    """Return the evaluation to make again, and its rows."""
    assert isinstance(run.folder, Path)
    records = RunFolder(run.folder).read_evaluations()
    if not records:
        raise RunError(f"{run.origin} holds no evaluation", fix="Evaluate the run, and pack again.")
    record = records[-1] if name is None else find_record(records, name)
    if not isinstance(record.get("settings"), Mapping) or record.get("data") is None:
        raise RunError(f"the evaluation {record['name']!r} is of an earlier version of hpd")
    try:
        rows = [Row.read(row) for row in record["rows"]]
        EvaluationData.read(record)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read an evaluation of {run.origin}", got=error) from None
    return record, rows


def _as_it_was(run: Run, record: Mapping[str, Any]) -> RunSettings:
    """Return the configuration with the settings that an evaluation was made by."""
    values = run.config.model_dump(mode="json")
    kept = {"seed": record.get("seed", values["seed"]), "evaluation": record["settings"]}
    return RunSettings.read_kept({**values, **kept})


def _other_data(record: Mapping[str, Any], dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Return which data are others than those that an evaluation was made with."""
    stated, here = EvaluationData.read(record), EvaluationData.of(dataset)
    if stated is None:
        return {}
    pairs = {
        "training data": (stated.train_sha256, here.train_sha256),
        "test data": (stated.test_sha256, here.test_sha256),
        "classes": (", ".join(stated.classes), ", ".join(here.classes)),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _other_generator(
    run: Run, dataset: Dataset, generator: Generator | str | Path | None
) -> tuple[dict[str, tuple[str, str]], bool]:
    """Return whether the generator is another one than that of the run, and whether it fits."""
    assert isinstance(run.folder, Path)
    known = RunFolder(run.folder).read_manifest().get("generator")
    if not isinstance(known, Mapping) or not run.config.source.has_prior:
        return {}, True
    try:
        stored = None if generator is None else stored_generator(generator)
        with reading(run.config.model_dump(mode="json")):
            prior = run.config.source.prior(dataset.train, stored)
    except GeneratorError as error:
        return {"generator": (str(known.get("sha256")), error.problem)}, False
    here = "none" if prior is None else prior.stored.sha256
    if here == known.get("sha256"):
        return {}, True
    return {"generator": (str(known.get("sha256")), here)}, False
