"""Training a student on labelled images: the one loop for evaluation, extractors and experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.augment import Mixed, draw_augmentation
from hpd.data import Images
from hpd.progress import tell, told
from hpd.rng import Streams, isolated
from hpd.students.base import Student
from hpd.students.schedule import SGDSettings, TrainingSettings

TRAINING = "training a network"
"""What is told of a training, by steps."""

Answer = Callable[[Tensor], Tensor]
"""Turns normalised images [N, C, H, W] into logits [N, K], without gradient."""


@dataclass(frozen=True)
class Lesson:
    """One student, and what it is to learn.

    Args:
        student: on the device of the images.
        images: normalised, [N, C, H, W].
        labels: classes [N], int64, or probabilities [N, K].
        streams: where the order of the images, the augmentation and dropout come from.
        teacher: asked for the labels of each augmented, mixed batch, in place of `labels`.
    """

    student: Student
    images: Images
    labels: Tensor
    streams: Streams
    teacher: Answer | None = None


def train_plainly(lesson: Lesson, settings: TrainingSettings) -> None:
    """Train a student in place with cross entropy by autograd.

    `train_student` comes to the same, sooner.

    Soft labels are met at a temperature T: with teacher's probabilities q and logits z the loss is
    ``T^2 KL(softmax(log(q) / T) || softmax(z / T))`` (Hinton et al., 2015, section 2), up to a
    constant.

    Args:
        lesson: the student, and what it is to learn.
        settings: the protocol.
    """
    student, optimizer = lesson.student, settings.optimizer(lesson.student)
    averaged = [value.detach().clone() for value in _averaged(student)] if settings.ema else []
    labels = soften(lesson.labels, settings.temperature)
    taught = Taught(lesson.images, labels, settings.temperature, lesson.teacher)
    for epoch in range(settings.pace(len(lesson.images)).epochs):
        rng = lesson.streams.generator("epoch", epoch)
        train_epoch(student, optimizer, taught, settings, rng, epoch)
        if averaged:
            torch._foreach_lerp_(averaged, _averaged(student), 1 - settings.decay(epoch))
    for value, average in zip(_averaged(student), averaged, strict=bool(averaged)):
        value.copy_(average)


def _averaged(student: Student) -> list[Tensor]:
    """Return what an average of the weights runs over: parameters and statistics of norms."""
    values = [*student.parameters(), *student.buffers()]
    return [value.detach() for value in values if value.is_floating_point()]


def soften(labels: Tensor, temperature: float) -> Tensor:
    """Return soft labels [N, K] at a temperature; classes [N] as they are.

    >>> soften(torch.tensor([[0.9, 0.1]]), 2.0)
    tensor([[0.7500, 0.2500]])
    """
    if labels.ndim == 1:
        return labels
    return (labels.log() / temperature).softmax(dim=1)


@dataclass(frozen=True)
class Taught:
    """What an epoch teaches.

    Args:
        images: normalised, [N, C, H, W].
        labels: [N], int64, or probabilities [N, K] at the temperature.
        temperature: of the softmax, with soft labels.
        teacher: see `Lesson`.
    """

    images: Images
    labels: Tensor
    temperature: float = 1.0
    teacher: Answer | None = None


def train_epoch(
    student: Student, optimizer: torch.optim.Optimizer, taught: Taught, settings: SGDSettings,
    rng: torch.Generator, epoch: int = 0,
) -> float:  # fmt: skip
    """Train `student` in place for one pass over the images, and return the mean loss.

    Args:
        student: on the device of the images.
        optimizer: from `settings.optimizer`, over the student's parameters.
        taught: images and labels.
        settings: the protocol.
        rng: order of the images, augmentation and dropout.
        epoch: counted from 0; the schedule gives the rates of its steps.
    """
    images, pace = taught.images, settings.pace(len(taught.images))
    student.train()
    order = torch.randperm(len(images), generator=rng).to(images.device)
    total, seen = torch.zeros((), device=images.device), 0
    with _dropout(student, rng, images.device):
        for step, batch in pace.split(order, epoch):
            optimizer.param_groups[0]["lr"] = settings.rate(step / pace.steps)
            optimizer.zero_grad()
            loss = _batch_loss(student, taught, batch, settings, rng)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
            seen += len(batch)
            tell(TRAINING, step + 1, pace.steps)
    return float(total) / seen


def _batch_loss(
    student: Student, taught: Taught, batch: Tensor, settings: SGDSettings, rng: torch.Generator
) -> Tensor:
    """Return the cross entropy of a batch that is augmented and perhaps mixed."""
    x, y = taught.images[batch], taught.labels[batch]
    if settings.augment:
        x = draw_augmentation(settings.augment, rng, count=len(x))(x)
    mixed = settings.mix(x, y, rng)
    if mixed is not None:
        x = mixed.images
    if taught.teacher is not None:
        return _loss(student(x), asked(taught.teacher, x, taught.temperature), taught.temperature)
    if mixed is None:
        return _loss(student(x), y, taught.temperature)
    return _mixed_loss(student, mixed, y, taught.temperature)


@torch.no_grad()
def asked(teacher: Answer, images: Tensor, temperature: float) -> Tensor:
    """Return what a teacher says of normalised images: probabilities [N, K] at a temperature."""
    return (teacher(images) / temperature).softmax(dim=1)


def _dropout(
    student: Student, rng: torch.Generator, device: torch.device
) -> AbstractContextManager[None]:
    """Return a block in which dropout draws numbers that `rng` decides."""
    if not student.has_dropout:
        return nullcontext()
    return isolated(int(torch.randint(1 << 62, (), generator=rng)), device)


def _loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return temperature**2 * F.cross_entropy(logits / temperature, labels)


def _mixed_loss(student: Student, mixed: Mixed, labels: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of mixed images, by the share of each label."""
    logits = student(mixed.images)
    own, other = (_loss(logits, part, temperature) for part in (labels, mixed.other_labels))
    return mixed.share * own + (1 - mixed.share) * other


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor], images: Images, batch_size: int = 256
) -> Tensor:
    """Return what a function gives for images [N, ...], some at a time, without gradient."""
    parts = told("asking a network", images.split(batch_size), _count(images, batch_size))
    return torch.cat([function(part) for part in parts])


@torch.no_grad()
def accuracy(student: Student, images: Images, labels: Tensor, batch_size: int = 128) -> float:
    """Return the share of normalised images [N, C, H, W] whose label [N] is predicted."""
    student.eval()
    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    right = [
        (student(x).argmax(dim=1) == y).sum()
        for x, y in told("testing a network", pairs, _count(images, batch_size))
    ]
    return int(sum(right)) / len(images)


def _count(images: Images, batch_size: int) -> int:
    return math.ceil(len(images) / batch_size)
