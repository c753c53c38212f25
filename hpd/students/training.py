"""Training a student on labelled images: the one loop for evaluation, extractors and experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor

from hpd.augment import Mixed, OperationName, cutmix, draw_augmentation, mixup
from hpd.registry import Settings
from hpd.rng import Streams, isolated
from hpd.students.base import Student


class SGDSettings(Settings):
    """How a student takes its steps: plain SGD on batches of augmented images."""

    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(256, ge=1)
    augment: list[OperationName] = Field([], description="one of these per batch; [] for none")
    cutmix: float = Field(0.0, ge=0, le=1, description="probability of CutMix, per batch")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr

    def mix(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Mixed | None:
        """Return a mixed batch, None for one that stays as it is; draws only if it may be."""
        if self.cutmix > 0 and float(torch.rand((), generator=rng)) < self.cutmix:
            return cutmix(images, labels, rng)
        return None

    def optimizer(self, student: Student) -> torch.optim.Optimizer:
        """Return a fresh optimiser over the parameters of `student`."""
        return torch.optim.SGD(
            student.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


class TrainingSettings(SGDSettings):
    """How a student is trained. The defaults are the evaluation of DC, DSA and DM.

    Source: Zhao et al., ICLR 2021: SGD 0.01, momentum 0.9, weight decay 5e-4, the rate divided by
    ten at half of 300 epochs (1,000 with augmentation), batches of 256.
    """

    epochs: int = Field(300, ge=1)
    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="step: a tenth of the rate from half of the epochs on"
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the epochs in which the rate rises from 0"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the average of the weights, per epoch; 0: none"
    )
    temperature: float = Field(1.0, gt=0, description="of the softmax, with soft labels")
    algorithm: Literal["sgd", "adamw"] = Field(
        "sgd", description="adamw: betas of 0.9 and 0.999, without `momentum`"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="alpha of mixup, for batches that CutMix leaves alone; 0: none",
    )

    def mix(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Mixed | None:
        """Return a mixed batch, None for one that stays as it is; see `SGDSettings.mix`."""
        mixed = super().mix(images, labels, rng)
        if mixed is None and self.mixup:
            return mixup(images, labels, rng, self.mixup)
        return mixed

    def optimizer(self, student: Student) -> torch.optim.Optimizer:
        """Return a fresh optimiser over the parameters of `student`."""
        if self.algorithm == "sgd":
            return super().optimizer(student)
        return torch.optim.AdamW(student.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        rising = round(self.warmup * self.epochs)
        if epoch < rising:
            return self.lr * epoch / rising
        epoch, epochs = epoch - rising, self.epochs - rising
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return self.lr * (0.1 if epoch > epochs // 2 else 1.0)

    def decay(self, epoch: int) -> float:
        """Return the decay of the average after an epoch, counted from 0.

        The plain mean of the epochs so far until that decays as slowly as `ema`.
        """
        return min(self.ema, epoch / (epoch + 1))


def completed_from(defaults: TrainingSettings) -> BeforeValidator:
    """Return what marks a field whose options, where not given, are these and not an evaluation's.

    Written as ``Annotated[TrainingSettings, completed_from(defaults)]``.
    """

    def complete(value: Any) -> Any:
        return {**defaults.model_dump(), **value} if isinstance(value, Mapping) else value

    return BeforeValidator(complete)


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
    student, images = lesson.student, lesson.images
    optimizer = settings.optimizer(student)
    averaged = [value.detach().clone() for value in _averaged(student)] if settings.ema else []
    labels = soften(lesson.labels, settings.temperature)
    for epoch in range(settings.epochs):
        rng = lesson.streams.generator("epoch", epoch)
        train_epoch(student, optimizer, images, labels, settings, rng, epoch, settings.temperature)
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


def train_epoch(
    student: Student, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor,
    settings: SGDSettings, rng: torch.Generator, epoch: int = 0, temperature: float = 1.0,
) -> float:  # fmt: skip
    """Train `student` in place for one pass over the images, and return the mean loss.

    Args:
        student: on the device of `images`.
        optimizer: from `settings.optimizer`, over the student's parameters.
        images: normalised, [N, C, H, W].
        labels: [N], int64, or probabilities [N, K] at the temperature.
        settings: the protocol.
        rng: order of the images, augmentation and dropout.
        epoch: counted from 0; the schedule gives its rate.
        temperature: of the softmax, with soft labels.
    """
    optimizer.param_groups[0]["lr"] = settings.rate(epoch)
    student.train()
    order = torch.randperm(len(images), generator=rng).to(images.device)
    total = torch.zeros((), device=images.device)
    with _dropout(student, rng, images.device):
        for batch in order.split(settings.batch_size):
            x, y = images[batch], labels[batch]
            if settings.augment:
                x = draw_augmentation(settings.augment, rng, count=len(x))(x)
            optimizer.zero_grad()
            mixed = settings.mix(x, y, rng)
            if mixed is None:
                loss = _loss(student(x), y, temperature)
            else:
                loss = _mixed_loss(student, mixed, y, temperature)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
    return float(total) / len(images)


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
    function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 256
) -> Tensor:
    """Return what a function gives for images [N, ...], some at a time, without gradient."""
    return torch.cat([function(part) for part in images.split(batch_size)])


@torch.no_grad()
def accuracy(student: Student, images: Tensor, labels: Tensor, batch_size: int = 128) -> float:
    """Return the share of normalised images [N, C, H, W] whose label [N] is predicted."""
    student.eval()
    right = [
        (student(x).argmax(dim=1) == y).sum()
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]
    return int(sum(right)) / len(images)
