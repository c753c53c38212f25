"""Selection by the distance of features from where each image speaks for its class."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet, Normalisation
from hpd.engine.selection.base import SELECTORS, SelectorSettings
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Student,
    StudentSettings,
    TrainingSettings,
    class_means,
    train_student,
)
from hpd.students.convnet import ConvNetSettings
from hpd.typing import Objective, Selector

_BATCH = 128


@SELECTORS.register("class_relevant")
class ClassRelevantSettings(SelectorSettings):
    """Class-relevant feature distance between synthetic and real images.

    Features of an extractor, weighted by where each image speaks for its class, averaged over
    positions and class, compared to those of the real training images.
    """

    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(width=32), description="the extractor's architecture"
    )
    images_per_class: int | None = Field(
        500, ge=1, description="real images that it trains on and compares with; null: all"
    )
    extractor: Literal["trained", "random"] = Field(
        "trained", description="trained on the real training images, or with fresh weights"
    )
    networks: int = Field(1, ge=1, description="extractors; their distances are averaged")
    training: TrainingSettings = Field(
        TrainingSettings(epochs=10, batch_size=64), description="of trained extractors"
    )
    weighting: Literal["cam", "none"] = Field(
        "cam", description="cam: by the class activation map; none: all positions alike"
    )

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector, with its extractors trained; see `SelectorSettings.build`."""
        train = self._some(train, streams)
        students = [self._extractor(train, device, streams.fork(i)) for i in range(self.networks)]
        return ClassRelevantDistance(students, train, device, weighted=self.weighting == "cam")

    def _some(self, train: ImageSet, streams: Streams) -> ImageSet:
        if self.images_per_class is None:
            return train
        rng, most = streams.generator("real images"), self.images_per_class
        chosen = torch.cat([train.draw(c, most, rng) for c in range(train.num_classes)])
        # in the order of the data, so that a limit that leaves nothing out changes nothing
        chosen = chosen.sort().values
        return replace(train, images=train.images[chosen], labels=train.labels[chosen])

    def _extractor(self, train: ImageSet, device: torch.device, streams: Streams) -> Student:
        rng = streams.generator("extractor")
        student = self.student.build(train.image_shape, train.num_classes, rng).to(device)
        if self.extractor == "trained":
            images, labels = train.normalised().to(device), train.labels.to(device)
            train_student(student, images, labels, self.training, streams)
        return student.eval().requires_grad_(False)


def class_relevant_features(
    student: Student, images: Tensor, labels: Tensor, *, weighted: bool = True
) -> Tensor:
    """Return ``g(x) = mean over positions of A(x) * f(x)`` for each image.

    Args:
        student: f is its feature maps, A its class activation for the image's own class.
        images: normalised [N, C, H, W].
        labels: [N].
        weighted: False takes A = 1 everywhere.

    Returns:
        [N, F], without gradient.
    """
    with torch.no_grad():
        features = student.features(images)
        if weighted:
            features = features * student.class_activation(features, labels)[:, None]
        return features.mean(dim=(2, 3))


class ClassRelevantDistance:
    """Squared distance of the class means of class-relevant features, summed over classes.

    ``sum over c of || mean over real of g_c - mean over synthetic of g_c ||^2``, averaged over
    the extractors. The real means are computed once. Defined after the abstract of H-PD
    (Zhong et al., CVPR 2025), which gives no formula.

    Args:
        students: frozen extractors, on the device.
        train: the real training images.
        device: where to score.
        weighted: whether features are weighted by the class activation.
    """

    def __init__(
        self, students: list[Student], train: ImageSet, device: torch.device, *, weighted: bool
    ) -> None:
        self._students, self._weighted = students, weighted
        self._normalisation: Normalisation = train.normalisation
        self._num_classes = train.num_classes
        real = train.normalised(), train.labels.to(device)
        self._real = [self._means(student, *real) for student in students]

    def _means(self, student: Student, images: Tensor, labels: Tensor) -> Tensor:
        """Return the class means [K, F] of normalised images, moved to the labels' device."""
        rows = [
            class_relevant_features(student, part.to(labels.device), own, weighted=self._weighted)
            for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
        ]
        return class_means(torch.cat(rows), labels, self._num_classes)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Score images [N, C, H, W] in [0, 1] with labels [N]; every class must be there."""
        normalised = self._normalisation.apply(images)
        total = sum(
            float((self._means(student, normalised, labels) - real).square().sum())
            for student, real in zip(self._students, self._real, strict=True)
        )
        return total / len(self._students)
