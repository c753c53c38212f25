"""Training many students at once, to what each would have come to alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.augment import Augmentation, draw_augmentation
from hpd.rng import Streams
from hpd.students.base import Student
from hpd.students.stack import StudentStack, stackable, width_of
from hpd.students.training import TrainingSettings, soften, train_student

# measured on a CPU, see tools/bench_evaluation.py: above this many values in the first maps of a
# student's batch a step alone is as fast as one together, and takes less memory
_MOST_VALUES = 2_000_000


@dataclass(frozen=True)
class Lesson:
    """One student, and what it is to learn.

    Args:
        student: on the device of the images.
        images: normalised, [N, C, H, W].
        labels: classes [N], int64, or probabilities [N, K].
        streams: where the order of the images, the augmentation and dropout come from.
    """

    student: Student
    images: Tensor
    labels: Tensor
    streams: Streams


def train_students(lessons: Sequence[Lesson], settings: TrainingSettings) -> None:
    """Train students in place, each as `train_student` would: the same draws, the same sums.

    ConvNets of one architecture with instance norm learn together by SGD on a CPU, as long as
    their batches are small; others, and those on an accelerator, one after another.

    Args:
        lessons: of students of one architecture.
        settings: the protocol.
    """
    if len(lessons) > 1 and worthwhile(lessons, settings):
        _Class(lessons, settings).train()
        return
    for lesson in lessons:
        train_student(lesson.student, lesson.images, lesson.labels, settings, lesson.streams)


def worthwhile(lessons: Sequence[Lesson], settings: TrainingSettings) -> bool:
    """Return whether these students can learn together, and are faster for it."""
    first = lessons[0]
    values = first.images[: settings.batch_size, 0].numel()
    return (
        first.images.device.type == "cpu"
        and settings.algorithm == "sgd"
        and all(lesson.images.shape == first.images.shape for lesson in lessons)
        and all(stackable(lesson.student) for lesson in lessons)
        and values * width_of(first.student) <= _MOST_VALUES
    )


class _Class:
    """Students that learn together."""

    def __init__(self, lessons: Sequence[Lesson], settings: TrainingSettings) -> None:
        self._settings, self._lessons = settings, lessons
        self._stack = StudentStack([lesson.student for lesson in lessons])
        classes = lessons[0].student.head.out_features
        self._targets = [
            F.one_hot(lesson.labels, classes).to(lesson.images.dtype)
            if lesson.labels.ndim == 1
            else soften(lesson.labels, settings.temperature)
            for lesson in lessons
        ]
        soft = any(lesson.labels.ndim == 2 for lesson in lessons)
        self._temperature = settings.temperature if soft else 1.0
        self._momentum = torch.zeros_like(self._stack.values)

    def train(self) -> None:
        stack, settings = self._stack, self._settings
        averaged = stack.values.clone() if settings.ema else None
        for epoch in range(settings.epochs):
            self._epoch(epoch)
            if averaged is not None:
                averaged.lerp_(stack.values, 1 - settings.decay(epoch))
        stack.write_back(averaged)

    def _epoch(self, epoch: int) -> None:
        settings, lessons = self._settings, self._lessons
        rngs = [lesson.streams.generator("epoch", epoch) for lesson in lessons]
        count = len(lessons[0].images)
        orders = [torch.randperm(count, generator=rng) for rng in rngs]
        for batches in zip(*(order.split(settings.batch_size) for order in orders), strict=True):
            images = [lesson.images[own] for lesson, own in zip(lessons, batches, strict=True)]
            targets = [of[own] for of, own in zip(self._targets, batches, strict=True)]
            if settings.augment:
                images = self._augmented(images, rngs)
            for i, rng in enumerate(rngs):
                mixed = settings.mix(images[i], targets[i], rng)
                if mixed is not None:
                    images[i] = mixed.images
                    targets[i] = targets[i].lerp(mixed.other_labels, 1 - mixed.share)
            self._stack.differentiate(torch.stack(images), torch.stack(targets), self._temperature)
            self._step(settings.rate(epoch))

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
