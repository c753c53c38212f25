"""The host protocol: train fresh students on a set, test them on real images nobody has seen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.data import Dataset
from hpd.evaluation.contenders import Contender, contenders
from hpd.evaluation.ledger import Ledger
from hpd.evaluation.settings import EvaluationSettings
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Lesson,
    Student,
    StudentSettings,
    accuracy,
    in_batches,
    train_student,
    train_students,
)
from hpd.students.teachers import Teacher, read_teacher

# students that learn at once: more take more memory, and no less time
_TOGETHER = 5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: ``distilled``, ``distilled_N`` (its first N of each class), ``initial`` (the source
            before its first step), ``random_real``, ``herding``, ``k_centre`` (as many images),
            ``..._floats`` (as many floats, where that is another number of images) or ``full``
            (the whole training set).
        network: kind of student.
        images_per_class: mean number of images in a class.
        stored_floats: floats that the set counts for, soft labels included.
        accuracy_mean: percent of the test images, mean over students.
        accuracy_std: sample standard deviation over students, in points.
        seeds: seed of each student.
        accuracies: percent, of each student.
        labels: ``hard``, or ``soft``: a teacher's probabilities.
        lr: learning rate at the start of the schedule.
    """

    name: str
    network: str
    images_per_class: float
    stored_floats: int
    accuracy_mean: float
    accuracy_std: float
    seeds: list[int]
    accuracies: list[float] = field(default_factory=list)
    labels: str = "hard"
    lr: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """A table of accuracies.

    Args:
        rows: the table.
        similarity: how close the distilled images are to each other and to real ones.
        about: what made the numbers: settings, versions, seed, seconds.
    """

    rows: list[Row]
    similarity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def row(self, name: str, network: str | None = None) -> Row:
        """Return the row of a set (for one kind of student, if there are several)."""
        return next(r for r in self.rows if r.name == name and network in (None, r.network))

    @property
    def across_architectures(self) -> dict[str, float]:
        """The mean accuracy of each set over all architectures but the first, by name.

        Empty if there is one architecture only.
        """
        first = self.rows[0].network if self.rows else ""
        others: dict[str, list[float]] = {}
        for row in self.rows:
            if row.network != first:
                others.setdefault(row.name, []).append(row.accuracy_mean)
        return {name: round(statistics.fmean(values), 4) for name, values in others.items()}

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluation.json` holds."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "across_architectures": self.across_architectures,
            "similarity": dict(self.similarity),
            **self.about,
        }


def evaluate_sets(
    distilled: DistilledSet,
    initial: DistilledSet,
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on a distilled set and on its baselines, and test them on real images.

    The students of all rows start from the same weights, so that rows differ by their data. The
    random real images are drawn anew for each student.

    Args:
        distilled: the set to judge.
        initial: what its source gave before the first step.
        dataset: real images; the test part is used here and nowhere else.
        settings: the protocol.
        device: where to train.
        streams: randomness of students, order, augmentation and of the random real images.
        report: hears (row name, students done, students in all) after each student.
        ledger: knows the students that were tested before, and hears of each; None: of none.

    Raises:
        ConfigError: if a class has fewer distilled images than one of `counts`, the soft labels to
            take are not there, or the teacher is of other images.
        RunError: if there is no such teacher.
    """
    bench = _Bench(dataset, settings, device, streams)

    def embed(images: Tensor) -> Tensor:
        teacher = bench.teacher(settings.students[0])
        return in_batches(lambda part: teacher.embed(part.to(device)).cpu(), images)

    found = contenders(distilled, initial, dataset, settings, streams, embed)
    return _compare(found, bench, settings, report, ledger or Ledger())


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    ledger: Ledger | None = None,
) -> Evaluation:
    """Train students on any sets, and test them; see `evaluate_sets`.

    A set gets the same row whatever it is compared with.
    """
    bench = _Bench(dataset, settings, device, streams)
    return _compare(contenders, bench, settings, report, ledger or Ledger())


def _compare(
    contenders: Sequence[Contender],
    bench: _Bench,
    settings: EvaluationSettings,
    report: Callable[[str, int, int], None],
    ledger: Ledger,
) -> Evaluation:
    total = len(contenders) * len(settings.students) * settings.seeds
    rows, done, started = [], 0, time.perf_counter()
    for number, student_settings in enumerate(settings.students):
        network = STUDENTS.kind_of(student_settings)
        for contender in contenders:
            scores: list[float] = []
            while len(scores) < settings.seeds:
                seeds = range(len(scores), min(len(scores) + _TOGETHER, settings.seeds))
                names = {s: f"{number} {network} {contender.name} {s}" for s in seeds}
                scores += _known_or_found(names, bench, student_settings, contender, ledger)
                for _ in seeds:
                    done += 1
                    report(contender.name, done, total)
            rows.append(bench.row(contender, network, scores))
    about = {
        "settings": settings.model_dump(mode="json"),
        "students_seconds": round(time.perf_counter() - started, 3),
    }
    return Evaluation(rows, about=about)


def _known_or_found(
    names: Mapping[int, str],
    bench: _Bench,
    student: StudentSettings,
    contender: Contender,
    ledger: Ledger,
) -> list[float]:
    """Return the accuracies of some seeds, by their names in the ledger; those missing are tested.

    The ledger hears of them all at once: a part of them trained again would have other companions.
    """
    known = {seed: ledger.get(name) for seed, name in names.items()}
    missing = [seed for seed, score in known.items() if score is None]
    found = dict(zip(missing, bench.scores(student, contender, missing), strict=True))
    ledger.put_all({names[seed]: score for seed, score in found.items()})
    return [score for score in {**known, **found}.values() if score is not None]


class _Bench:
    """Trains students on a set, and tests them."""

    def __init__(
        self,
        dataset: Dataset,
        settings: EvaluationSettings,
        device: torch.device,
        streams: Streams,
    ) -> None:
        self._train, self._device, self._streams = dataset.train, device, streams
        self._settings = settings
        self._images = dataset.test.normalised().to(device)
        self._labels = dataset.test.labels.to(device)
        self._teachers: dict[str, Student] = {}
        self._given = None if settings.teacher is None else self._read(settings.teacher)

    def scores(
        self, student: StudentSettings, contender: Contender, seeds: Sequence[int]
    ) -> list[float]:
        """Return the accuracy of the student of each seed, in percent."""
        if not seeds:
            return []
        kind = STUDENTS.kind_of(student)
        lessons = []
        for seed in seeds:
            own = self._streams.fork("student", kind, seed)
            images, labels = contender.draw(seed)
            images = images.to(self._device)
            if self._softens(contender):
                labels = self._soft_labels(student, images)
            fresh = self._fresh(student, own)
            lessons.append(Lesson(fresh, images, labels.to(self._device), own))
        train_students(lessons, self._settings.training_of(contender.training, kind))
        return [100 * accuracy(own.student, self._images, self._labels) for own in lessons]

    def teacher(self, student: StudentSettings) -> Student:
        """Return a student of this kind that was trained on the whole training set."""
        kind, training = STUDENTS.kind_of(student), self._settings.full_training
        key = f"{kind} {student!r}"
        if key not in self._teachers:
            assert training is not None, "checked by the settings"
            own = self._streams.fork("teacher", kind)
            images = self._train.normalised().to(self._device)
            labels = self._train.labels.to(self._device)
            training = self._settings.training_of(training, kind)
            self._teachers[key] = train_student(
                self._fresh(student, own), images, labels, training, own
            ).eval()
        return self._teachers[key]

    def row(self, contender: Contender, network: str, scores: Sequence[float]) -> Row:
        """Return the line of the table."""
        softened = self._softens(contender)
        classes = self._train.num_classes
        floats = round(contender.images_per_class * classes) * classes if softened else 0
        floats += contender.label_floats
        return Row(
            name=contender.name,
            network=network,
            images_per_class=contender.images_per_class,
            stored_floats=contender.stored_floats + floats,
            accuracy_mean=round(statistics.fmean(scores), 4),
            accuracy_std=round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
            seeds=list(range(len(scores))),
            accuracies=[round(score, 4) for score in scores],
            labels="soft" if floats else "hard",
            lr=self._settings.training_of(contender.training, network).lr,
        )

    def _fresh(self, student: StudentSettings, streams: Streams) -> Student:
        shape, classes = self._train.image_shape, self._train.num_classes
        return student.build(shape, classes, streams.generator("weights")).to(self._device)

    def _softens(self, contender: Contender) -> bool:
        labels, others = self._settings.labels, self._given is not None
        return contender.relabelled and (labels == "soft" or (labels == "stored" and others))

    def _soft_labels(self, student: StudentSettings, images: Tensor) -> Tensor:
        if self._given is not None:
            return self._given.probabilities(self._train.normalisation.undo(images))
        teacher = self.teacher(student)
        return in_batches(lambda part: teacher(part).softmax(dim=1), images)

    def _read(self, path: str) -> Teacher:
        teacher = read_teacher(path)
        teacher.check_fits(self._train.image_shape, self._train.classes)
        return teacher.to(self._device)
