"""Finished runs: loading and evaluating them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpd.artifacts import DistilledSet, RunFolder
from hpd.config import RunSettings, load_config, parse_yaml
from hpd.device import open_device
from hpd.evaluation import Evaluation, evaluate_sets
from hpd.rng import Streams


@dataclass(frozen=True)
class Run:
    """A finished distillation.

    Args:
        config: what was run.
        distilled: the result.
        initial: the images of the source before its first step.
        folder: where it was written, None if it was not.
        cost: seconds of the run and of its selection, and the share of the second; empty for a
            run that was loaded, whose `cost.json` has them.
    """

    config: RunSettings
    distilled: DistilledSet
    initial: DistilledSet
    folder: Path | None
    cost: Mapping[str, float] = field(default_factory=dict)


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
