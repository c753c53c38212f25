"""Distilling: from a configuration to a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from generators import Generator, StoredGenerator
from hpd.api.accounts import account_of
from hpd.api.fitting import out_of_memory
from hpd.api.judges import check_judges, with_labels
from hpd.api.manifests import Origins, manifest_of
from hpd.api.resuming import GO_ON, facts_of, finished_run, is_finished, open_run
from hpd.api.runs import Run
from hpd.artifacts import RunFolder
from hpd.artifacts.costs import LINES, as_cost, seconds_of
from hpd.artifacts.places import check_can_be_made, writing_to
from hpd.boundary import public
from hpd.config import RunSettings, resolve_config
from hpd.device import Processes, open_device
from hpd.engine import Observer, Outcome, StageReport, StepReport, optimise
from hpd.engine.cost import Cost
from hpd.engine.estimate import Estimate, Estimator, Work
from hpd.engine.forecast import Forecast
from hpd.engine.keeper import RunKeeper
from hpd.engine.observer import Listeners
from hpd.engine.parts import check_count
from hpd.engine.recorder import Recorder
from hpd.engine.rendered import SomeClasses
from hpd.engine.snapshot import Snapshot
from hpd.engine.tracking import Tracking
from hpd.errors import ConfigError
from hpd.interrupts import Interrupts
from hpd.locks import held
from hpd.memory import is_out_of_memory, peak_bytes
from hpd.objectives import OBJECTIVES
from hpd.objectives.checked import matches_targets
from hpd.own_code import own_code_of
from hpd.rng import Streams
from hpd.typing import (
    LearnsLabels,
    Objective,
    Selector,
    Source,
    Stage,
    StoresBits,
)

_logger = logging.getLogger(__name__)

SetupHook = Callable[[Sequence[Stage], int], None]
EstimateHook = Callable[[Estimate], None]


@public
def distill(
    config: str | Path | Mapping[str, Any] | RunSettings,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    generator: Generator | str | Path | None = None,
    processes: Processes | None = None,
    observers: Sequence[Observer] = (),
    on_setup: SetupHook = lambda stages, done: None,
    on_estimate: EstimateHook = lambda estimate: None,
    holder: ExitStack | None = None,
) -> Run:
    """Distil a data set.

    With `out`, Ctrl-C and SIGTERM end the run after the step that is being taken, and after a
    checkpoint; both then go on as `KeyboardInterrupt`.

    Several processes that a launcher started call this at once and share out the classes. The
    first of them writes, scores and tells observers and hooks; all return the same.

    Args:
        config: name of a bundled configuration, path of a YAML file, folder of a run, a mapping, or
            settings.
        overrides: ``"key.sub=value"`` each.
        out: folder to write the run to; None writes nothing.
        resume: go on with the run in `out` from its last checkpoint; on a CPU the result is the
            same as without the interruption, to the bit. A finished run is returned as it is, and
            where there is none, one is started.
        seed: replaces the configuration's.
        generator: replaces the one that the source names: by name or folder, or one of your own in
            memory.
        processes: that share the work, ``Processes()`` for this one; None: all that were started.
        observers: hear of every step and stage.
        on_setup: hears the stages, and how many steps are taken already, before the first step.
        on_estimate: hears what the run will take, once a step was measured.
        holder: holds the folder until it is closed, where something follows that no other process
            is to begin in the meantime; None: the folder is free when this returns.

    Raises:
        HpdError: for what is wrong with configuration, data, generator or folder, before anything
            is written; `NumericError` if the optimisation diverges, `OutOfMemoryError` with
            settings that would fit, `RunError` if the folder cannot be written to any more,
            `ProcessError` if another process failed or ended.
    """
    settings = resolve_config(config, overrides, seed)
    if isinstance(generator, str | Path):
        settings = settings.model_copy(update={"source": settings.source.on(str(generator))})
        generator = None
    settings = settings.model_copy(update={"own_code": own_code_of(settings)})
    processes = processes or Processes.started(cpu=settings.device == "cpu")
    folder = None if out is None else RunFolder(out)
    settings.tracking.check(None if folder is None else folder.path)
    if folder is not None:
        there = processes.first(lambda: finished_run(folder, settings, resume=resume))
        if there is not None:
            return there
    if processes.count > 1:
        # before data are read, which may take long
        check_count(processes, processes.first(settings.data.count_classes))
    with processes.together():
        job = _Job(settings, generator, observers, on_setup, on_estimate, processes)
    try:
        return job.run(folder, holder)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
    # with the others of several processes gone, no steps can be tried
    stage = job.stage if processes.count == 1 else None
    # out of the handler, so that nothing of the step that failed is held any more
    raise out_of_memory(settings, job.parts, stage, reason)


def check_run(settings: RunSettings, out: str | Path | None, *, resume: bool = False) -> str:
    """Check all of a run that needs no training, and write nothing.

    Data are read, the source and the objective are built, with the generator, the experts and the
    teacher that they name, and the folder is looked at. Steps, projections and the training of a
    selector's networks are left out.

    Args:
        settings: of the run.
        out: its folder; None: none.
        resume: whether it may go on there.

    Returns:
        what was found, in one line.

    Raises:
        HpdError: what `distill` would raise before its first step.
    """
    folder = None if out is None else RunFolder(out)
    settings.tracking.check(None if folder is None else folder.path)
    if folder is not None and is_finished(folder, settings, resume=resume):
        return f"the run in {folder.path} is finished"
    if folder is not None:
        check_can_be_made(folder.path)
    job = _checking(settings)
    source, _ = job.parts(job.settings)
    steps = sum(stage.steps for stage in source.stages)
    shape = " x ".join(map(str, job.images.image_shape))
    return (
        f"{len(job.images):,} training images of {shape} in {job.images.num_classes} classes; "
        f"{len(source.labels):,} synthetic images, {account_of(source)}; "
        f"{len(source.stages)} stages of {steps:,} steps in all"
    )


def checked_source(settings: RunSettings) -> Source:
    """Return the source of a run before its first step, less what takes long.

    Raises:
        HpdError: what `distill` would raise by then.
    """
    job = _checking(settings)
    return job.parts(job.settings)[0]


def _checking(settings: RunSettings) -> _Job:
    """Return a job that is not to be done, of a source that projects nothing."""
    settings = settings.model_copy(update={"source": settings.source.unprojected()})
    return _Job(settings, None, (), lambda stages, done: None, lambda estimate: None, Processes())


class _Job:
    """A distillation under way."""

    def __init__(
        self, settings: RunSettings, generator: Generator | None, observers: Sequence[Observer],
        on_setup: SetupHook, on_estimate: EstimateHook, processes: Processes,
    ) -> None:  # fmt: skip
        self.settings, self.generator, self.processes = settings, generator, processes
        self.observers, self.on_setup, self.on_estimate = observers, on_setup, on_estimate
        self.device, self.streams = (
            open_device(settings.device, settings.float32),
            Streams(settings.seed),
        )
        self.cost, self.started = Cost(self.device), time.perf_counter()
        self.stage: int | None = None
        with self.cost.line("data"):
            self.images = settings.data.build().train
        check_judges(settings, self.images)
        self.train, self.held = settings.selection.split(self.images)
        check_count(processes, self.train.num_classes)

    def parts(self, settings: RunSettings) -> tuple[Source, Objective]:
        """Return source and objective."""
        streams = self.streams
        with self.cost.line("start"):
            own = self.generator
            stored = None if own is None else StoredGenerator.of(own)
            source = settings.source.build_whole(
                self.train, self.device, streams.fork("source"), stored
            )
        with self.cost.line("objective"):
            objective = settings.objective.build_whole(
                self.train, self.device, streams.fork("objective")
            )
        if isinstance(source, LearnsLabels) and not matches_targets(objective):
            raise ConfigError(
                "the objective has no gradient to labels, so they cannot be learnt",
                got=OBJECTIVES.kind_of(settings.objective),
                expected="regression, trajectory or gradient",
                fix="Leave out source.learnt_labels.",
            )
        return source, objective

    def run(self, folder: RunFolder | None, holder: ExitStack | None) -> Run:
        """Distil, and write what comes of it if there is a folder."""
        processes = self.processes
        with processes.together():
            source, objective = self.parts(self.settings)
        self.origins = Origins.of(source)
        if folder is None:
            selector = self._selector(objective)
            outcome = self._optimise(source, objective, selector, None, None, None)
            run = self._finish(source, objective, outcome, None)
            return with_labels(run, self.settings, writes=False)
        with ExitStack() as stack:
            hold = held(folder.path, "distil into", lends=holder is not None)
            processes.first(lambda: (holder or stack).enter_context(hold))
            stack.enter_context(writing_to(folder.path, GO_ON))
            # the launcher of several passes on what the terminal tells each of them, too
            interrupts = stack.enter_context(Interrupts(repeated=processes.count > 1))
            facts = facts_of(self.images, source, objective)
            since = open_run(folder, self.settings, facts, processes)
            if since is not None:
                self.cost.go_on(since.seconds, since.parts)
            selector = self._selector(objective)
            keeper = RunKeeper(
                folder, every=self.settings.checkpoint_every, interrupts=interrupts, facts=facts,
                processes=processes, minutes=self.settings.checkpoint_minutes,
            )  # fmt: skip
            with interrupts.deferred():
                outcome = self._optimise(source, objective, selector, keeper, since, folder)
                run = self._finish(source, objective, outcome, folder)
                with processes.together():
                    return with_labels(run, self.settings, writes=processes.is_first)

    def _selector(self, objective: Objective) -> Selector:
        """Return the selector; in other processes than the first one that is never asked."""
        streams = self.streams.fork("selection")
        with self.processes.together():
            if not self.processes.is_first:
                return lambda images, labels: None
            with self.cost.line("selector"):
                return self.settings.selection.build(self.held, self.device, streams, objective)

    def _optimise(
        self, source: Source, objective: Objective, selector: Selector, keeper: RunKeeper | None,
        since: Snapshot | None, folder: RunFolder | None,
    ) -> Outcome:  # fmt: skip
        every, curve_every = self.settings.selection.every, self.settings.curve_every
        work = Work.left(source.stages, every, since, curve_every)
        self.stage = 0 if since is None else len(since.reports)
        wanted, streams = self.settings.classes_per_step, self.streams.fork("steps")
        some = SomeClasses(wanted, source.labels.unique().cpu(), streams)
        chosen = None if self.settings.objective.takes_all(wanted) else some
        with ExitStack() as stack:
            with self.processes.together():
                ahead = Forecast(source, chosen, work.stages, folder is not None)
                listeners = self._listeners(ahead, work, folder, stack)
            return optimise(
                source,
                objective,
                selector,
                self.settings.optimizer,
                Listeners([*listeners, self]),
                select_every=every,
                curve_every=curve_every,
                keeper=keeper,
                since=since,
                processes=self.processes,
                cost=self.cost,
                some_classes=chosen,
            )

    def _listeners(
        self, ahead: Forecast, work: Work, folder: RunFolder | None, stack: ExitStack
    ) -> Sequence[Observer]:
        """Return who hears of the run besides this job: in the first process only."""
        if not self.processes.is_first:
            return []
        floats, stages = ahead.source.stored_floats, ahead.source.stages
        done = sum(stage.steps for stage in stages) - work.steps
        self.on_setup(stages, done)
        # of this part of the run: what those before it took is over
        prepared = time.perf_counter() - self.started
        estimator = Estimator(floats, work, self.device, self.on_estimate, prepared, ahead)
        if folder is None:
            return [*self.observers, estimator]
        config = self.settings.model_dump(mode="json")
        tracking = Tracking(self.settings.tracking, folder.path, config, stages, done)
        stack.callback(tracking.close)
        return [*self.observers, Recorder(folder), tracking, estimator]

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""
        self.stage = report.index + 1

    def _finish(
        self, source: Source, objective: Objective, outcome: Outcome, folder: RunFolder | None
    ) -> Run:
        """Turn what the loop came to into a run, and write it if there is a folder."""
        coded = source if isinstance(source, StoresBits) else None
        taken = any(report.stage.steps for report in outcome.stages)
        if outcome.kept_start and taken and self.processes.is_first:
            _logger.warning(
                "no state scored better than the start, which was kept: the images are those of "
                "before the first step (selection=last keeps the last state instead)"
            )
        made, train = self.origins, self.train
        run = Run(
            config=self.settings,
            distilled=made.as_set(outcome.images, outcome.labels, train, coded, outcome.targets),
            initial=made.as_set(outcome.initial_images, outcome.labels, train, coded),
            folder=None if folder is None else folder.path,
            data_sha256=self.images.sha256,
            stages=tuple(outcome.stages),
            generator=self.generator,
        )
        if folder is not None:
            best = outcome.stages[outcome.best_stage]
            data = {"data_sha256": self.images.sha256, "data_images": len(self.images)}

            def write() -> dict[str, float]:
                manifest = data | manifest_of(run, made.provenance, objective, best)
                # before the manifest, with which the run is finished; and after all is written
                folder.write_cost(self._cost(folder))
                with self.cost.line("results"):
                    codes = None if coded is None else coded.codes()
                    folder.write_result(run.distilled, run.initial, manifest, codes)
                cost = self._cost(folder)
                folder.write_cost(cost)
                return cost

            return replace(run, cost=self.processes.first(write))
        return replace(run, cost=self.processes.first(self.cost.as_json))

    def _cost(self, folder: RunFolder) -> dict[str, float]:
        """Return what the run took, with what evaluations of it took that are written already."""
        evaluated = {k: v for k, v in seconds_of(folder.read_cost()).items() if k not in LINES}
        own = self.cost.seconds
        return as_cost(own | evaluated, parts=self.cost.parts, peak_bytes=peak_bytes(self.device))
