"""Writes a run down, so that it goes on where it was after any end: snapshots to checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from hpd.artifacts import RunFolder
from hpd.artifacts.checkpoints import Checkpoint
from hpd.artifacts.shards import Kept, in_memory
from hpd.checks import check_finite
from hpd.device import Processes
from hpd.engine.observer import Measured, StageReport
from hpd.engine.snapshot import Best, Snapshot, margin_of
from hpd.interrupts import Interrupted, Interrupts
from hpd.typing import Score, Stage, Step

_SOURCE = "source."
_logger = logging.getLogger(__name__)


class RunKeeper:
    """Keeps a run in its folder: every so many steps, after each stage, and when it is to end.

    Args:
        folder: of the run.
        every: steps between checkpoints.
        interrupts: deferred while the run goes on; heard between two steps.
        facts: what the run rests on, as JSON, kept with each checkpoint.
        processes: that share the run: each writes what it has, to a folder that all of them see,
            and a signal that one of them hears ends all after the same step.
    """

    def __init__(
        self, folder: RunFolder, *, every: int, interrupts: Interrupts, facts: Mapping[str, Any],
        processes: Processes,
    ) -> None:  # fmt: skip
        self._folder, self._every = folder, every
        self._interrupts, self._facts = interrupts, facts
        self._processes = processes

    def after_step(self, steps: int, take: Callable[[], Snapshot]) -> None:
        """Write a checkpoint if one is due, or if the run is to end here.

        Raises:
            Interrupted: if it is to end.
            NumericError: if there is something in the source that is not finite.
            OSError: if the checkpoint cannot be written.
        """
        number = self._agreed()
        if steps % self._every == 0 or number:
            self._write(take())
        _end(number)

    def after_stage(self, take: Callable[[], Snapshot]) -> None:
        """Write the best state of the stage, and a checkpoint; see `after_step`."""
        snapshot = take()
        report = snapshot.reports[-1]
        about = {
            "stage": report.stage.name,
            "index": report.index,
            "best_step": report.best_step,
            "score": report.score,
        }
        self._write(snapshot, stage=about)
        _end(self._agreed())

    def _agreed(self) -> int:
        """Return the signal that ends all processes here; 0 for none.

        One that this process hears from now on waits until all have been asked again: if it acted
        on that alone, the others would wait for it for ever.
        """
        return self._processes.largest(self._interrupts.number)

    def _write(self, snapshot: Snapshot, stage: Mapping[str, Any] | None = None) -> None:
        """Write what this process has, and make a checkpoint of what all of them wrote.

        Args:
            snapshot: of this process.
            stage: what is known of the stage of whose best state it is; None: it is of none.
        """
        processes, checkpoints = self._processes, self._folder.checkpoints
        with processes.together():
            _check_source(snapshot)
            checkpoint = self._own(to_checkpoint(snapshot, {"facts": self._facts}))
            digest = checkpoints.write_part(checkpoint, processes.rank, processes.count)
        digests = processes.objects(digest)

        def finish() -> None:
            if stage is not None:
                state = checkpoints.whole(checkpoint, len(digests), _SOURCE)
                self._folder.write_stage(snapshot.stage, state, stage)
            about = {**checkpoint.about, "metrics": self._folder.metrics_mark()}
            checkpoints.write_index(replace(checkpoint, about=about), digests)

        processes.first(finish)

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return what this process writes: what all have alike is the first one's."""
        if self._processes.is_first:
            return checkpoint
        own = {k: v for k, v in checkpoint.tensors.items() if k in checkpoint.places}
        return replace(checkpoint, tensors=own)


def _check_source(snapshot: Snapshot) -> None:
    for name, tensor in in_memory(snapshot.source).items():
        where = f"{name} after step {snapshot.steps} of stage {snapshot.stage}"
        check_finite(tensor, where, "Lower the learning rate.")


def _end(number: int) -> None:
    """Raise a signal; 0 for none."""
    if number:
        raise Interrupted(number)


