"""Training a student on labelled images: the one loop for evaluation, extractors and experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from typing_extensions import Self

from hpd.augment import Mixed, OperationName, cutmix, draw_augmentation, mixup
from hpd.errors import ConfigError
from hpd.registry import Settings
from hpd.rng import Streams, isolated
from hpd.students.base import Student

# up to so many images are one batch, more are batches of the second number, where none is given
_ONE_BATCH, _BATCH = 100, 64
# options of `TrainingSettings` that say how long it is: who gives one of the first two gives all
_LENGTH = ("epochs", "steps", "min_steps")

Answer = Callable[[Tensor], Tensor]
"""Turns normalised images [N, C, H, W] into logits [N, K], without gradient."""


@dataclass(frozen=True)
class Pace:
    """How long a training is, in batches of equal size.

    Args:
        batches: of an epoch.
        steps: in all; the last epoch ends with the last of them.
    """

    batches: int
    steps: int

    @property
    def epochs(self) -> int:
        """Number of epochs, the last one perhaps in part."""
        return math.ceil(self.steps / self.batches)

    def split(self, order: Tensor, epoch: int) -> Sequence[tuple[int, Tensor]]:
        """Return (step, its images) for the steps of an epoch.

        Args:
            order: of the images [N]. The sizes of batches differ by one image at most: the step of
                a small rest would weigh as much as that of a full batch, and undo it.
            epoch: counted from 0.
        """
        first = epoch * self.batches
        return list(enumerate(order.tensor_split(self.batches), first))[: self.steps - first]


class SGDSettings(Settings):
    """How a student takes its steps: plain SGD on batches of augmented images."""

    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int | None = Field(
        256,
        ge=1,
        description="most images of a batch; all batches are of one size, to an image; null: all"
        " up to 100 images, else 64",
    )
    augment: list[OperationName] = Field([], description="one of these per batch; [] for none")
    cutmix: float = Field(0.0, ge=0, le=1, description="probability of CutMix, per batch")

    def batches(self, count: int) -> int:
        """Return the number of batches that an epoch of `count` images has."""
        size = self.batch_size or (_ONE_BATCH if count <= _ONE_BATCH else _BATCH)
        return math.ceil(count / size)

    def pace(self, count: int) -> Pace:
        """Return how long a training on `count` images is: one epoch."""
        return Pace(self.batches(count), self.batches(count))

    def rate(self, share: float) -> float:
        """Return the learning rate after a share of the steps, in [0, 1)."""
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
    ten at half of 300 epochs (1,000 with augmentation). Ours: batches of equal size, of 64 above
    100 images, and at least 1,000 steps.
    """

    batch_size: int | None = Field(
        None,
        ge=1,
        description="most images of a batch; all batches are of one size, to an image; null: all"
        " up to 100 images, else 64",
    )
    epochs: int | None = Field(None, ge=1, description="passes over the images; this or `steps`")
    steps: int | None = Field(
        None, ge=1, description="batches in all, whatever the number of images; this or `epochs`"
    )
    min_steps: int = Field(
        0, ge=0, description="steps at least, for sets so small that their epochs make fewer"
    )
    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="step: the rate falls at each of `drops`"
    )
    drops: list[float] = Field(
        [0.5], description="shares of the steps after which schedule=step lowers the rate"
    )
    drop_factor: float = Field(0.1, gt=0, lt=1, description="what it is multiplied by, each time")
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the steps in which the rate rises from 0"
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

    @model_validator(mode="before")
    @classmethod
    def _fill_in_length(cls, values: Any) -> Any:
        """Take the default length where none is given."""
        if isinstance(values, Mapping) and all(values.get(k) is None for k in ("epochs", "steps")):
            return {"min_steps": 1000, **values, "epochs": 300}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and (self.epochs is not None or self.min_steps):
            raise ConfigError(
                "a training has a length in epochs or in steps",
                got=f"steps {self.steps}, epochs {self.epochs}, min_steps {self.min_steps}",
                fix="Leave out `steps`, or `epochs` and `min_steps`.",
            )
        if not all(0 < drop < 1 for drop in self.drops):
            raise ConfigError(
                "drops are shares of the steps", got=self.drops, expected="above 0 and below 1"
            )
        return self

    def pace(self, count: int) -> Pace:
        """Return how long a training on `count` images is."""
        batches = self.batches(count)
        return Pace(batches, self.steps or max((self.epochs or 0) * batches, self.min_steps))

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

    def rate(self, share: float) -> float:
        """Return the learning rate after a share of the steps, in [0, 1).

        >>> settings = TrainingSettings(lr=1.0, warmup=0.5, schedule="cosine")
        >>> [round(settings.rate(share), 3) for share in (0.0, 0.25, 0.5, 0.75)]
        [0.0, 0.5, 1.0, 0.5]
        """
        if share < self.warmup:
            return self.lr * share / self.warmup
        share = (share - self.warmup) / (1 - self.warmup)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * share))
        return self.lr * self.drop_factor ** sum(share > drop for drop in self.drops)

    def decay(self, epoch: int) -> float:
        """Return the decay of the average after an epoch, counted from 0.

        The plain mean of the epochs so far until that decays as slowly as `ema`.
        """
        return min(self.ema, epoch / (epoch + 1))


def completed(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a training: those that are given, and `defaults` for the others.

    A length that is given replaces that of the defaults, in whatever it is counted.

    >>> completed({"epochs": 300, "min_steps": 1000, "lr": 0.1}, {"steps": 50})
    {'lr': 0.1, 'steps': 50}
    """
    return {**without_length(defaults, given), **given}


def without_length(options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a training without their length, if another is given."""
    replaced = any(given.get(key) is not None for key in ("epochs", "steps"))
    return {key: value for key, value in options.items() if not replaced or key not in _LENGTH}


def completed_from(defaults: TrainingSettings) -> BeforeValidator:
    """Return what marks a field whose options, where not given, are these and not an evaluation's.

    Written as ``Annotated[TrainingSettings, completed_from(defaults)]``.
    """

    def complete(value: Any) -> Any:
        return completed(defaults.model_dump(), value) if isinstance(value, Mapping) else value

    return BeforeValidator(complete)


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
    images: Tensor
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

    images: Tensor
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
