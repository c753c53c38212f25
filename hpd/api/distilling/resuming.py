"""Going on with a run: what a folder holds of one, and whether it may go on there."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpd.api.judging.judges import with_labels
from hpd.api.runs import Run, load_run, stored_config
from hpd.artifacts import RunFolder, check_free
from hpd.artifacts.run_folder import CONFIG
from hpd.config import RunSettings, config_changes
from hpd.data import ImageSet
from hpd.data.whitening import recipe_of
from hpd.disk.files import write_bytes
from hpd.disk.locks import held
from hpd.disk.yaml_text import flatten
from hpd.engine.keeper import last_checkpoint, to_snapshot
from hpd.engine.snapshot import Snapshot
from hpd.errors import ConfigError, RunError
from hpd.machine.device import Processes
from hpd.own_code import changed_code
from hpd.typing import Objective, Source

GO_ON = "What was written is whole: mend that, and go on with --resume (resume=True)."
_OTHER_FOLDER = "Choose another folder with --out."
_SHOWN = 5
_PRECISION = re.compile(r"\w+_precision\b")
_logger = logging.getLogger(__name__)


def is_finished(folder: RunFolder, settings: RunSettings, *, resume: bool) -> bool:
    """Check that a run may be written to a folder, and return whether the one there is finished.

    Raises:
        RunError: if the folder holds something else, or a run that is not to be resumed, or one of
            another configuration.
    """
    if not folder.started:
        check_free(folder.path)
        return False
    if not resume:
        raise RunError(
            f"{folder.path} already holds a run",
            fix="Go on with it by --resume (resume=True), or choose another folder with --out.",
        )
    check_config(folder, settings)
    if not folder.finished:
        return False
    try:
        folder.check_whole()
    except RunError as error:
        if "newer version" in error.problem:
            raise
        _logger.warning("%s (%s): it is written again", error.problem, error.got)
        return False
    return True


def finished_run(folder: RunFolder, settings: RunSettings, *, resume: bool) -> Run | None:
    """Return the run in a folder if it is finished, and delete what a kill left of it.

    Raises:
        RunError: see `is_finished`.
    """
    if not is_finished(folder, settings, resume=resume):
        return None
    # what another process works on is not left over
    with suppress(RunError), held(folder.path, "tidy up"):
        folder.tidy()
        folder.checkpoints.keep(1)
        folder.checkpoints.tidy()
    run = load_run(folder.path)
    if settings.relabel is None or run.distilled.soft_labels is not None:
        return run
    # it was killed between its result and the labels of it
    with held(folder.path, "relabel"):
        return with_labels(run, settings, writes=True)


def open_run(
    folder: RunFolder, settings: RunSettings, facts: Mapping[str, Any], processes: Processes
) -> Snapshot | None:
    """Make the folder of a new run, or return where the one in it was left.

    What was written is looked through by the first process; each reads its part by itself.

    Args:
        folder: of the run.
        settings: of the run.
        facts: what it rests on; see `facts_of`.
        processes: that share the run, and call this at once.

    Raises:
        RunError: if the run there rests on something else, or the processes do not see one folder.
    """

    def opened() -> str | None:
        if not folder.started:
            RunFolder.create(folder.path, settings.to_yaml())
            return None
        name = last_checkpoint(folder, lambda before: check_facts(folder.path, before, facts))
        folder.reopen()
        folder.write_config(settings.to_yaml())
        return name

    name = processes.first(opened)
    check_seen(folder.path, processes)
    with processes.together():
        return None if name is None else to_snapshot(folder.checkpoints.read(name, checked=True))


def check_seen(folder: Path, processes: Processes) -> None:
    """Check that all processes see one folder, on however many machines they are.

    Raises:
        RunError: if one of them does not find there what the first one wrote.
    """
    if processes.count == 1:
        return
    # named as what a kill leaves, which is swept up
    token = processes.first(lambda: f".seen.{secrets.token_hex(4)}.part")
    processes.first(lambda: write_bytes(folder / token, b""))
    with processes.together():
        if not (folder / token).exists():
            raise RunError(
                "the processes of the run do not see the same folder",
                got=f"process {processes.rank} does not find in {folder} what the first one wrote",
                fix="Choose a folder with --out that all machines share.",
            )
    processes.first(lambda: (folder / token).unlink())


def check_config(folder: RunFolder, settings: RunSettings) -> None:
    """Check that the run in a folder was started with these settings, as far as they decide it.

    Raises:
        RunError: listing what differs, as ``key: old -> new``.
    """
    try:
        started = RunSettings.read(stored_config(folder))
    except ConfigError as error:
        path = folder.path / CONFIG
        raise RunError(f"cannot read {path}", got=error, fix=_OTHER_FOLDER) from None
    changes = config_changes(started, settings)
    if changes:
        raise RunError(
            f"the run in {folder.path} was started with another config",
            got=_some([f"{key}: {old} -> {new}" for key, (old, new) in changes.items()]),
            fix="Give the one that it was started with, or choose another folder with --out.",
        )
    if other := changed_code(started.own_code, settings.own_code):
        _logger.warning(
            "code of your own has changed since the run in %s was started: %s",
            folder.path, "; ".join(other),
        )  # fmt: skip


def facts_of(train: ImageSet, source: Source, objective: Objective) -> dict[str, Any]:
    """Return what a run rests on besides its settings, at its start."""
    return {
        "data": {
            "sha256": train.sha256,
            "classes": list(train.classes),
            "mean": list(train.normalisation.mean),
            "std": list(train.normalisation.std),
            **_zca(train),
        },
        **source.provenance,
        **objective.provenance,
    }


def _zca(train: ImageSet) -> dict[str, Any]:
    """Return how images are whitened, where they are."""
    recipe = recipe_of(train.normalisation)
    return {} if recipe is None else {"zca": recipe}


def check_facts(folder: Path, started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that data, generator and the like are those with which a run was started.

    Raises:
        RunError: naming what differs.
    """
    before, after = flatten(started), flatten(now)
    # a generator may have moved, as long as its weights are the same, and so may the run, to where
    # `auto` means another dtype
    keys = [k for k in {**before, **after} if not (k.endswith(".name") or _PRECISION.match(k))]
    pairs = {key: (before.get(key), after.get(key)) for key in keys}
    changed = [f"{key}: {old} -> {new}" for key, (old, new) in pairs.items() if old != new]
    if changed:
        raise RunError(
            f"what the run in {folder} rests on has changed since it was started",
            got=_some(changed),
            fix="Bring that back, or start anew in another folder with --out.",
        )


def _some(changes: Sequence[str]) -> str:
    more = len(changes) - _SHOWN
    return "; ".join(changes[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
