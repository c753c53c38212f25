"""Class-incremental learning with buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpd.api.distilling import GO_ON, checked_source, distill
from hpd.artifacts import DistilledSet
from hpd.artifacts.places import writing_to
from hpd.boundary import public
from hpd.config import RunSettings
from hpd.courses.course import Course, Report, WeighClasses
from hpd.courses.folder import CourseFolder
from hpd.courses.settings import ContinualSettings, load_continual
from hpd.courses.summary import Cell, Line
from hpd.data import Dataset
from hpd.disk.locks import held
from hpd.machine.device import open_device


@dataclass(frozen=True)
class ContinualResult:
    """What a course came to.

    Args:
        config: what was run.
        lines: a line for each buffer.
        cells: each buffer after each step of each order.
        folder: where it was written, None if it was not.
    """

    config: ContinualSettings
    lines: list[Line]
    cells: list[Cell]
    folder: Path | None


@public
def continual(
    config: str | Path | Mapping[str, Any] | ContinualSettings,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    report: Report = lambda name, done, total: None,
    on_estimate: Callable[[str], None] = lambda line: None,
) -> ContinualResult:
    """Let classes come a few at a time, keep a buffer of each, and train students on it.

    Args:
        config: name of a bundled configuration, path of a YAML file, a mapping, or settings.
        overrides: ``"key.sub=value"`` each.
        out: folder to write to; None writes nothing.
        resume: go on with the course in `out`: with the buffer and the step at which it was, and
            inside a distillation at its last checkpoint. On a CPU the files are those of a course
            that was not interrupted, to the bit. There may be more orders than before. Where there
            is none, one is started.
        seed: replaces the configuration's.
        report: hears (what was done, how many of these, how many in all).
        on_estimate: hears what the course will take, once each buffer was measured.

    Raises:
        HpdError: for what is wrong with configuration, data or folder, before anything is written;
            and for what goes wrong in a distillation.
    """
    settings = load_continual(config, overrides, seed)
    dataset = settings.data.build()
    folder = CourseFolder(None if out is None else Path(out).expanduser())

    def distil(classes: Sequence[str], sections: dict[str, object], seed: int) -> DistilledSet:
        return _distil(settings, folder, classes, sections, seed)

    course = Course(
        settings,
        dataset,
        open_device(settings.device),
        distil,
        _weigher(settings),
        folder,
    )
    with ExitStack() as stack:
        if folder.path is not None:
            stack.enter_context(held(folder.path, "go through a course in"))
            folder.open(settings, _facts(dataset), resume=resume)
            stack.enter_context(writing_to(folder.path, GO_ON))
        lines, cells = course.run(report, on_estimate)
    return ContinualResult(settings, lines, cells, folder.path)


def check_course(settings: ContinualSettings) -> str:
    """Check all of a course that needs no training, and write nothing.

    Returns:
        what was found, in one line.

    Raises:
        HpdError: for what is wrong with configuration or data.
    """
    dataset, nowhere = settings.data.build(), CourseFolder(None)

    def distil(classes: Sequence[str], sections: dict[str, object], seed: int) -> DistilledSet:
        raise NotImplementedError

    weigh = _weigher(settings)
    Course(settings, dataset, open_device(settings.device), distil, weigh, nowhere).check()
    train = dataset.train
    steps = train.num_classes // settings.classes_per_step
    return (
        f"{len(train):,} training images in {train.num_classes} classes; {settings.orders} orders"
        f" of {steps} steps, {len(settings.buffers)} buffers"
    )


def _weigher(settings: ContinualSettings) -> WeighClasses:
    """Return what says how much the buffers of a course will store."""

    def weigh(classes: Sequence[str], sections: dict[str, object], seed: int) -> int:
        return checked_source(_run_of(settings, classes, sections, seed)).stored_floats

    return weigh


def _run_of(
    settings: ContinualSettings, classes: Sequence[str], sections: dict[str, object], seed: int
) -> RunSettings:
    """Return the settings of the run that distils some classes."""
    values = settings.model_dump(mode="json")
    return RunSettings.read(
        {
            "seed": seed,
            "device": settings.device,
            "data": {**values["data"], "classes": list(classes)},
            **sections,
        }
    )


def _distil(
    settings: ContinualSettings, folder: CourseFolder, classes: Sequence[str],
    sections: dict[str, object], seed: int,
) -> DistilledSet:  # fmt: skip
    """Distil some classes by an ordinary run, kept on its way in the folder of the course."""
    run = _run_of(settings, classes, sections, seed)
    unfinished = folder.unfinished
    if unfinished is not None and _is_of_another(unfinished, run):
        folder.drop_unfinished()
    return distill(run, out=unfinished, resume=True).distilled


def _is_of_another(unfinished: Path, run: RunSettings) -> bool:
    """Return whether a distillation on its way is of another step, as after damage to files."""
    config = unfinished / "config.yaml"
    return unfinished.exists() and (
        not config.exists() or config.read_text("utf-8") != run.to_yaml()
    )


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return what a course rests on besides its settings."""
    return {
        "train": dataset.train.sha256,
        "test": dataset.test.sha256,
        "classes": list(dataset.train.classes),
    }
