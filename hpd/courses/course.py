"""Class-incremental learning: classes come a few at a time, and a buffer is all that stays.

At each step a buffer takes in the new classes, while their training images are at hand, and stays
as it is from then on; a student is trained from fresh weights on all of it, and tested on all
classes seen so far. Images are normalised by mean and deviation of the training images of the
classes seen: two running numbers a channel, which nobody counts, the same for all buffers.

Source: Yang et al., An Efficient Dataset Condensation Plugin and Its Application to Continual
Learning, NeurIPS 2023, section 4.3, after Prabhu, Torr and Dokania, GDumb, ECCV 2020.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from hpd.artifacts import DistilledSet
from hpd.courses.buffers import Arrival, RandomSettings
from hpd.courses.estimate import CourseEstimator, Task
from hpd.courses.folder import CourseFolder
from hpd.courses.settings import ContinualSettings
from hpd.courses.summary import Cell, Line, summarise
from hpd.data import Dataset, ImageSet
from hpd.data.whitening import recipe_of
from hpd.errors import ConfigError, DataError
from hpd.evaluation import compare, of_real, of_set
from hpd.rng import Streams

DistilClasses = Callable[[Sequence[str], dict[str, object], int], DistilledSet]
"""Distils some classes of the data, by their names, the sections of a configuration and a seed."""
WeighClasses = Callable[[Sequence[str], dict[str, object], int], int]
"""Returns what that would store, in floats, before it is done."""
Report = Callable[[str, int, int], None]
"""Hears what was done, how many of these are done, and how many there are."""


class Course:
    """A course of class-incremental learning.

    Args:
        settings: of the course.
        dataset: real images; the test part measures accuracies and does nothing else.
        device: where to compute.
        distil: makes distilled buffers.
        weigh: says what these will store.
        folder: where it is kept.

    Raises:
        DataError: if the classes do not make whole steps.
    """

    def __init__(
        self, settings: ContinualSettings, dataset: Dataset, device: torch.device,
        distil: DistilClasses, weigh: WeighClasses, folder: CourseFolder,
    ) -> None:  # fmt: skip
        self._settings, self._data, self._device = settings, dataset, device
        self._distil, self._weigh, self._folder = distil, weigh, folder
        self._streams = Streams(settings.seed).fork("continual")
        if recipe_of(dataset.train.normalisation) is not None:
            raise ConfigError(
                "a course measures its images anew at each step, and knows no ZCA",
                got="data.zca", fix="Leave out data.zca.",
            )  # fmt: skip
        classes, per_step = dataset.train.num_classes, settings.classes_per_step
        if classes % per_step:
            divisors = [n for n in range(2, classes + 1) if classes % n == 0]
            raise DataError(
                f"{classes} classes do not make whole steps",
                got=f"classes_per_step={per_step}",
                expected=" or ".join(map(str, divisors)),
            )

    def check(self) -> None:
        """Check each buffer by what it would keep of the first step; nothing is trained.

        Raises:
            ConfigError: if one stores more than the budget.
            HpdError: for what else can be known to go wrong.
        """
        arrival = self._arrival(0, 0)
        for name, buffer in self._settings.buffers.items():
            self._check_budget(name, buffer.weigh(arrival), arrival)
        shape, classes = self._data.train.image_shape, self._data.train.num_classes
        self._settings.rehearsal.evaluation(full=False).check_fits(shape, classes)

    def order(self, number: int) -> list[int]:
        """Return the classes in one of their orders."""
        rng = self._streams.generator("order", number)
        return torch.randperm(self._data.train.num_classes, generator=rng).tolist()

    @property
    def tasks(self) -> list[Task]:
        """All that there is to do, in the order in which it is done."""
        steps = self._data.train.num_classes // self._settings.classes_per_step
        return [
            Task(order, step, name)
            for order in range(self._settings.orders)
            for step in range(steps)
            for name in self._settings.buffers
        ]

    def run(self, report: Report, tell: Callable[[str], None]) -> tuple[list[Line], list[Cell]]:
        """Do what is left to do, and return the table and all cells.

        Args:
            report: hears of each buffer and each step.
            tell: hears how long the rest will take.
        """
        tasks, folder = self.tasks, self._folder
        left = [task for task in tasks if folder.cell(task.order, task.step, task.buffer) is None]
        estimator = CourseEstimator(left, tell)
        for done, task in enumerate(tasks, start=1):
            if task in left:
                self._do(task, estimator)
            report(f"order {task.order + 1}, step {task.step + 1}, {task.buffer}", done, len(tasks))
            if done < len(tasks) and tasks[done].order != task.order:
                folder.forget(task.order)
        cells = [folder.cell(task.order, task.step, task.buffer) for task in tasks]
        whole = [cell for cell in cells if cell is not None]
        lines = summarise(whole, self._baseline)
        folder.write_result(lines, whole, self._settings.classes_per_step)
        return lines, whole

    @property
    def _baseline(self) -> str | None:
        buffers = self._settings.buffers.items()
        return next((name for name, own in buffers if isinstance(own, RandomSettings)), None)

    def _do(self, task: Task, estimator: CourseEstimator) -> None:
        """Make the buffer of a step, and train students on all that it holds by then."""
        started = time.perf_counter()
        parts = [self._part(task, step) for step in range(task.step + 1)]
        made = time.perf_counter()
        self._folder.keep_cell(self._learn(task, parts))
        estimator.done(task, made - started, time.perf_counter() - made)

    def _part(self, task: Task, step: int) -> DistilledSet | None:
        """Return what a buffer keeps of the classes of a step; made if it is not there.

        None stands for all images, of which nobody makes a copy.
        """
        known = self._folder.buffer(task.order, step, task.buffer)
        if known is not None:
            return known
        arrival = self._arrival(task.order, step)
        kept = self._settings.buffers[task.buffer].make(arrival)
        if kept is None:
            return None
        self._check_budget(task.buffer, kept.stored_floats, arrival)
        self._folder.keep_buffer(task.order, step, task.buffer, kept)
        return kept

    def _arrival(self, order: int, step: int) -> Arrival:
        """Return the classes that come with a step of an order."""
        per_step = self._settings.classes_per_step
        classes = self.order(order)[step * per_step : (step + 1) * per_step]
        train = self._data.train.only(classes).measured()
        return Arrival(
            train=train,
            per_class=self._settings.budget_images,
            device=self._device,
            streams=self._streams.fork("order", order, "step", step),
            distil=lambda sections, seed: self._distil(train.classes, dict(sections), seed),
            weigh=lambda sections, seed: self._weigh(train.classes, dict(sections), seed),
        )

    def _check_budget(self, name: str, floats: int, arrival: Arrival) -> None:
        if self._settings.buffers[name].within_budget and floats > arrival.budget:
            raise ConfigError(
                f"the buffer {name!r} does not fit the budget",
                got=f"{floats:,} floats for {arrival.train.num_classes} classes",
                expected=f"at most {arrival.budget:,}",
                fix="Raise budget_images, or let it store less.",
            )

    def _learn(self, task: Task, parts: Sequence[DistilledSet | None]) -> Cell:
        """Train students on the parts of a buffer, and test them on all classes seen."""
        settings, per_step = self._settings, self._settings.classes_per_step
        buffer = settings.buffers[task.buffer]
        seen = self.order(task.order)[: len(parts) * per_step]
        train = self._data.train.only(seen).measured()
        test = replace(self._data.test.only(seen), normalisation=train.normalisation)
        protocol = settings.rehearsal.evaluation(full=not buffer.within_budget)
        # students of all buffers start from the same weights
        streams = self._streams.fork("order", task.order, "step", task.step, "students")
        kept = [part for part in parts if part is not None]
        if len(kept) == len(parts):
            whole = _joined(kept, train, per_step)
            contender = of_set(task.buffer, whole, protocol.training)
            images, floats = len(whole), whole.stored_floats
        else:
            # in the order in which they came
            whole_set = train.at((train.labels // per_step).argsort(stable=True))
            contender = of_real(task.buffer, whole_set, protocol.training)
            images, floats = len(train), len(train) * math.prod(train.image_shape)
        evaluation = compare(
            [contender], Dataset(train, test), protocol, device=self._device, streams=streams
        )
        return Cell(
            order=task.order,
            step=task.step,
            buffer=task.buffer,
            classes=list(train.classes),
            images=images,
            stored_floats=floats,
            accuracies=[score for row in evaluation.rows for score in row.accuracies],
        )


def _joined(parts: Sequence[DistilledSet], train: ImageSet, per_step: int) -> DistilledSet:
    """Return what was kept at all steps as one set, of so many classes a step."""
    return DistilledSet(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels + i * per_step for i, part in enumerate(parts)]),
        classes=train.classes,
        normalisation=train.normalisation,
        stored_floats=sum(part.stored_floats for part in parts),
        optimised=True,
    )
