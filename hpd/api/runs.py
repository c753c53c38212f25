"""Finished runs: loading and evaluating them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from generators import Generator, Prior, StoredGenerator
from generators.projection import perceptual_distance, perceptual_weights
from hpd.api.identity import DataFacts, EvaluationData, check_data, check_teacher
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.places import writing_to
from hpd.artifacts.run_folder import CONFIG, INITIAL
from hpd.config import RunSettings, load_config, parse_options, parse_yaml
from hpd.data import Dataset
from hpd.device import open_device
from hpd.errors import GeneratorError, RunError
from hpd.evaluation import Evaluation, evaluate_sets
from hpd.evaluation.ledger import Ledger
from hpd.evaluation.similarity import similarity
from hpd.rng import Streams
from hpd.seals import digest_tensor
from hpd.students.teachers import read_teacher

_MEND = "The students that were tested are kept: mend that, and evaluate again."
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished distillation.

    Args:
        config: what was run.
        distilled: the result.
        initial: the images of the source before its first step.
        folder: where it was written, None if it was not.
        cost: seconds of the run and of its selection, the share of the second, and the most bytes
            that the process had; empty for a run that was loaded, whose `cost.json` has them.
        data_sha256: of the training images and labels; None for a run that was loaded, whose
            manifest has it.
        generator: the one that was given in memory, if any.
    """

    config: RunSettings
    distilled: DistilledSet
    initial: DistilledSet
    folder: Path | None
    cost: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str | None = None
    generator: Generator | None = field(default=None, compare=False, repr=False)

    @property
    def data_facts(self) -> DataFacts:
        """What it knows of its training images.

        Raises:
            RunError: if the manifest in its folder tells of another set.
        """
        return DataFacts.of_run(self.distilled, self.folder, self.data_sha256)


def load_run(path: str | Path) -> Run:
    """Load a finished run from its folder.

    Raises:
        RunError: if the folder holds none.
    """
    folder = RunFolder(path)
    folder.check_whole(CONFIG)
    return Run(
        config=RunSettings.read(stored_config(folder)),
        distilled=DistilledSet.load(folder.path),
        initial=DistilledSet.load(folder.path / INITIAL),
        folder=folder.path,
    )


def opened(run: Run | str | Path) -> Run:
    """Return a finished run, given as such or by its folder."""
    return run if isinstance(run, Run) else load_run(run)


def folder_of(run: Run) -> RunFolder:
    """Return where a run was written.

    Raises:
        RunError: if it was not.
    """
    if run.folder is None:
        raise RunError("the run has no folder", fix="Distil with out=FOLDER.")
    return RunFolder(run.folder)


def stored_config(folder: RunFolder) -> Any:
    """Return the configuration of the run in a folder as its YAML holds it, unchecked.

    Raises:
        RunError: if there is no run.
        ConfigError: if it is no YAML.
    """
    return parse_yaml(folder.read_config(), str(folder.path / CONFIG))


