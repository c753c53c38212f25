"""Distilling: from a configuration to a run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from generators import Generator, StoredGenerator
from hpd.api.runs import Run
from hpd.artifacts import DistilledSet, RunFolder, check_free
from hpd.config import RunSettings, resolve_config
from hpd.data import ImageSet
from hpd.device import open_device
from hpd.engine import Observer, Outcome, StageReport, StepReport, optimise
from hpd.engine.cost import Cost
from hpd.engine.recorder import Recorder
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources import SOURCES, TakesGenerator
from hpd.typing import Objective, Source, Stage

SetupHook = Callable[[Sequence[Stage]], None]


def distill(
    config: str | Path | Mapping[str, Any] | RunSettings,
    *overrides: str,
    out: str | Path | None = None,
    seed: int | None = None,
    generator: Generator | None = None,
    observers: Sequence[Observer] = (),
    on_setup: SetupHook | None = None,
) -> Run:
    """Distil a data set.

    Args:
        config: name of a bundled configuration, path of a YAML file, a mapping, or settings.
        overrides: ``"key.sub=value"`` each.
        out: folder to write the run to; None writes nothing.
        seed: replaces the configuration's.
        generator: replaces the one that the source names: a generator of your own.
        observers: hear of every step and stage.
        on_setup: hears the stages when all is ready and before the first step.

    Raises:
        HpdError: for what is wrong with configuration, data, generator or folder, before anything
            is written; `NumericError` if the optimisation diverges.
    """
    settings = resolve_config(config, overrides, seed)
    if out is not None:
        check_free(Path(out).expanduser())
    device, streams, cost = open_device(settings.device), Streams(settings.seed), Cost()
    train, held = settings.selection.split(settings.data.build().train)
    source = _build_source(settings, generator, train, device, streams.fork("source"))
    objective = settings.objective.build(train, device, streams.fork("objective"))
    folder = None if out is None else RunFolder.create(out, settings.to_yaml())
    selector = cost.selector(
        lambda: settings.selection.build(held, device, streams.fork("selection"), objective)
    )
    if on_setup is not None:
        on_setup(source.stages)
    recorder = None if folder is None else Recorder(folder)
    outcome = optimise(
        source,
        objective,
        selector,
        settings.optimizer,
        _Listeners([*observers, *([recorder] if recorder else [])]),
        select_every=settings.selection.every,
        keeper=recorder,
    )
    return _finish(settings, train, source, objective, outcome, folder, cost)


def _build_source(
    settings: RunSettings,
    generator: Generator | None,
    train: ImageSet,
    device: torch.device,
    streams: Streams,
) -> Source:
    if generator is None:
        return settings.source.build(train, device, streams)
    if not isinstance(settings.source, TakesGenerator):
        kind = SOURCES.kind_of(settings.source)
        raise ConfigError("the source takes no generator", got=kind, expected="gan")
    return settings.source.build_from(StoredGenerator.of(generator), train, device, streams)


def _finish(
    settings: RunSettings,
    train: ImageSet,
    source: Source,
    objective: Objective,
    outcome: Outcome,
    folder: RunFolder | None,
    cost: Cost,
) -> Run:
    """Turn what the loop came to into a run, and write it if there is a folder."""

    def as_set(images: torch.Tensor) -> DistilledSet:
        return DistilledSet(
            images.float(), outcome.labels, train.classes, train.normalisation, source.stored_floats
        )

    run = Run(
        config=settings,
        distilled=as_set(outcome.images),
        initial=as_set(outcome.initial_images),
        folder=None if folder is None else folder.path,
        cost=cost.as_json(),
    )
    if folder is not None:
        folder.write_cost(run.cost)
        best = outcome.stages[outcome.best_stage]
        folder.write_result(run.distilled, run.initial, _manifest(run, source, objective, best))
    return run


class _Listeners:
    """Passes reports on to several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def on_step(self, report: StepReport) -> None:
        for observer in self._observers:
            observer.on_step(report)

    def on_stage(self, report: StageReport) -> None:
        for observer in self._observers:
            observer.on_stage(report)


def _manifest(run: Run, source: Source, objective: Objective, best: StageReport) -> dict[str, Any]:
    images = run.distilled.images
    return {
        "classes": run.distilled.classes,
        "images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_range": {
            "nominal": [0, 1],
            "min": float(images.min()),
            "max": float(images.max()),
            "share_outside": float(((images < 0) | (images > 1)).double().mean()),
        },
        "normalisation": {
            "mean": run.distilled.normalisation.mean,
            "std": run.distilled.normalisation.std,
        },
        "stored_floats": run.distilled.stored_floats,
        "seed": run.config.seed,
        "best_stage": {"name": best.stage.name, "step": best.best_step, "score": best.score},
        **source.provenance,
        **objective.provenance,
        "versions": {
            "hpd": version("hpd"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
