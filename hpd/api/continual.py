"""Class-incremental learning with memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpd.api.distilling import distill
from hpd.api.resuming import GO_ON
from hpd.artifacts import DistilledSet
from hpd.artifacts.places import writing_to
from hpd.config import RunSettings
from hpd.continual.course import Course, Report
from hpd.continual.folder import CourseFolder
from hpd.continual.settings import ContinualSettings, load_continual
from hpd.continual.summary import Cell, Line
from hpd.data import Dataset
from hpd.device import open_device
from hpd.locks import held


@dataclass(frozen=True)
class ContinualResult:
    """What a course came to.

    Args:
        config: what was run.
        lines: a line for each memory.
        cells: each memory after each step of each order.
        folder: where it was written, None if it was not.
    """

    config: ContinualSettings
    lines: list[Line]
    cells: list[Cell]
    folder: Path | None


def continual(
    config: str | Path | Mapping[str, Any] | ContinualSettings,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    report: Report = lambda name, done, total: None,
    on_estimate: Callable[[str], None] = lambda line: None,
) -> ContinualResult:
    """Let classes come a few at a time, keep a memory of each, and train students on it.

    Args:
        config: name of a bundled configuration, path of a YAML file, a mapping, or settings.
        overrides: ``"key.sub=value"`` each.
        out: folder to write to; None writes nothing.
        resume: go on with the course in `out`: with the memory and the step at which it was, and
            inside a distillation at its last checkpoint. On a CPU the files are those of a course
            that was not interrupted, to the bit. There may be more orders than before. Where there
            is none, one is started.
        seed: replaces the configuration's.
        report: hears (what was done, how many of these, how many in all).
        on_estimate: hears what the course will take, once each memory was measured.

    Raises:
        HpdError: for what is wrong with configuration, data or folder, before anything is written;
            and for what goes wrong in a distillation.
    """
    settings = load_continual(config, overrides, seed)
    dataset = settings.data.build()
    folder = CourseFolder(None if out is None else Path(out).expanduser())

    def distil(classes: Sequence[str], sections: dict[str, object], seed: int) -> DistilledSet:
        return _distil(settings, folder, classes, sections, seed)

    course = Course(settings, dataset, open_device(settings.device), distil, folder)
    with ExitStack() as stack:
        if folder.path is not None:
            stack.enter_context(held(folder.path, "goes through a course in"))
            folder.open(settings, _facts(dataset), resume=resume)
            stack.enter_context(writing_to(folder.path, GO_ON))
        lines, cells = course.run(report, on_estimate)
    return ContinualResult(settings, lines, cells, folder.path)


def _distil(
    settings: ContinualSettings, folder: CourseFolder, classes: Sequence[str],
    sections: dict[str, object], seed: int,
) -> DistilledSet:  # fmt: skip
    """Distil some classes by an ordinary run, kept on its way in the folder of the course."""
    values = settings.model_dump(mode="json")
    run = RunSettings.read(
        {
            "seed": seed,
            "device": settings.device,
            "data": {**values["data"], "classes": list(classes)},
            **sections,
        }
    )
    unfinished = folder.unfinished
    if unfinished is not None and _is_of_another(unfinished, run):
        folder.drop_unfinished()
    return distill(run, out=unfinished, resume=True).distilled


def _is_of_another(unfinished: Path, run: RunSettings) -> bool:
    """Return whether a distillation on its way is of another step, as after damage to files."""
    config = unfinished / "config.yaml"
    return unfinished.exists() and (not config.exists() or config.read_text() != run.to_yaml())


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return what a course rests on besides its settings."""
    return {
        "train": dataset.train.sha256,
        "test": dataset.test.sha256,
        "classes": list(dataset.train.classes),
    }