def last_checkpoint(
    folder: RunFolder, check_facts: Callable[[Mapping[str, Any]], None]
) -> str | None:
    """Return the checkpoint at which the run in a folder was left, and bring the folder there.

    Metrics of later steps are cut off, and files that were half written are deleted.

    Args:
        folder: of the run.
        check_facts: hears what the run rests on, before anything but broken checkpoints is changed.

    Returns:
        its name; None if there is none, and the run starts at its beginning.
    """
    checkpoint = folder.checkpoints.newest()
    if checkpoint is not None:
        check_facts(checkpoint.about["facts"])
    folder.tidy()
    folder.cut_metrics(None if checkpoint is None else checkpoint.about["metrics"])
    if checkpoint is None:
        _logger.warning("%s has no checkpoint: the run starts at its beginning", folder.path)
        return None
    folder.check_stages(len(checkpoint.about["reports"]))
    return checkpoint.name


def to_checkpoint(snapshot: Snapshot, about: Mapping[str, Any]) -> Checkpoint:
    """Return a snapshot as named tensors and JSON, with `about` added."""
    s, after = snapshot, snapshot.after_stage
    groups = {"source": s.source, "objective": s.objective, "optimizer": s.optimizer}
    if not after:
        groups["best"] = s.best.state
    tensors: dict[str, Kept] = {
        f"{group}.{k}": v for group, own in groups.items() for k, v in own.items()
    }
    tensors["initial_images"] = s.initial_images
    if s.reports:
        tensors["images"] = s.images
    if s.targets is not None:
        tensors["targets"] = s.targets
    return Checkpoint(
        Step(s.stage + 1, 0) if after else Step(s.stage, s.steps),
        tensors,
        {
            **about,
            "stage": s.stage,
            "steps": s.steps,
            "rates": s.rates,
            "best": {
                "score": s.best.score,
                "margin": margin_of(s.best.score),
                "step": s.best.step,
                "lowest": None if math.isinf(s.best.lowest) else s.best.lowest,
            },
            "reports": [asdict(report) for report in s.reports],
            "best_stage": s.best_stage,
            "measured": [asdict(measured) for measured in s.measured],
            "cost": {"parts": s.parts, "seconds": dict(s.seconds)},
        },
        {name: places for name, places in s.places.items() if name in tensors},
    )


def to_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """Return what `to_checkpoint` was given."""
    about, tensors = checkpoint.about, checkpoint.tensors
    told, cost = about["best"], about.get("cost", {})
    # checkpoints of earlier versions have neither margin nor lowest score, no cost, and of what
    # was measured the best alone
    score, lowest = told["score"], told.get("lowest", told["score"])
    best = Best(
        _below(tensors, "best"),
        None if score is None else Score(score, told.get("margin", 0.0)),
        told["step"],
        math.inf if lowest is None else lowest,
    )
    return Snapshot(
        stage=about["stage"],
        steps=about["steps"],
        source=_below(tensors, "source"),
        objective=_below(tensors, "objective"),
        optimizer=_below(tensors, "optimizer"),
        rates=tuple(about["rates"]),
        best=best,
        reports=tuple(_report(values) for values in about["reports"]),
        best_stage=about["best_stage"],
        images=tensors.get("images", tensors["initial_images"]),
        initial_images=tensors["initial_images"],
        targets=tensors.get("targets"),
        measured=_measured(about),
        seconds=cost.get("seconds", {}),
        parts=cost.get("parts", 1),
    )


def _report(values: Mapping[str, Any]) -> StageReport:
    stage = Stage(**values["stage"])
    return StageReport(**{**values, "stage": stage, "measured": _measured(values)})


def _measured(values: Mapping[str, Any]) -> tuple[Measured, ...]:
    return tuple(Measured(**own) for own in values.get("measured", ()))


def _below(tensors: Mapping[str, Kept], group: str) -> dict[str, Kept]:
    prefix = f"{group}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
