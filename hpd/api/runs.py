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

from generators import Generator, Prior, StoredGenerator, read_generator
from generators.projection import perceptual_distance, perceptual_weights
from hpd.api.evaluation_cost import EvaluationCost
from hpd.api.identity import DataFacts, EvaluationData, check_data, check_teacher
from hpd.api.naming import data_again, split_data
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.ledger import Ledger
from hpd.artifacts.opening import place_of
from hpd.artifacts.places import writing_to
from hpd.artifacts.run_folder import CHECKPOINTS, CONFIG, INITIAL
from hpd.boundary import public
from hpd.config import RunSettings, config_values, parse_options
from hpd.data import Dataset
from hpd.device import open_device
from hpd.engine import StageReport
from hpd.engine.recorder import stored_stages
from hpd.errors import ConfigError, GeneratorError, RunError
from hpd.evaluation import Evaluation, evaluate_sets
from hpd.evaluation.rows import lost_to_random
from hpd.evaluation.similarity import similarity
from hpd.files import remove_leftovers
from hpd.foreign import reading_foreign
from hpd.locks import held
from hpd.objectives import OBJECTIVES
from hpd.own_code import foreign
from hpd.rng import Streams
from hpd.seals import digest_json, digest_tensor
from hpd.showing import as_html, never_fails
from hpd.sources import SOURCES
from hpd.students.teachers import read_teacher
from hpd.yaml_text import parse_yaml

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
        origin: the packed file or the name on the hub that it was opened from, whose copy to read
            `folder` then is; None: it may be written to.
        cost: what its `cost.json` says: `seconds` of the distillation over all its parts,
            `selection_share`, seconds of each line of `hpd.artifacts.costs` as ``steps_seconds``,
            their sum `total_seconds`, and `peak_bytes`.
        data_sha256: of the training images and labels; None for a run that was loaded, whose
            manifest has it.
        stages: the report of each stage: which step was kept, its score, and `measured`, the score
            and the loss on fixed draws of every state that was measured. A run that was loaded
            has them from its `metrics.jsonl`, and none where an earlier version wrote that.
        generator: the one that was given in memory, if any.
    """

    config: RunSettings
    distilled: DistilledSet
    initial: DistilledSet
    folder: Path | None
    cost: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str | None = None
    stages: Sequence[StageReport] = ()
    generator: Generator | None = field(default=None, compare=False, repr=False)
    origin: str | None = None

    def __repr__(self) -> str:
        kinds = (
            f"{SOURCES.kind_of(self.config.source)}, {OBJECTIVES.kind_of(self.config.objective)}"
        )
        where = "no folder" if self.folder is None else self.origin or str(self.folder)
        return f"Run({kinds}: {self.distilled!r}, {where})"

    @never_fails
    def _repr_html_(self) -> str:
        evaluation = self.evaluation
        table = "" if evaluation is None else evaluation.table_html()
        return as_html(repr(self), table, self.distilled._repr_html_())

    @property
    def home(self) -> Path | None:
        """The folder that what comes of it is written to; None: there is none."""
        return self.folder if self.origin is None else None

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations in its folder by name, the oldest first; empty without one.

        Raises:
            RunError: if they cannot be read.
        """
        records = [] if self.folder is None else RunFolder(self.folder).read_evaluations()
        try:
            return {str(record["name"]): Evaluation.read(record) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            path, fix = self.folder, f"Evaluate it again: `hpd evaluate {self.folder}`."
            raise RunError(f"cannot read the evaluations in {path}", got=error, fix=fix) from None

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation in its folder, None without one; see `evaluations`."""
        found = list(self.evaluations.values())
        return found[-1] if found else None

    @property
    def data_facts(self) -> DataFacts:
        """What it knows of its training images.

        Raises:
            RunError: if the manifest in its folder tells of another set.
        """
        return DataFacts.of_run(self.distilled, self.folder, self.data_sha256)


@public
def load_run(path: str | Path) -> Run:
    """Load a finished run from its folder, a packed file or the hub.

    What in its configuration is of the user's own, and not registered here, is kept as it is.

    Args:
        path: the folder; or what `pack` wrote, or ``"hub:org/name"``, of which nothing is changed.

    Raises:
        RunError: if there is none, or it is damaged.
        HubError: if the hub does not give it.
    """
    place = place_of(path)
    folder = RunFolder(place.folder)
    # what came from elsewhere is held to all that it says of itself
    folder.check_whole(*([CONFIG] if place.origin is None else []))
    return Run(
        config=RunSettings.read_kept(stored_config(folder)),
        distilled=DistilledSet.load(folder.path),
        initial=DistilledSet.load(folder.path / INITIAL),
        folder=folder.path,
        cost=folder.read_cost(),
        stages=stored_stages(folder),
        origin=place.origin,
    )


def opened(run: Run | str | Path) -> Run:
    """Return a finished run, given as such or as `load_run` takes it."""
    return run if isinstance(run, Run) else load_run(run)


def folder_of(run: Run) -> RunFolder:
    """Return where a run was written.

    Raises:
        RunError: if it was not.
    """
    if run.folder is None:
        raise RunError("the run has no folder", fix="Distil with out=FOLDER.")
    return RunFolder(run.folder)


def folder_with_latents(run: Run) -> RunFolder:
    """Return where a run was written, with the state that each stage ended with.

    Raises:
        RunError: if it was not, or they were not handed on with it.
    """
    folder = folder_of(run)
    if run.origin is not None and not (folder.path / CHECKPOINTS).is_dir():
        raise RunError(
            f"{run.origin} holds no latents",
            fix="Take the folder of the run, or hand them on: `hpd pack RUN --latents`.",
        )
    return folder


def stored_config(folder: RunFolder) -> Any:
    """Return the configuration of the run in a folder as its YAML holds it, unchecked.

    Raises:
        RunError: if there is no run.
        ConfigError: if it is no YAML.
    """
    return parse_yaml(folder.read_config(), str(folder.path / CONFIG))


@public
def evaluate(
    run: Run | str | Path,
    *overrides: str,
    name: str | None = None,
    generator: Generator | str | Path | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Evaluation:
    """Train fresh students on a run's distilled set and on its baselines, and test them.

    Where the source has a generator with classes, samples of it are among the baselines.

    Args:
        run: a run, its folder, a packed file or ``"hub:org/name"``; a record is added to
            `evaluation.json` in the folder if there is one, and none that is there is written over.
        overrides: ``"seeds=3"``, ``"protocol=glad"``, ...: options of the evaluation. Another
            protocol brings its own training, rates and labels. ``"data.root=FOLDER"``, or
            ``"data=FOLDER"``: where the data of the run are now.
        name: of the record; None: made of protocol, labels and students, with a number where
            another evaluation has it.
        generator: the one of the run, where that was in memory and the run was loaded since, or
            lies elsewhere now.
        report: hears (row name, students done, students in all) after each student.

    An evaluation that was interrupted goes on with the student at which it was, if there is a
    folder.

    Raises:
        RunError: if the folder holds no finished run, or cannot be written to, or if the name is
            that of another evaluation.
        DataError: if the data cannot be read, or are not those of the run.
        HpdError: if an override is wrong.
    """
    run = opened(run)
    home = run.home
    config = _changed(run.config, overrides)
    cost = EvaluationCost(open_device(config.device, config.float32))
    dataset = config.data.build()
    check_data(run.data_facts, dataset.train, run.origin or run.folder)
    if config.evaluation.teacher is not None:
        check_teacher(run.data_facts, read_teacher(config.evaluation.teacher))
    prior = _prior(run, config, dataset, generator or run.generator)
    about = {**_about(config), "data": EvaluationData.of(dataset).as_json()}
    rests_on = _rests_on(run, config, dataset, prior)
    about["rests_on"] = digest_json(rests_on)
    with ExitStack() as stack:
        ledger = None
        if home is not None:
            stack.enter_context(held(home, "evaluate", borrows=True))
            stack.enter_context(writing_to(home, _MEND))
            # what an evaluation left that was killed while it wrote
            remove_leftovers(home)
            cost.write_to(RunFolder(home))
            own = {"settings": config.evaluation.model_dump(mode="json"), **about}
            ledger = Ledger(RunFolder(home).ledger_path, rests_on, own["settings"])
            RunFolder(home).check_evaluation_name(own, name)
        evaluation = evaluate_sets(
            run.distilled,
            run.initial,
            dataset,
            config.evaluation,
            device=open_device(config.device, config.float32),
            streams=Streams(config.seed).fork("evaluation"),
            prior=prior,
            report=cost.hearing(report),
            ledger=ledger,
        )
        lost = lost_to_random(evaluation.rows)
        evaluation = replace(
            evaluation,
            similarity=_similarity(run.distilled, dataset),
            about={**evaluation.about, **about, "lost_to_random": lost},
        )
        if home is not None and ledger is not None:
            written = RunFolder(home).write_evaluation(evaluation.as_json(), name)
            evaluation = replace(evaluation, name=written)
            ledger.close()
            cost.write()
    for line in lost:
        _logger.warning("%s", line)
    return evaluation


def _changed(config: RunSettings, overrides: Sequence[str]) -> RunSettings:
    """Return the configuration of a run with other options of its evaluation."""
    of_data, overrides = split_data(overrides)
    overrides = [override.removeprefix("evaluation.") for override in overrides]
    data = data_again(config.data, None, of_data)
    values = config.model_copy(update={"data": data}).model_dump(mode="json")
    if "protocol" in parse_options(overrides):
        # what the old protocol set would override the new one
        for option in ("training", "rate_factors", "labels"):
            del values["evaluation"][option]
    given = [f"evaluation.{override}" for override in overrides]
    return RunSettings.read_kept(config_values(values, given))


def _similarity(distilled: DistilledSet, dataset: Dataset) -> dict[str, Any]:
    """Measure it, with LPIPS if the weights are at hand; nothing is fetched for it."""
    weights = perceptual_weights()
    if weights.is_file():
        return similarity(distilled, dataset.train, perceptual_distance(torch.device("cpu")))
    # without the folder: the record may be handed on
    said = f"left out: torchvision's {weights.name} is not at hand"
    return {**similarity(distilled, dataset.train), "lpips": said}


def _about(config: RunSettings) -> dict[str, Any]:
    """Return what made an evaluation, as far as its settings do not say."""
    packages = ("hpd", "torch")
    return {
        "seed": config.seed,
        "device": str(open_device(config.device, config.float32)),
        "float32": config.float32,
        "versions": {**{name: version(name) for name in packages}, "python": python_version()},
        # which decide how a CPU rounds
        "machine": {
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
    }


def _prior(
    run: Run, config: RunSettings, dataset: Dataset, generator: Generator | str | Path | None
) -> Prior | None:
    """Return the generator behind the source of a run, if it has one and that is at hand.

    Raises:
        GeneratorError: if the one that is given is not that of the run.
    """
    if not config.source.has_prior:
        if generator is not None:
            raise ConfigError(
                "the source of the run has no generator", fix="Leave out the generator."
            )
        return None
    stored = None if generator is None else stored_generator(generator)
    try:
        with reading_foreign(foreign(config.model_dump(mode="json"))):
            prior = config.source.prior(dataset.train, stored)
        if prior is not None:
            _check_prior(run, prior)
            # samples in the bits of the run, so that both are as many for the same storage
            prior = replace(prior, codec=config.source.storage)
    except GeneratorError as error:
        if generator is not None:
            raise
        # a run may have had one in memory, in the place of the one that its source names
        _logger.warning("no samples of the generator stand beside the set: %s", error)
        return None
    return prior


def stored_generator(generator: Generator | str | Path) -> StoredGenerator:
    """Return a generator with its hash, given in memory, by name or as a folder."""
    if isinstance(generator, str | Path):
        return read_generator(str(generator))
    return StoredGenerator.of(generator)


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