def evaluate(
    run: Run | str | Path,
    *overrides: str,
    generator: Generator | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Evaluation:
    """Train fresh students on a run's distilled set and on its baselines, and test them.

    Where the source has a generator with classes, samples of it are among the baselines.

    Args:
        run: a run, or its folder; `evaluation.json` is written to the folder if there is one.
        overrides: ``"seeds=3"``, ``"protocol=glad"``, ...: options of the evaluation. Another
            protocol brings its own training, rates and labels.
        generator: the one of the run, where that was in memory and the run was loaded since.
        report: hears (row name, students done, students in all) after each student.

    An evaluation that was interrupted goes on with the student at which it was, if there is a
    folder.

    Raises:
        RunError: if the folder holds no finished run, or cannot be written to.
        DataError: if the data cannot be read, or are not those of the run.
        HpdError: if an override is wrong.
    """
    run = opened(run)
    config = _changed(run.config, overrides)
    dataset = config.data.build()
    check_data(run.data_facts, dataset.train, run.folder)
    if config.evaluation.teacher is not None:
        check_teacher(run.data_facts, read_teacher(config.evaluation.teacher))
    prior = _prior(run, config, dataset, generator or run.generator)
    data = EvaluationData.of(dataset).as_json()
    with ExitStack() as stack:
        ledger = None
        if run.folder is not None:
            stack.enter_context(writing_to(run.folder, _MEND))
            rests_on = _rests_on(run, config, dataset, prior)
            ledger = Ledger(RunFolder(run.folder).ledger_path, rests_on)
        evaluation = evaluate_sets(
            run.distilled,
            run.initial,
            dataset,
            config.evaluation,
            device=open_device(config.device),
            streams=Streams(config.seed).fork("evaluation"),
            prior=prior,
            report=report,
            ledger=ledger,
        )
        evaluation = replace(
            evaluation,
            similarity=_similarity(run.distilled, dataset),
            about={**evaluation.about, **_about(config), "data": data},
        )
        if run.folder is not None and ledger is not None:
            RunFolder(run.folder).write_evaluation(evaluation.as_json())
            ledger.close()
    return evaluation


def _changed(config: RunSettings, overrides: Sequence[str]) -> RunSettings:
    """Return the configuration of a run with other options of its evaluation."""
    values = config.model_dump(mode="json")
    if "protocol" in parse_options(overrides):
        # what the old protocol set would override the new one
        for option in ("training", "rate_factors", "labels"):
            del values["evaluation"][option]
    return load_config(values, [f"evaluation.{override}" for override in overrides])


def _similarity(distilled: DistilledSet, dataset: Dataset) -> dict[str, Any]:
    """Measure it, with LPIPS if the weights are at hand; nothing is fetched for it."""
    weights = perceptual_weights()
    if weights.is_file():
        return similarity(distilled, dataset.train, perceptual_distance(torch.device("cpu")))
    said = f"left out: torchvision's {weights.name} is not in {weights.parent}"
    return {**similarity(distilled, dataset.train), "lpips": said}


def _about(config: RunSettings) -> dict[str, Any]:
    """Return what made an evaluation, as far as its settings do not say."""
    packages = ("hpd", "torch")
    return {
        "seed": config.seed,
        "device": str(open_device(config.device)),
        "versions": {**{name: version(name) for name in packages}, "python": python_version()},
    }


def _prior(
    run: Run, config: RunSettings, dataset: Dataset, generator: Generator | None
) -> Prior | None:
    """Return the generator behind the source of a run, if it has one and that is at hand.

    Raises:
        GeneratorError: if the one that is given is not that of the run.
    """
    if not config.source.has_prior:
        return None
    stored = None if generator is None else StoredGenerator.of(generator)
    try:
        prior = config.source.prior(dataset.train, stored)
        if prior is not None:
            _check_prior(run, prior)
    except GeneratorError as error:
        if generator is not None:
            raise
        # a run may have had one in memory, in the place of the one that its source names
        _logger.warning("no samples of the generator stand beside the set: %s", error)
        return None
    return prior


def _check_prior(run: Run, prior: Prior) -> None:
    """Check that a generator is the one that a run was made with.

    Raises:
        GeneratorError: with both hashes.
    """
    known = {} if run.folder is None else RunFolder(run.folder).read_manifest().get("generator", {})
    got = prior.stored.sha256
    if known.get("sha256", got) != got:
        raise GeneratorError(
            f"{prior.stored.name} is not the generator of the run",
            got=f"SHA-256 {got[:12]}...",
            expected=f"{known['sha256'][:12]}...",
            fix="Bring that back, or give it: hpd.evaluate(run, generator=...).",
        )


def _rests_on(
    run: Run, config: RunSettings, dataset: Dataset, prior: Prior | None
) -> dict[str, Any]:
    """Return what decides the accuracies of an evaluation; not how many students there are."""
    options = config.evaluation.model_dump(mode="json", exclude={"seeds", "card", "scores"})
    sets = [run.distilled.images, run.distilled.labels, run.initial.images]
    sets += [] if run.distilled.soft_labels is None else [run.distilled.soft_labels]
    teacher = config.evaluation.teacher
    return {
        "evaluation": options,
        "seed": config.seed,
        "device": config.device,
        "data": [dataset.train.sha256, dataset.test.sha256],
        "sets": [digest_tensor(tensor) for tensor in sets],
        "teacher": None if teacher is None else read_teacher(teacher).record.weights,
        "prior": None if prior is None else prior.stored.sha256,
        "torch": str(torch.__version__),
    }
