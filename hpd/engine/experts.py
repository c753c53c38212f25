"""Trains experts for trajectory matching, in one process or several; goes on where it stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hpd.data import ImageSet, SeenImages
from hpd.disk.locks import BusyError, held
from hpd.engine.optimizer import optimizer_state, restore
from hpd.errors import NumericError, RunError
from hpd.rng import Streams
from hpd.students import Student, Taught, accuracy, train_epoch
from hpd.students.experts.checks import check_images, check_matches
from hpd.students.experts.record import ExpertRecord, ExpertsWanted, sample
from hpd.students.experts.trajectories import RECORD, ExpertFolder, Progress
from hpd.students.parameters import flatten, unflatten

Report = Callable[[int, int, float], None]
"""Hears (expert, epochs done, mean training loss) after each epoch."""

# between two looks for what other processes do, and for how long one that begins is waited for
_LOOK_SECONDS, _TURN_SECONDS = 0.5, 60.0
_logger = logging.getLogger(__name__)


@runtime_checkable
class MatchesExperts(Protocol):
    """Settings of an objective that may rest on networks trained on the real images."""

    def experts_wanted(self, train: ImageSet) -> ExpertsWanted | None:
        """Return which they are, None if it needs none.

        Args:
            train: the real training images.
        """
        ...


def train_experts(
    wanted: ExpertsWanted,
    train: ImageSet,
    *,
    device: torch.device,
    seed: int,
    report: Report = lambda expert, epoch, loss: None,
) -> ExpertFolder:
    """Train the experts that a folder lacks.

    A killed training goes on at the epoch at which it stopped, and on a CPU ends in the same bytes
    as one that was not. Each expert is the same whatever the count and the order, so any number of
    processes may be at one folder, on one machine or several: each trains experts that no other one
    is at, and waits for those of the others.

    Args:
        wanted: which; their folder is made if it is not there.
        train: the real training images.
        device: where to train.
        seed: root of all randomness.
        report: hears of every epoch.

    Returns:
        the folder, with as many experts as are wanted, or more.

    Raises:
        ConfigError: for a student with batch norm.
        DataError: for images that are constant.
        RunError: if the folder holds something else, experts of another training, or broken ones.
        NumericError: if an expert diverges, naming expert and epoch.
    """
    path, settings = Path(wanted.path).expanduser(), wanted.settings
    record = ExpertRecord.of(wanted.student, train, settings.training, seed)
    check_images(train)
    folder = _opened(path, record, train)
    missing = [i for i in range(settings.count) if not folder.has(i)]
    course = _Course.of(folder, train, device, report) if missing else None
    while course is not None and missing:
        for expert in missing:
            with folder.work_on(expert) as works:
                if works:
                    course.train(expert)
        missing = [i for i in missing if not folder.has(i)]
        if missing:
            # others are at these; one that ends before leaves its work to this one
            time.sleep(_LOOK_SECONDS)
    return ExpertFolder.open(path)


def _opened(path: Path, record: ExpertRecord, train: ImageSet) -> ExpertFolder:
    """Return the folder, made if it is not there; processes that begin at once take turns."""
    ends = time.monotonic() + _TURN_SECONDS
    while True:
        try:
            with held(path, "train experts in"):
                return _open_or_create(path, record, train)
        except BusyError:
            if time.monotonic() > ends:
                raise
            time.sleep(_LOOK_SECONDS)


def _open_or_create(path: Path, record: ExpertRecord, train: ImageSet) -> ExpertFolder:
    if not (path / RECORD).exists():
        return ExpertFolder.create(path, record)
    folder = ExpertFolder.open(path, unfinished=True)
    check_matches(
        folder.record,
        student=record.student,
        train=train,
        training=record.training,
        seed=record.seed,
        fix=f"{path} is left as it is: choose another folder with --out.",
    )
    folder.remove_leftovers()
    return folder


@dataclass(frozen=True)
class _Course:
    """What all experts of a folder are trained with."""

    folder: ExpertFolder
    images: SeenImages
    labels: Tensor
    sampled: Tensor
    report: Report

    @classmethod
    def of(
        cls, folder: ExpertFolder, train: ImageSet, device: torch.device, report: Report
    ) -> _Course:
        images, labels = train.seen_on(device), train.labels.to(device)
        return cls(folder, images, labels, sample(train, folder.record.seed).to(device), report)

    def train(self, expert: int) -> None:
        """Train one expert to its end, from where it was left."""
        record, training = self.folder.record, self.folder.record.training
        streams = Streams(record.seed).fork("expert", expert)
        student = record.student.build(
            record.image_shape, len(record.classes), streams.generator("weights")
        ).to(self.images.device)
        optimizer = training.optimizer(student)
        progress = self._progress(expert)
        if progress is None:
            start = flatten(student)[None].to("cpu", torch.float32)
            progress = Progress(start, (), self._accuracy(student), {})
        else:
            self._restore(student, optimizer, progress)
        taught = Taught(self.images, self.labels)
        for epoch in range(len(progress.losses), self.folder.epochs):
            rng = streams.generator("epoch", epoch)
            loss = train_epoch(student, optimizer, taught, training, rng, epoch)
            row = flatten(student).to("cpu", torch.float32)
            _check_finite(row, loss, expert, epoch)
            progress = Progress(
                torch.cat([progress.rows, row[None]]),
                (*progress.losses, loss),
                progress.accuracy_before,
                optimizer_state(optimizer),
            )
            self.folder.write_progress(expert, progress)
            self.report(expert, epoch + 1, loss)
        self.folder.write(
            expert,
            progress.rows,
            losses=progress.losses,
            accuracy_before=progress.accuracy_before,
            accuracy_after=self._accuracy(student),
        )

    def _progress(self, expert: int) -> Progress | None:
        try:
            return self.folder.read_progress(expert)
        except RunError as error:
            _logger.warning("expert %d starts over: %s (%s)", expert, error.problem, error.got)
            return None

    def _restore(
        self, student: Student, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Set student and optimiser to where the training was left."""
        values = unflatten(progress.rows[-1], self.folder.record.layout)
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                parameter.copy_(values[name])
        restore(optimizer, progress.optimizer)

    def _accuracy(self, student: Student) -> float:
        return accuracy(student, self.images.at(self.sampled), self.labels[self.sampled])


def _check_finite(row: Tensor, loss: float, expert: int, epoch: int) -> None:
    if not (math.isfinite(loss) and bool(torch.isfinite(row).all())):
        raise NumericError(
            f"expert {expert} is not finite after epoch {epoch + 1}",
            got=f"loss {loss:g}",
            fix="Lower objective.expert_training.training.lr.",
        )
