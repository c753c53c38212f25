"""The folder of a course: each buffer and each figure in a file of its own, whole or not there.

======================================== =====================================================
config.yaml, facts.json                  what the course was started with
buffers/order-00-step-01-NAME.safetensors  what was kept of the classes of that step
cells/order-00-step-01-NAME.json         what students that learned from all of it came to
continual.json, .md, .png                the result
unfinished/                              a distillation on its way
======================================== =====================================================
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpd.artifacts import DistilledSet, check_free
from hpd.config import config_changes
from hpd.courses.settings import ContinualSettings
from hpd.courses.summary import Cell, Line, as_json, markdown, picture
from hpd.disk.files import remove_leftovers, write_bytes, write_json
from hpd.disk.seals import read_sealed, sealed
from hpd.disk.yaml_text import read_yaml
from hpd.errors import ConfigError, RunError

RESULT = "continual"
_CONFIG, _FACTS, _BUFFERS, _CELLS, _UNFINISHED = (
    "config.yaml", "facts.json", "buffers", "cells", "unfinished"
)  # fmt: skip
_OTHER = "Choose another folder with --out."
_SHOWN = 5
_logger = logging.getLogger(__name__)


class CourseFolder:
    """A course on disk.

    Args:
        path: the folder; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._buffers: dict[tuple[int, int, str], DistilledSet] = {}
        self._cells: dict[tuple[int, int, str], Cell] = {}

    @property
    def started(self) -> bool:
        """Whether there is a course here."""
        return self.path is not None and (self.path / _CONFIG).is_file()

    @property
    def unfinished(self) -> Path | None:
        """Where a distillation is kept on its way."""
        return None if self.path is None else self.path / _UNFINISHED

    def open(self, settings: ContinualSettings, facts: Mapping[str, Any], *, resume: bool) -> None:
        """Begin a course, or go on with the one that is here.

        Args:
            settings: of the course.
            facts: what it rests on besides, as JSON.
            resume: whether to go on; there may be more orders then, or fewer.

        Raises:
            RunError: if there is something else, a course that is not to be resumed, or one of
                other settings or facts.
        """
        if self.path is None:
            return
        if not self.started:
            check_free(self.path)
            self._begin(self.path, settings, facts)
            return
        if not resume:
            raise RunError(
                f"{self.path} already holds a course",
                fix="Go on with it by --resume (resume=True), or choose another folder with --out.",
            )
        self._check(self.path, settings, facts)
        remove_leftovers(self.path)
        write_bytes(self.path / _CONFIG, settings.to_yaml().encode())

    def _begin(self, path: Path, settings: ContinualSettings, facts: Mapping[str, Any]) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            # first, as it says that there is a course
            write_bytes(path / _CONFIG, settings.to_yaml().encode())
            write_json(path / _FACTS, sealed(facts))
        except OSError as error:
            raise RunError(f"cannot write to {path}", got=error.strerror) from None

    def _check(self, path: Path, settings: ContinualSettings, facts: Mapping[str, Any]) -> None:
        try:
            started = ContinualSettings.read(read_yaml(path / _CONFIG))
            if not (path / _FACTS).exists():
                # killed at its very start, so nothing rests on any facts yet
                write_json(path / _FACTS, sealed(facts))
            before = read_sealed(path / _FACTS)
        except (ConfigError, OSError, ValueError) as error:
            raise RunError(f"cannot read what {path} was started with", got=error,
                           fix=_OTHER) from None  # fmt: skip
        changes = config_changes(started, settings)
        # an order is the same however many there are
        changes.pop("orders", None)
        if changes:
            shown = [f"{key}: {old} -> {new}" for key, (old, new) in changes.items()]
            more = len(shown) - _SHOWN
            raise RunError(
                f"the course in {path} was started with another config",
                got="; ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else ""),
                fix=f"Give the one that it was started with. {_OTHER}",
            )
        if before != facts:
            changed = [key for key in {**before, **facts} if before.get(key) != facts.get(key)]
            raise RunError(
                f"the data of the course in {path} have changed since it was started",
                got=", ".join(changed),
                fix=f"Bring them back. {_OTHER}",
            )

    def buffer(self, order: int, step: int, name: str) -> DistilledSet | None:
        """Return what was kept at a step; None if that is still to be made."""
        key = (order, step, name)
        if self.path is None or key in self._buffers:
            return self._buffers.get(key)
        path = self.path / _BUFFERS / f"{_stem(*key)}.safetensors"
        if not path.exists():
            return None
        try:
            self._buffers[key] = DistilledSet.load(path)
        except RunError as error:
            _logger.warning("%s (%s): it is made again", error.problem, error.got)
            return None
        return self._buffers[key]

    def keep_buffer(self, order: int, step: int, name: str, kept: DistilledSet) -> None:
        """Write what was kept at a step, and drop the distillation that it came from."""
        if self.path is not None:
            (self.path / _BUFFERS).mkdir(exist_ok=True)
            kept.save(self.path / _BUFFERS / f"{_stem(order, step, name)}.safetensors")
            self.drop_unfinished()
        self._buffers[order, step, name] = kept

    def drop_unfinished(self) -> None:
        """Delete a distillation on its way."""
        if self.path is not None:
            shutil.rmtree(self.path / _UNFINISHED, ignore_errors=True)

    def forget(self, order: int) -> None:
        """Give back the memory of the process that the sets of an order take."""
        self._buffers = {k: own for k, own in self._buffers.items() if k[0] != order}

    def cell(self, order: int, step: int, name: str) -> Cell | None:
        """Return what students came to after a step; None if they are still to be trained."""
        key = (order, step, name)
        if self.path is None or key in self._cells:
            return self._cells.get(key)
        path = self.path / _CELLS / f"{_stem(*key)}.json"
        if not path.exists():
            return None
        try:
            self._cells[key] = Cell(**read_sealed(path))
        except (ValueError, TypeError) as error:
            _logger.warning("%s is broken (%s): it is made again", path, error)
            return None
        return self._cells[key]

    def keep_cell(self, cell: Cell) -> None:
        """Write what students came to after a step."""
        if self.path is not None:
            (self.path / _CELLS).mkdir(exist_ok=True)
            name = _stem(cell.order, cell.step, cell.buffer)
            write_json(self.path / _CELLS / f"{name}.json", sealed(asdict(cell)))
        self._cells[cell.order, cell.step, cell.buffer] = cell

    def write_result(
        self, lines: Sequence[Line], cells: Sequence[Cell], classes_per_step: int
    ) -> None:
        """Write table, numbers and picture."""
        if self.path is None:
            return
        self.drop_unfinished()
        write_bytes(self.path / f"{RESULT}.png", picture(lines, classes_per_step))
        write_bytes(self.path / f"{RESULT}.md", markdown(lines, classes_per_step).encode())
        write_json(self.path / f"{RESULT}.json", sealed(as_json(lines, cells)))


def _stem(order: int, step: int, name: str) -> str:
    return f"order-{order:02d}-step-{step:02d}-{name}"
