"""How a student takes its steps: rates, batches, and how long a training is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor
from typing_extensions import Self

from hpd.augment import Mixed, OperationName, cutmix, mixup
from hpd.errors import ConfigError
from hpd.registry import Only, Settings
from hpd.students.base import Student

# up to so many images are one batch, more are batches of the second number, where none is given
_ONE_BATCH, _BATCH = 100, 64
LENGTHS = ("epochs", "steps")
"""Two ways to say how long a training is: of two that are given the later one counts."""
# who gives one of them gives all of it
_LENGTH = (*LENGTHS, "min_steps")


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

    lr: float = Field(0.01, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of all weights")
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

    momentum: Annotated[float, Only("algorithm", "sgd")] = Field(
        0.9, ge=0, lt=1, description="of SGD"
    )
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
    drops: Annotated[list[float], Only("schedule", "step")] = Field(
        [0.5], description="shares of the steps after which schedule=step lowers the rate"
    )
    drop_factor: Annotated[float, Only("schedule", "step")] = Field(
        0.1, gt=0, lt=1, description="what it is multiplied by, each time"
    )
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
                fix="Give `epochs`, with `min_steps` or without, or else `steps` alone.",
            )
        if not all(0 < drop < 1 for drop in self.drops):
            raise ConfigError(
                "drops are shares of the steps", got=self.drops, expected="above 0 and below 1"
            )
        return self

    @classmethod
    def applicable(cls, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return of `defaults` what does something beside the options that are given.

        A length that is given replaces theirs, in whatever it is counted.
        """
        return super().applicable(without_length(defaults, given), given)

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

    A length that is given replaces that of the defaults, in whatever it is counted; a default that
    does nothing beside what is given is left out.

    >>> completed({"epochs": 300, "min_steps": 1000, "lr": 0.1}, {"steps": 50})
    {'lr': 0.1, 'steps': 50}
    >>> completed({"drops": [0.3], "lr": 0.1}, {"schedule": "cosine"})
    {'lr': 0.1, 'schedule': 'cosine'}
    """
    return {**TrainingSettings.applicable(defaults, given), **given}


def without_length(options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a training without their length, if another is given."""
    replaced = any(given.get(key) is not None for key in LENGTHS)
    return {key: value for key, value in options.items() if not replaced or key not in _LENGTH}


def without_soft_labels(
    temperature: object, option: str = "temperature", because: str = ""
) -> ConfigError:
    """Return the error of a temperature where a training has hard labels.

    Args:
        temperature: what was given.
        option: its dotted name; see `ConfigError`, as for `because`.
        because: the option on account of which labels are hard.
    """
    return ConfigError(
        "temperature does nothing with hard labels",
        got=temperature,
        fix="Leave it out.",
        option=option,
        because=because,
    )


def _hard(training: TrainingSettings) -> TrainingSettings:
    if training.temperature != 1.0:
        raise without_soft_labels(training.temperature)
    return training


HardTraining = Annotated[TrainingSettings, AfterValidator(_hard)]
"""A training on labels that are classes."""
