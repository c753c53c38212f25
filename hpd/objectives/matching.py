"""What every objective needs that matches a fresh student's response to real images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hpd.augment import OPERATION_NAMES, Augmentation, OperationName, draw_augmentation
from hpd.data import ImageSet
from hpd.objectives.base import ObjectiveSettings
from hpd.rng import Streams
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.convnet import ConvNetSettings
from hpd.typing import Step


class MatchingSettings(ObjectiveSettings):
    """Options of an objective that matches through a fresh student at each step."""

    student: Annotated[StudentSettings, STUDENTS] = Field(ConvNetSettings())
    real_batch: int = Field(256, ge=1, description="real images per class and step")
    augment: list[OperationName] = Field(
        list(OPERATION_NAMES),
        description="one of these is drawn per step and applied to both sides alike; [] for none",
    )


class RealSide:
    """Fresh students, real batches and augmentation, each from its own stream of the step.

    Args:
        train: the real training images.
        settings: options.
        device: where to compute.
        streams: randomness.
    """

    def __init__(
        self, train: ImageSet, settings: MatchingSettings, device: torch.device, streams: Streams
    ) -> None:
        self.train, self.device = train, device
        self._settings, self._streams = settings, streams

    def student(self, step: Step) -> Student:
        """Return the fresh student of this step."""
        rng = self._streams.generator("student", step.stage, step.index)
        build = self._settings.student.build
        return build(self.train.image_shape, self.train.num_classes, rng).to(self.device)

    def batch(self, label: int, step: Step) -> Tensor:
        """Return this step's normalised real images of one class [n, C, H, W]."""
        rng = self._streams.generator("real batch", step.stage, step.index, label)
        indices = self.train.draw(label, self._settings.real_batch, rng)
        return self.train.normalised(indices).to(self.device)

    def augmentation(self, step: Step, label: int = -1) -> Augmentation | None:
        """Return the augmentation of this step (of one class of it), or None for none."""
        if not self._settings.augment:
            return None
        rng = self._streams.generator("augmentation", step.stage, step.index, label)
        return draw_augmentation(self._settings.augment, rng)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1] as the students expect."""
        return self.train.normalisation.apply(images)
