"""Writes a run down, so that it goes on where it was after any end: snapshots to checkpoints."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from hpd.artifacts import RunFolder
from hpd.artifacts.checkpoints import Checkpoint
from hpd.artifacts.shards import Kept, in_memory
from hpd.checks import check_finite
from hpd.engine.snapshot import CHECKPOINT, Best, Snapshot, margin_of
from hpd.engine.watching.observer import Measured, StageReport
from hpd.engine.writer import Writer
from hpd.errors import ProcessError
from hpd.machine.device import Processes
from hpd.machine.interrupts import Interrupted, Interrupts
from hpd.typing import Score, Stage, Step

_SOURCE = "source."
# in the place of a digest
_FAILED = "failed"
_MINUTE = 60
# between two looks for the parts of others, and for how long once the run has ended
_LOOK_SECONDS, _GRACE_SECONDS = 0.05, 10.0
_logger = logging.getLogger(__name__)


class RunKeeper:
    """Keeps a run in its folder: every so often, after each stage, and when it is to end.

    A snapshot is taken between two steps and written beside the steps that follow, by a thread. The
    next one waits until that is done, so what a kill costs are the steps since the last snapshot
    but one, at most.

    Args:
        folder: of the run.
        every: steps between checkpoints.
        minutes: between checkpoints, where so many steps take longer; None: steps alone count.
        interrupts: deferred while the run goes on; heard between two steps.
        facts: what the run rests on, as JSON, kept with each checkpoint.
        processes: that share the run: each writes what it has, to a folder that all of them see,
            and a signal that one of them hears ends all after the same step.
    """

    def __init__(
        self, folder: RunFolder, *, every: int, interrupts: Interrupts, facts: Mapping[str, Any],
        processes: Processes, minutes: float | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._every = folder, every
        self._seconds = math.inf if minutes is None else minutes * _MINUTE
        self._interrupts, self._facts = interrupts, facts
        self._processes = processes
        self._writer, self._left = Writer(), threading.Event()
        self._last = time.monotonic()

    def asks(self) -> int:
        """Return what this process wants of all: see `Keeper`.

        The first one's clock counts.

        Raises:
            OSError: if the last checkpoint could not be written.
        """
        self._writer.check()
        due = self._processes.is_first and time.monotonic() - self._last >= self._seconds
        return self._interrupts.number or (CHECKPOINT if due else 0)

    def after_step(self, steps: int, take: Callable[[], Snapshot], agreed: int) -> None:
        """Begin a checkpoint if one is due, and end the run if it is to end here, with that.

        A signal that this process hears after it was asked waits until it is asked again: if it
        acted on that alone, the others would wait for it for ever.

        Raises:
            Interrupted: if it is to end.
            NumericError: if there is something in the source that is not finite.
            OSError: if a checkpoint cannot be written.
        """
        if steps % self._every == 0 or agreed:
            self._begin(take)
        self._end(agreed)

    def after_stage(self, take: Callable[[], Snapshot]) -> None:
        """Begin to write the best state of the stage, and a checkpoint; see `after_step`."""
        self._begin(take)
        self._end(self._processes.largest(self._interrupts.number))

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: if it could not be.
        """
        with self._processes.together():
            self._writer.wait()

    def leave(self) -> None:
        """Wait until what this process has begun is written; others may not be there any more."""
        self._left.set()
        with suppress(Exception):
            self._writer.wait()

    def _end(self, agreed: int) -> None:
        """Raise the signal that was agreed on, when all is written."""
        if agreed > CHECKPOINT:
            self.finish()
            raise Interrupted(agreed)

    def _begin(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot, and begin to make a checkpoint of those of all processes."""
        with self._processes.together():
            self._writer.wait()
            snapshot = take()
            _check_source(snapshot)
            work = self._work(snapshot)
        self._writer.start(work)
        self._last = time.monotonic()

    def _work(self, snapshot: Snapshot) -> Callable[[], None]:
        """Return what writes what this process has of a checkpoint, and in the first all else."""
        processes, checkpoints = self._processes, self._folder.checkpoints
        about: dict[str, Any] = {"facts": self._facts}
        if processes.is_first:
            about["metrics"] = self._folder.metrics_mark()
        checkpoint, slot = self._own(to_checkpoint(snapshot, about)), processes.board.slot()

        def write() -> None:
            name, digest = f"{slot}/{processes.rank}", _FAILED
            try:
                digest = checkpoints.write_part(checkpoint, processes.rank, processes.count)
            finally:
                if processes.count > 1:
                    processes.board.put(name, digest)
            digests = self._digests(slot) if processes.is_first and processes.count > 1 else []
            if processes.count == 1:
                digests = [digest]
            if digests:
                self._write_stage(snapshot, checkpoint, len(digests))
                checkpoints.write_index(checkpoint, digests)

        return write

    def _digests(self, slot: str) -> list[str]:
        """Return the digests of all parts, when they are written; nothing if the run ended first.

        Raises:
            ProcessError: if another process could not write its own.
        """
        names = [f"{slot}/{rank}" for rank in range(self._processes.count)]
        ends = math.inf
        while True:
            found = [text for text in map(self._processes.board.get, names) if text is not None]
            if _FAILED in found:
                raise ProcessError("another process could not write its part of a checkpoint")
            if len(found) == len(names):
                return found
            if self._left.is_set():
                ends = min(ends, time.monotonic() + _GRACE_SECONDS)
            if time.monotonic() > ends:
                return []
            time.sleep(_LOOK_SECONDS)

    def _write_stage(self, snapshot: Snapshot, checkpoint: Checkpoint, count: int) -> None:
        """Write the best state of a stage, if a snapshot is of one that is finished."""
        if not snapshot.after_stage:
            return
        report = snapshot.reports[-1]
        about = {
            "stage": report.stage.name,
            "index": report.index,
            "best_step": report.best_step,
            "score": report.score,
        }
        state = self._folder.checkpoints.whole(checkpoint, count, _SOURCE)
        self._folder.write_stage(report.index, state, about)

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
