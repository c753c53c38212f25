"""Where students are trained on a set, and tested."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hpd.data import Dataset, Images
from hpd.evaluation.card.measuring import resized
from hpd.evaluation.contenders import Contender, operations
from hpd.evaluation.rows import Row
from hpd.evaluation.settings import EvaluationSettings
from hpd.rng import Streams
from hpd.storage import Amount, Storage
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
from hpd.students.footprint import operations_of
from hpd.students.teachers import Teacher, read_teacher
from hpd.students.training import Answer

# an image is seen forwards in a test, and backwards, which takes twice as long, in a training
_TRAINING = 3


class Bench:
    """Trains students on sets, and tests them.

    The students of all sets start from the same weights, so that sets differ by their data.

    Args:
        dataset: real images; the test part is used here and nowhere else.
        settings: the protocol.
        device: where to train.
        streams: randomness of students, order and augmentation.

    Raises:
        ConfigError: if the teacher is of other images.
        RunError: if there is no such teacher.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: EvaluationSettings,
        device: torch.device,
        streams: Streams,
    ) -> None:
        self._train, self.device, self.streams = dataset.train, device, streams
        self._settings = settings
        self._images = dataset.test.seen_on(device)
        self._labels = dataset.test.labels.to(device)
        self._teachers: dict[str, Student] = {}
        self._operations: dict[str, int] = {}
        self.teaching_seconds = 0.0
        self._given = None if settings.teacher is None else self._read(settings.teacher)

    def scores(
        self, student: StudentSettings, contender: Contender, seeds: Sequence[int]
    ) -> list[float]:
        """Return the accuracy of the student of each seed, in percent."""
        trained = self.trained(student, contender, seeds)
        return [100 * accuracy(own, self._images, self._labels) for own in trained]

    def trained(
        self, student: StudentSettings, contender: Contender, seeds: Sequence[int],
        side: int | None = None,
    ) -> list[Student]:  # fmt: skip
        """Return the student of each seed, trained on a set; on its images at another side."""
        if not seeds:
            return []
        kind = STUDENTS.kind_of(student)
        lessons = [self._lesson(student, contender, seed, side) for seed in seeds]
        train_students(lessons, self._settings.training_of(contender.training, kind))
        return [lesson.student for lesson in lessons]

    def effort(self, student: StudentSettings, contender: Contender, count: int) -> float:
        """Return about how many operations it takes to train so many students, and to test them.

        What a teacher takes is not in it, nor the drawing of the images.
        """
        shape, classes = self._train.image_shape, self._train.num_classes
        kind = STUDENTS.kind_of(student)
        key = f"{kind} {student!r}"
        if key not in self._operations:
            with torch.device("meta"):
                network = student.make(shape, classes).eval()
            self._operations[key] = operations_of(network, shape)
        images = round(contender.images_per_class * classes)
        pace = self._settings.training_of(contender.training, kind).pace(images)
        seen = pace.steps / pace.batches * images
        return count * self._operations[key] * (_TRAINING * seen + len(self._labels))

    def teacher(self, student: StudentSettings) -> Student:
        """Return a student of this kind that was trained on the whole training set."""
        kind, training = STUDENTS.kind_of(student), self._settings.full_training
        key = f"{kind} {student!r}"
        if key not in self._teachers:
            assert training is not None, "checked by the settings"
            own = self.streams.fork("teacher", kind)
            images = self._train.seen_on(self.device)
            labels = self._train.labels.to(self.device)
            training, started = self._settings.training_of(training, kind), time.perf_counter()
            self._teachers[key] = train_student(
                self._fresh(student, own, images), images, labels, training, own
            ).eval()
            self.teaching_seconds += time.perf_counter() - started
        return self._teachers[key]

    def row(self, contender: Contender, student: StudentSettings, scores: Sequence[float]) -> Row:
        """Return the line of the table."""
        kind, kept = STUDENTS.kind_of(student), contender.storage
        return Row(
            name=contender.name,
            network=self._settings.name_of(student),
            images_per_class=contender.images_per_class,
            storage=Storage(kept.images, self._label_amount(contender, student), kept.generator),
            accuracy_mean=round(statistics.fmean(scores), 4),
            accuracy_std=round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
            seeds=list(range(len(scores))),
            accuracies=[round(score, 4) for score in scores],
            labels=contender.labels,
            lr=self._settings.training_of(contender.training, kind).lr,
            augment=operations(contender.training),
        )

    def _lesson(
        self, student: StudentSettings, contender: Contender, seed: int, side: int | None
    ) -> Lesson:
        own = self.streams.fork("student", STUDENTS.kind_of(student), seed)
        images, labels = contender.draw(seed)
        images = images.to(self.device)
        answer = None
        if contender.labels == "stored":
            assert contender.soft_labels is not None, "checked when it was made"
            labels = contender.soft_labels
        elif contender.labels == "soft":
            labels = in_batches(self._answer(student), images).softmax(dim=1)
        elif contender.labels == "online":
            answer = self._answer(student)
        # a teacher sees images at their own size
        if side is not None:
            assert isinstance(images, Tensor), "a card is of small sets, not of all real images"
            images = resized(images, side)
        return Lesson(
            self._fresh(student, own, images), images, labels.to(self.device), own, answer
        )

    def _answer(self, student: StudentSettings) -> Answer:
        """Return what gives the logits of normalised images."""
        given = self._given
        if given is None:
            return self.teacher(student)
        undo = self._train.normalisation.undo
        return lambda images: given.network(given.normalise(undo(images)))

    def _label_amount(self, contender: Contender, student: StudentSettings) -> Amount:
        """Return what labels take: nothing for classes, and online all of the teacher."""
        classes = self._train.num_classes
        if contender.labels == "hard":
            return Amount()
        if contender.labels == "stored":
            return contender.storage.labels
        if contender.labels == "online":
            network = self.teacher(student) if self._given is None else self._given.network
            return Amount.of(sum(value.numel() for value in network.parameters()))
        return Amount.of(round(contender.images_per_class * classes) * classes)

    def _fresh(self, student: StudentSettings, streams: Streams, images: Images) -> Student:
        channels, height, width = images.shape[1:]
        rng, classes = streams.generator("weights"), self._train.num_classes
        return student.build((channels, height, width), classes, rng).to(self.device)

    def _read(self, path: str) -> Teacher:
        teacher = read_teacher(path)
        teacher.check_fits(self._train.image_shape, self._train.classes)
        return teacher.to(self.device)
