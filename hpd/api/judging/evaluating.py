"""Evaluating runs: fresh students on their sets and on baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from generators import Generator, Prior, StoredGenerator, read_generator
from generators.projection import perceptual_distance, perceptual_weights
from hpd.api.identity import EvaluationData, check_data, check_teacher
from hpd.api.judging.cost import EvaluationCost
from hpd.api.naming import data_again, split_data
from hpd.api.runs import Run, opened
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.ledger import Ledger
from hpd.artifacts.places import writing_to
from hpd.boundary import public
from hpd.config import RunSettings
from hpd.data import Dataset
from hpd.disk.files import remove_leftovers
from hpd.disk.locks import held
from hpd.disk.seals import digest_json, digest_tensor
from hpd.errors import ConfigError, GeneratorError
from hpd.evaluation import Evaluation, EvaluationEstimate, evaluate_sets
from hpd.evaluation.rows import remarks
from hpd.evaluation.similarity import similarity
from hpd.given import config_values, parse_options
from hpd.machine.device import Processes, open_device
from hpd.own_code import reading
from hpd.rng import Streams
from hpd.students import STUDENTS
from hpd.students.teachers import read_teacher

_MEND = "The students that were tested are kept: mend that, and evaluate again."
_logger = logging.getLogger(__name__)


@public
def evaluate(
    run: Run | str | Path,
    *overrides: str,
    name: str | None = None,
    generator: Generator | str | Path | None = None,
    processes: Processes | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    on_estimate: Callable[[EvaluationEstimate], None] = lambda estimate: None,
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
        processes: that a launcher started, to share the students out: all of them call this at
            once, for one run in a folder that all see, and get the same. None: this one alone.
        report: hears (row name, students done, students in all) after each student.
        on_estimate: hears how long it goes on, once the first students were tested; in the first of
            several processes.

    An evaluation that was interrupted goes on with the student at which it was, if there is a
    folder.

    Raises:
        RunError: if the folder holds no finished run, or cannot be written to, or if the name is
            that of another evaluation.
        DataError: if the data cannot be read, or are not those of the run.
        HpdError: if an override is wrong.
    """
    run, processes = opened(run), processes or Processes()
    with processes.together():
        work = _Work.of(run, overrides, generator)
    config, device = work.config, open_device(work.config.device, work.config.float32)
    with _kept(work, name, EvaluationCost(device), processes) as record:
        evaluation = evaluate_sets(
            run.distilled,
            run.initial,
            work.dataset,
            config.evaluation,
            device=device,
            streams=Streams(config.seed).fork("evaluation"),
            prior=work.prior,
            report=record.cost.hearing(report) if processes.is_first else _hear_nothing,
            on_estimate=on_estimate,
            ledger=record.ledger,
            processes=processes,
        )
        return processes.first(lambda: record.write(work.described(evaluation)))


@dataclass
class _Record:
    """Where an evaluation is written; nowhere without a folder, or by another process.

    Args:
        cost: what it takes, added to that of the run.
        name: of the record; None: made of its settings.
        folder: of the run, held.
        ledger: keeps each student.
    """

    cost: EvaluationCost
    name: str | None
    folder: RunFolder | None = None
    ledger: Ledger | None = None

    def write(self, found: Evaluation) -> Evaluation:
        """Write an evaluation, and return it with its name."""
        if self.folder is not None and self.ledger is not None:
            found = replace(found, name=self.folder.write_evaluation(found.as_json(), self.name))
            self.ledger.close()
            self.cost.write()
        for line in found.about["remarks"]:
            _logger.warning("%s", line)
        return found


@contextmanager
def _kept(
    work: _Work, name: str | None, cost: EvaluationCost, processes: Processes
) -> Iterator[_Record]:
    """Hold the folder of the run in the first process, where there is one.

    Raises:
        RunError: if another process works in it, if it cannot be written to, or if the name is that
            of another evaluation.
    """
    record, home = _Record(cost, name), work.run.home
    with ExitStack() as stack:

        def begin(folder: RunFolder) -> None:
            stack.enter_context(held(folder.path, "evaluate", borrows=True))
            stack.enter_context(writing_to(folder.path, _MEND))
            # what an evaluation left that was killed while it wrote
            remove_leftovers(folder.path)
            cost.write_to(folder)
            own = {"settings": work.config.evaluation.model_dump(mode="json"), **work.about}
            record.folder = folder
            record.ledger = Ledger(folder.ledger_path, work.rests_on, own["settings"])
            folder.check_evaluation_name(own, name)

        if home is not None:
            processes.first(lambda: begin(RunFolder(home)))
        yield record


def _hear_nothing(name: str, done: int, total: int) -> None:
    """Hear of students in the place of the first process."""


@dataclass(frozen=True)
class _Work:
    """What an evaluation rests on.

    Args:
        run: to evaluate.
        config: of the run, with other options of the evaluation.
        dataset: the real images.
        prior: the generator behind the source; None without one.
        about: what made it, as JSON.
        rests_on: what decides its accuracies, as JSON.
    """

    run: Run
    config: RunSettings
    dataset: Dataset
    prior: Prior | None
    about: dict[str, Any]
    rests_on: dict[str, Any]

    @classmethod
    def of(
        cls, run: Run, overrides: Sequence[str], generator: Generator | str | Path | None
    ) -> _Work:
        """Read the data and the generator of a run, and check that they are those of the run.

        Raises:
            HpdError: if they are not, or an override is wrong.
        """
        config = _changed(run.config, overrides)
        dataset = config.data.build()
        check_data(run.data_facts, dataset.train, run.origin or run.folder)
        if config.evaluation.teacher is not None:
            check_teacher(run.data_facts, read_teacher(config.evaluation.teacher))
        prior = _prior(run, config, dataset, generator or run.generator)
        rests_on = _rests_on(run, config, dataset, prior)
        about = {**_about(config), "data": EvaluationData.of(dataset).as_json()}
        about["rests_on"] = digest_json(rests_on)
        return cls(run, config, dataset, prior, about, rests_on)

    def described(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation with all that is known of it."""
        about = {**evaluation.about, **self.about}
        about["remarks"] = remarks(evaluation.rows, len(self.dataset.test))
        near = _similarity(self.run.distilled, self.dataset)
        return replace(evaluation, similarity=near, about=about)


def _changed(config: RunSettings, overrides: Sequence[str]) -> RunSettings:
    """Return the configuration of a run with other options of its evaluation."""
    of_data, overrides = split_data(overrides)
    overrides = [override.removeprefix("evaluation.") for override in overrides]
    data = data_again(config.data, None, of_data)
    values = config.model_copy(update={"data": data}).model_dump(mode="json")
    options = parse_options(overrides)
    # kinds of the run may be unknown here, those that are asked for now may not
    students = options.get("students")
    for student in students if isinstance(students, list) else ():
        STUDENTS.parse(student)
    if "protocol" in options:
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
        with reading(config.model_dump(mode="json")):
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
