"""Selection by what matters: the error of students trained on the set, on held-out real images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.engine.selection.base import SELECTORS, SelectorSettings
from hpd.errors import DataError
from hpd.rng import Streams
from hpd.students import STUDENTS, StudentSettings, TrainingSettings, accuracy, train_student
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import HardTraining
from hpd.typing import Objective, Selector

_TRAINING = TrainingSettings(epochs=30, batch_size=64)


@SELECTORS.register("validation")
class ValidationSettings(SelectorSettings):
    """The error of students trained briefly on the synthetic set, on held-out training images.

    The held-out images are the same for every seed: every n-th of each class, n being
    1 / `held_out`. Neither source nor objective sees them; a pretrained generator may have.
    """

    every: int = Field(50, ge=1, description="steps between scores")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="share of the training images that only scores see"
    )
    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(width=32),
        description="trained on each state, and tested on held-out images",
    )
    students: int = Field(1, ge=1, description="students; their errors are averaged")
    training: HardTraining = Field(_TRAINING, description="of students, on the synthetic set")

    def split(self, train: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Return the training images without the held-out ones, and the held-out ones.

        Raises:
            DataError: if a class has only one image.
        """
        period = round(1 / self.held_out)
        held = torch.zeros(len(train), dtype=torch.bool)
        for label, own in enumerate(train.by_class):
            if len(own) < 2:
                raise DataError(
                    f"class {train.classes[label]!r} has too few images to hold any out",
                    got=len(own),
                    expected="at least 2",
                )
            # the last of each period: of a class of fewer, the last
            held[own[period - 1 :: period] if len(own) >= period else own[-1:]] = True
        seen, kept = (train.at(part.nonzero().flatten()) for part in (~held, held))
        return seen, kept

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector; see `SelectorSettings.build`."""
        return ValidationError(self, train, device, streams)


class ValidationError:
    """The share of held-out images that students trained on the synthetic set get wrong.

    All scores are of the same initial weights, order and augmentation, so that they differ by the
    set alone.

    Args:
        settings: options.
        held: the held-out images.
        device: where to train.
        streams: randomness of the students.
    """

    def __init__(
        self, settings: ValidationSettings, held: ImageSet, device: torch.device, streams: Streams
    ) -> None:
        self._settings, self._streams, self._device = settings, streams, device
        self._shape, self._num_classes = held.image_shape, held.num_classes
        self._normalisation = held.normalisation
        self._images, self._labels = held.seen_on(device), held.labels.to(device)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Score images [N, C, H, W] in [0, 1] with labels [N]: 0 for no error, at most 1."""
        normalised, s = self._normalisation.apply(images), self._settings
        right = 0.0
        for i in range(s.students):
            own = self._streams.fork("student", i)
            fresh = s.student.build(self._shape, self._num_classes, own.generator("weights"))
            student = train_student(fresh.to(self._device), normalised, labels, s.training, own)
            right += accuracy(student, self._images, self._labels)
        return 1 - right / s.students
