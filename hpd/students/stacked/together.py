"""Training students: by a stack where one can be made, to what autograd would have come to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.augment import Augmentation, draw_augmentation
from hpd.data import Images
from hpd.progress import tell
from hpd.rng import Streams
from hpd.students.base import Student
from hpd.students.schedule import TrainingSettings
from hpd.students.stacked.stack import StudentStack, stackable, width_of
from hpd.students.training import TRAINING, Lesson, asked, soften, train_plainly

# Measured on a CPU: with more values than this in the first maps of a student's batch it is as
# fast alone as together with others, and takes less memory (tools/bench_evaluation.py). With fewer
# than the least in the batches of all students together autograd is faster than a stack.
_MOST_TOGETHER, _LEAST = 2_000_000, 400_000


def train_student(
    student: Student, images: Images, labels: Tensor, settings: TrainingSettings, streams: Streams
) -> Student:
    """Train `student` in place with cross entropy, and return it.

    Soft labels are met at a temperature, see `train_plainly`.

    Args:
        student: on the device of `images`.
        images: normalised, [N, C, H, W].
        labels: classes [N], int64, or soft: probabilities [N, K].
        settings: the protocol.
        streams: where the order of the images, the augmentation and dropout come from.
    """
    train_students([Lesson(student, images, labels, streams)], settings)
    return student


def train_students(lessons: Sequence[Lesson], settings: TrainingSettings) -> None:
    """Train students in place, each as `train_plainly` would: the same draws, the same sums.

    On a CPU ConvNets with instance norm learn in a `StudentStack`, together as long as their
    batches are small; others, and those on an accelerator, one after another by autograd.

    Args:
        lessons: of students of one architecture.
        settings: the protocol.
    """
    for group in groups(lessons, settings):
        if stacked(group, settings):
            _Class(group, settings).train()
            continue
        for lesson in group:
            train_plainly(lesson, settings)


def groups(lessons: Sequence[Lesson], settings: TrainingSettings) -> Sequence[Sequence[Lesson]]:
    """Return the lessons of those that learn together."""
    alike = all(lesson.images.shape == lessons[0].images.shape for lesson in lessons)
    if alike and _first_maps(lessons[0], settings) <= _MOST_TOGETHER:
        return [lessons]
    return [[lesson] for lesson in lessons]


def stacked(lessons: Sequence[Lesson], settings: TrainingSettings) -> bool:
    """Return whether these students can learn in a stack, and are faster for it."""
    return (
        lessons[0].images.device.type == "cpu"
        and settings.algorithm == "sgd"
        and all(stackable(lesson.student) for lesson in lessons)
        and len(lessons) * _first_maps(lessons[0], settings) >= _LEAST
    )


def _first_maps(lesson: Lesson, settings: TrainingSettings) -> int:
    """Return the number of values in the first maps of one batch, 0 where there are none."""
    if not stackable(lesson.student):
        return 0
    count = len(lesson.images)
    batch = math.ceil(count / settings.batches(count))
    return batch * math.prod(lesson.images.shape[2:]) * width_of(lesson.student)


class _Class:
    """Students that learn together."""

    def __init__(self, lessons: Sequence[Lesson], settings: TrainingSettings) -> None:
        self._settings, self._lessons = settings, lessons
        self._stack = StudentStack([lesson.student for lesson in lessons])
        self._pace = settings.pace(len(lessons[0].images))
        self._classes = lessons[0].student.head.out_features
        self._labels = [soften(lesson.labels, settings.temperature) for lesson in lessons]
        soft = any(lesson.labels.ndim == 2 or lesson.teacher is not None for lesson in lessons)
        self._temperature = settings.temperature if soft else 1.0
        self._momentum = torch.zeros_like(self._stack.values)

    def train(self) -> None:
        stack, settings = self._stack, self._settings
        averaged = stack.values.clone() if settings.ema else None
        for epoch in range(self._pace.epochs):
            self._epoch(epoch)
            if averaged is not None:
                averaged.lerp_(stack.values, 1 - settings.decay(epoch))
        stack.write_back(averaged)

    def _epoch(self, epoch: int) -> None:
        lessons, settings = self._lessons, self._settings
        rngs = [lesson.streams.generator("epoch", epoch) for lesson in lessons]
        count = len(lessons[0].images)
        orders = [torch.randperm(count, generator=rng) for rng in rngs]
        steps = zip(*(self._pace.split(order, epoch) for order in orders), strict=True)
        for own in steps:
            images, targets = self._batch([batch for _, batch in own], rngs)
            self._stack.differentiate(torch.stack(images), torch.stack(targets), self._temperature)
            self._step(settings.rate(own[0][0] / self._pace.steps))
            tell(TRAINING, own[0][0] + 1, self._pace.steps)

    def _batch(
        self, batches: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return images and targets of each student's batch, augmented and perhaps mixed."""
        settings, lessons = self._settings, self._lessons
        images = [lesson.images[own] for lesson, own in zip(lessons, batches, strict=True)]
        targets = [self._targets(of[own]) for of, own in zip(self._labels, batches, strict=True)]
        if settings.augment:
            images = self._augmented(images, rngs)
        for i, (lesson, rng) in enumerate(zip(lessons, rngs, strict=True)):
            mixed = settings.mix(images[i], targets[i], rng)
            if mixed is not None:
                images[i] = mixed.images
                targets[i] = targets[i].lerp(mixed.other_labels, 1 - mixed.share)
            if lesson.teacher is not None:
                targets[i] = asked(lesson.teacher, images[i], self._temperature)
        return images, targets

    def _targets(self, labels: Tensor) -> Tensor:
        """Return the probabilities of a batch [n, K] by classes [n] or probabilities."""
        if labels.ndim == 2:
            return labels
        return F.one_hot(labels, self._classes).to(self._lessons[0].images.dtype)

    def _augmented(self, images: list[Tensor], rngs: Sequence[torch.Generator]) -> list[Tensor]:
        """Augment each student's images; students that drew the same operation in one go."""
        drawn = [
            draw_augmentation(self._settings.augment, rng, count=len(own))
            for own, rng in zip(images, rngs, strict=True)
        ]
        result = list(images)
        for operation in dict.fromkeys(own.operation for own in drawn):
            members = [i for i, own in enumerate(drawn) if own.operation == operation]
            numbers = torch.cat([drawn[i].numbers for i in members])
            changed = Augmentation(operation, numbers)(torch.cat([images[i] for i in members]))
            for i, own in zip(members, changed.chunk(len(members)), strict=True):
                result[i] = own
        return result

    @torch.no_grad()
    def _step(self, lr: float) -> None:
        """Take a step of SGD with momentum and weight decay."""
        stack, settings = self._stack, self._settings
        stack.gradient.add_(stack.values, alpha=settings.weight_decay)
        self._momentum.mul_(settings.momentum).add_(stack.gradient)
        stack.values.add_(self._momentum, alpha=-lr)
        # no backward writes the gradients of biases, which are zero
        stack.gradient.zero_()
