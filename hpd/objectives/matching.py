"""What every objective needs that matches a fresh student's response to real images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hpd.augment import OPERATION_NAMES, Augmentation, OperationName, draw_augmentation
from hpd.data import ImageSet
from hpd.device import Precision, resolve_precision
from hpd.objectives.base import ObjectiveSettings
from hpd.rng import Streams, isolated
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.convnet import ConvNetSettings
from hpd.students.response import Response
from hpd.typing import Step

# of each class, for the statistics of batch norms, as in the released DC code
_CALIBRATION_IMAGES = 16


class MatchingSettings(ObjectiveSettings):
    """Options of an objective that matches through a fresh student at each step."""

    student: Annotated[StudentSettings, STUDENTS] = Field(ConvNetSettings())
    real_batch: int = Field(256, ge=1, description="real images per class and step")
    augment: list[OperationName] = Field(
        list(OPERATION_NAMES),
        description="one of these is drawn per step and applied to both sides alike; [] for none",
    )
    compile: bool = Field(
        False,
        description="compile the student for the real images; pays in long runs on a GPU",
    )
    real_dtype: Precision = Field(
        "float32",
        description="what real images are computed in; bfloat16 needs AMX or a GPU; auto: where "
        "it is fast",
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
        self.train, self.device, self.streams = train, device, streams
        self._settings = settings
        self.response = Response(
            lambda: settings.student.make(train.image_shape, train.num_classes),
            compiled=settings.compile,
            dtype=resolve_precision(settings.real_dtype, device),
        )

    def student(self, step: Step) -> Student:
        """Return the fresh student of this step, ready to be matched through."""
        rng = self.streams.generator("student", step.stage, step.index)
        build = self._settings.student.build
        student = build(self.train.image_shape, self.train.num_classes, rng).to(self.device)
        return self.ready(student, step)

    def ready(self, student: Student, step: Step) -> Student:
        """Put a student in eval mode, its batch norms with the statistics of real images.

        So no image's gradient depends on the others of its batch, nor on dropout.
        """
        norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average over batches: here, of this one
            rng = self.streams.generator("batch norm", step.stage, step.index)
            classes = range(self.train.num_classes)
            chosen = [self.train.draw(c, _CALIBRATION_IMAGES, rng) for c in classes]
            images = self.train.normalised(torch.cat(chosen), self.device)
            student.train()
            with torch.no_grad(), isolated(self.streams.seed("dropout", step.index), self.device):
                student(images)
        return student.eval()

    def batch(self, label: int, step: Step) -> Tensor:
        """Return this step's normalised real images of one class [n, C, H, W]."""
        rng = self.streams.generator("real batch", step.stage, step.index, label)
        indices = self.train.draw(label, self._settings.real_batch, rng)
        return self.train.normalised(indices, self.device)

    def mixed_batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random normalised real images of all classes, at most `count`, and labels."""
        indices = torch.randperm(len(self.train), generator=rng)[:count]
        labels = self.train.labels[indices].to(self.device)
        return self.train.normalised(indices, self.device), labels

    def augmentation(self, step: Step, label: int = -1) -> Augmentation | None:
        """Return the augmentation of this step (of one class of it), or None for none."""
        if not self._settings.augment:
            return None
        rng = self.streams.generator("augmentation", step.stage, step.index, label)
        return draw_augmentation(self._settings.augment, rng)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1] as the students expect."""
        return self.train.normalisation.apply(images)
