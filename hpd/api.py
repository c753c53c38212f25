"""The Python API: what the command line does, as functions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from generators import Generator, StoredGenerator, projection, read_generator
from generators.projection import Distance
from hpd.artifacts import DistilledSet, RunFolder, check_free
from hpd.config import RunSettings, load_config, parse_yaml
from hpd.data import DATASETS, Dataset, ImageSet
from hpd.device import open_device
from hpd.engine import Observer, Outcome, StageReport, StepReport, experts, optimise
from hpd.engine.recorder import Recorder
from hpd.errors import ConfigError
from hpd.evaluation import Evaluation, evaluate_sets
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES, TakesGenerator
from hpd.students.expert_checks import check_learned
from hpd.students.trajectories import ExpertFolder, ExpertSettings
from hpd.typing import Objective, Source, Stage

SetupHook = Callable[[Sequence[Stage]], None]


@dataclass(frozen=True)
class Run:
    """A finished distillation.

    Args:
        config: what was run.
        distilled: the result.
        initial: the images of the source before its first step.
        folder: where it was written, None if it was not.
    """

    config: RunSettings
    distilled: DistilledSet
    initial: DistilledSet
    folder: Path | None


def load_dataset(name: str | Path, **options: Any) -> Dataset:
    """Load a data set: a registered name, or a folder of images.

    Args:
        name: ``"digits"``, ``"cifar10"``, ..., or the path of a folder with a subfolder per class.
        options: options of that data set: ``root``, ``classes``, ``resolution``, ...

    Raises:
        ConfigError: for an unknown name or option.
        DataError: if the data are missing or broken.

    >>> len(load_dataset("digits", classes=["3", "8"]).test)
    99
    """
    if str(name) not in DATASETS and Path(name).expanduser().is_dir():
        return DATASETS.parse({"kind": "folder", "root": str(name), **options}).build()
    return DATASETS.parse({"kind": str(name), **options}).build()


def load_generator(
    name_or_path: str | Path, *, network: Literal["G_ema", "G"] = "G_ema"
) -> Generator:
    """Load a generator: a bundled name, a folder, or a checkpoint file, converted in memory.

    Args:
        name_or_path: ``"digits16"``, a folder that hpd wrote, an official StyleGAN2-ADA,
            StyleGAN3 or StyleGAN-XL pickle, or a rosinality ``.pt`` file. No code in it runs.
        network: which network of a checkpoint file: the averaged one, or ``"G"``.

    Returns:
        the network, float32, frozen, on the CPU.

    Raises:
        GeneratorError: if there is none, or it is broken or refused.

    >>> load_generator("digits16").spec.classes[:3]
    ('0', '1', '2')
    """
    return read_generator(name_or_path, network).generator


def project(
    generator: Generator,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Distance | Literal["lpips", "squared"] = "lpips",
    seed: int = 0,
    steps: int = 200,
) -> Tensor:
    """Project real images into W+: find the ws whose images come closest.

    Args:
        generator: from `load_generator`.
        images: [N, C, H, W] in [0, 1], of the generator's size.
        labels: the generator's class of each image [N]; None for an unconditional generator.
        distance: ``"lpips"`` (Zhang et al., CVPR 2018; needs AlexNet's weights), ``"squared"``,
            or a function of two batches of images that gives [N].
        seed: for the draws behind the average w, at which each image starts.
        steps: optimiser steps.

    Returns:
        ws [N, num_ws, D]; ``generator(ws)`` are the images in [-1, 1].

    Raises:
        GeneratorError: if LPIPS lacks its weights, saying what to put where.
        ShapeError: if the images are not of the generator's shape.
    """
    if distance == "lpips":
        distance = projection.perceptual_distance(next(generator.parameters()).device)
    elif distance == "squared":
        distance = projection.squared_distance
    rng = Streams(seed).generator("project")
    return projection.project(generator, images, labels, distance=distance, rng=rng, steps=steps)


def load_distilled(path: str | Path) -> DistilledSet:
    """Load a distilled set from a run folder or a safetensors file.

    Raises:
        RunError: if there is none, or it is broken.
    """
    return DistilledSet.load(path)


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
    settings = _resolve(config, overrides, seed)
    if out is not None:
        check_free(Path(out).expanduser())
    device, streams = open_device(settings.device), Streams(settings.seed)
    train = settings.data.build().train
    source = _build_source(settings, generator, train, device, streams.fork("source"))
    objective = settings.objective.build(train, device, streams.fork("objective"))
    folder = None if out is None else RunFolder.create(out, settings.to_yaml())
    selector = settings.selection.build(train, device, streams.fork("selection"))
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
    return _finish(settings, train, source, objective, outcome, folder)


def _resolve(
    config: str | Path | Mapping[str, Any] | RunSettings,
    overrides: Sequence[str],
    seed: int | None,
) -> RunSettings:
    if not isinstance(config, RunSettings):
        return load_config(config, overrides, seed)
    if overrides or seed is not None:
        raise ConfigError("overrides and seed belong in the settings", got="both")
    return config


def train_experts(
    config: str | Path | Mapping[str, Any] | RunSettings,
    *overrides: str,
    out: str | Path | None = None,
    seed: int | None = None,
    count: int | None = None,
    report: experts.Report = lambda expert, epoch, loss: None,
    on_setup: Callable[[ExpertSettings], None] = lambda settings: None,
) -> ExpertFolder:
    """Train the experts that trajectory matching needs, as far as they are not there yet.

    An interrupted training goes on where it stopped, to the same bytes on a CPU.

    Args:
        config: of a run whose objective is ``trajectory``; see `distill`.
        overrides: ``"key.sub=value"`` each.
        out: folder of the experts; None: the one that the objective names.
        seed: replaces the configuration's.
        count: number of experts; None: as the objective's `expert_training` says.
        report: hears (expert, epochs done, mean training loss) after each epoch.
        on_setup: hears before the first how many experts there will be, and how they are trained.

    Raises:
        ConfigError: for another objective, or a student with batch norm.
        RunError: if the folder holds something else or experts of another training, or if an
            expert learned nothing.
        HpdError: for what is wrong with configuration or data; `NumericError` if an expert
            diverges.
    """
    settings = _resolve(config, overrides, seed)
    objective = settings.objective
    if not isinstance(objective, experts.MatchesExperts):
        kind = OBJECTIVES.kind_of(objective)
        raise ConfigError("the objective needs no experts", got=kind, expected="trajectory")
    training = objective.expert_training or ExpertSettings()
    if count is not None:
        training = ExpertSettings.read({"count": count, "training": training.training})
    on_setup(training)
    folder = experts.train_experts(
        objective.experts if out is None else out,
        objective.student,
        training,
        settings.data.build().train,
        device=open_device(settings.device),
        seed=settings.seed,
        report=report,
    )
    check_learned(folder)
    return folder


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
    )
    if folder is not None:
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


def load_run(path: str | Path) -> Run:
    """Load a finished run from its folder.

    Raises:
        RunError: if the folder holds none.
    """
    folder = RunFolder(path)
    values = parse_yaml(folder.read("config.yaml"), str(folder.path / "config.yaml"))
    return Run(
        config=RunSettings.read(values),
        distilled=DistilledSet.load(folder.path),
        initial=DistilledSet.load(folder.path / "initial.safetensors"),
        folder=folder.path,
    )


def evaluate(
    run: Run | str | Path,
    *overrides: str,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Evaluation:
    """Train fresh students on a run's distilled set and on its baselines, and test them.

    Args:
        run: a run, or its folder; `evaluation.json` is written to the folder if there is one.
        overrides: ``"seeds=3"``, ``"training.epochs=100"``, ...: options of the evaluation.
        report: hears (row name, students done, students in all) after each student.

    Raises:
        RunError: if the folder holds no finished run.
        HpdError: if the data cannot be read, or an override is wrong.
    """
    if not isinstance(run, Run):
        run = load_run(run)
    prefixed = [f"evaluation.{override}" for override in overrides]
    config = load_config(run.config.model_dump(mode="json"), prefixed)
    evaluation = evaluate_sets(
        run.distilled,
        run.initial,
        config.data.build(),
        config.evaluation,
        device=open_device(config.device),
        streams=Streams(config.seed).fork("evaluation"),
        report=report,
    )
    if run.folder is not None:
        RunFolder(run.folder).write_evaluation(evaluation.as_json())
    return evaluation
