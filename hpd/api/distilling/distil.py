"""From a configuration to a run: what the settings name, then the loop, then the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from generators import Generator
from hpd.api.distilling.built import Built
from hpd.api.distilling.fitting import out_of_memory
from hpd.api.distilling.manifests import Origins
from hpd.api.distilling.place import Place, place_of
from hpd.api.distilling.result import concluded
from hpd.api.distilling.resuming import finished_run
from hpd.api.runs import Run
from hpd.artifacts import RunFolder
from hpd.boundary import public
from hpd.config import RunSettings, resolve_config
from hpd.engine import Observer, Outcome, StageReport, StepReport, optimise
from hpd.engine.parts import check_count
from hpd.engine.watching.estimate import Estimate, Estimator, Work
from hpd.engine.watching.forecast import Forecast
from hpd.engine.watching.observer import Listeners
from hpd.engine.watching.recorder import Recorder
from hpd.engine.watching.tracking import Tracking
from hpd.machine.device import Processes
from hpd.machine.memory import is_out_of_memory, reason_of
from hpd.own_code import own_code_of
from hpd.typing import Selector, Stage

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
    settings = _settled(resolve_config(config, overrides, seed), generator)
    own = None if isinstance(generator, str | Path) else generator
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
        built = Built(settings, own, processes)
    hearing = _Hearing(built, processes, observers, on_setup, on_estimate)
    try:
        with processes.together():
            built.build()
        origins = Origins.of(built.source)
        with place_of(folder, built, processes, holder) as place:
            selector = built.selector(processes)
            with place.deferred():
                outcome = _optimised(built, selector, place, processes, hearing)
                return concluded(built, origins, outcome, folder, processes)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = reason_of(error)
    # with the others of several processes gone, no steps can be tried
    stage = hearing.stage if processes.count == 1 else None
    # out of the handler, so that nothing of the step that failed is held any more
    raise out_of_memory(settings, built.parts, stage, reason)


def _settled(settings: RunSettings, generator: Generator | str | Path | None) -> RunSettings:
    """Return settings with the generator that is named beside them, and code that they name."""
    if isinstance(generator, str | Path):
        settings = settings.model_copy(update={"source": settings.source.on(str(generator))})
    return settings.model_copy(update={"own_code": own_code_of(settings)})


def _optimised(
    built: Built, selector: Selector, place: Place, processes: Processes, hearing: _Hearing
) -> Outcome:
    """Take the steps."""
    settings, some = built.settings, built.some_classes()
    every, curve_every = settings.selection.every, settings.curve_every
    work = Work.left(built.source.stages, every, place.since, curve_every)
    hearing.stage = 0 if place.since is None else len(place.since.reports)
    with ExitStack() as stack:
        with processes.together():
            ahead = Forecast(built.source, some, work.stages, place.folder is not None)
            heard_by = hearing.listeners(ahead, work, place.folder, stack)
        return optimise(
            built.source,
            built.objective,
            selector,
            settings.optimizer,
            heard_by,
            select_every=every,
            curve_every=curve_every,
            keeper=place.keeper,
            since=place.since,
            processes=processes,
            cost=built.cost,
            some_classes=some,
        )


class _Hearing:
    """Who hears of a run; it knows itself in which stage the run is.

    Args:
        built: what the run rests on.
        processes: that share it: all but this in the first one alone.
        observers: hear of every step and stage.
        on_setup: hears the stages, and how many steps are taken already.
        on_estimate: hears what the run will take.
    """

    stage: int | None = None
    """The stage that the run is in; None outside of all."""

    def __init__(
        self, built: Built, processes: Processes, observers: Sequence[Observer],
        on_setup: SetupHook, on_estimate: EstimateHook,
    ) -> None:  # fmt: skip
        self._built, self._processes, self._observers = built, processes, observers
        self._on_setup, self._on_estimate = on_setup, on_estimate

    def listeners(
        self, ahead: Forecast, work: Work, folder: RunFolder | None, stack: ExitStack
    ) -> Listeners:
        """Return all that hear of the run; what they open closes with `stack`."""
        if not self._processes.is_first:
            return Listeners([self])
        built, stages = self._built, ahead.source.stages
        done = sum(stage.steps for stage in stages) - work.steps
        self._on_setup(stages, done)
        # of this part of the run: what those before it took is over
        prepared = time.perf_counter() - built.started
        estimator = Estimator(
            ahead.source.stored_floats, work, built.device, self._on_estimate, prepared, ahead
        )
        if folder is None:
            return Listeners([*self._observers, estimator, self])
        config = built.settings.model_dump(mode="json")
        tracking = Tracking(built.settings.tracking, folder.path, config, stages, done)
        stack.callback(tracking.close)
        return Listeners([*self._observers, Recorder(folder), tracking, estimator, self])

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""
        self.stage = report.index + 1
