"""Selection by the distance of features from where each image speaks for its class."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.data import Images, ImageSet, Normalisation
from hpd.engine.selection.base import SELECTORS, SelectorSettings, some_of
from hpd.registry import Only
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Student,
    StudentSettings,
    TrainingSettings,
    train_student,
)
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import HardTraining
from hpd.typing import Objective, Selector

_BATCH = 128
_TRAINING = TrainingSettings(epochs=10, batch_size=64)


@SELECTORS.register("class_relevant")
class ClassRelevantSettings(SelectorSettings):
    """Class-relevant feature distance between synthetic and real images.

    Feature maps of an extractor, weighted by where each image speaks for its class and averaged
    over the images of a class, compared to those of the real training images, position by
    position.
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
    training: Annotated[HardTraining, Only("extractor", "trained")] = Field(
        _TRAINING, description="of trained extractors"
    )
    weighting: Literal["cam", "none"] = Field(
        "cam", description="cam: by the class activation map; none: all positions alike"
    )

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector, with its extractors trained; see `SelectorSettings.build`."""
        if self.images_per_class is not None:
            train = some_of(train, self.images_per_class, streams.generator("real images"))
        students = [self._extractor(train, device, streams.fork(i)) for i in range(self.networks)]
        return ClassRelevantDistance(students, train, device, weighted=self.weighting == "cam")

    def _extractor(self, train: ImageSet, device: torch.device, streams: Streams) -> Student:
        rng = streams.generator("extractor")
        student = self.student.build(train.image_shape, train.num_classes, rng).to(device)
        if self.extractor == "trained":
            labels = train.labels.to(device)
            train_student(student, train.seen_on(device), labels, self.training, streams)
        return student.eval().requires_grad_(False)


def class_relevant_features(
    student: Student, images: Tensor, labels: Tensor, *, weighted: bool = True
) -> Tensor:
    """Return ``g(x) = A(x) * f(x)`` for each image.

    Positions are kept: after instance norm a map has mean 0 and variance 1, so that the mean of
    its ReLU over positions hardly depends on the image.

    Args:
        student: f is its feature maps, A its class activation for the image's own class.
        images: normalised [N, C, H, W].
        labels: [N].
        weighted: False takes A = 1 everywhere.

    Returns:
        [N, F, h, w], without gradient.
    """
    with torch.no_grad():
        features = student.features(images)
        if weighted:
            features = features * student.class_activation(features, labels)[:, None]
        return features


def class_relevant_means(
    student: Student, images: Images, labels: Tensor, num_classes: int, *, weighted: bool = True
) -> Tensor:
    """Return the class means of `class_relevant_features`, summed up some images at a time.

    Args:
        student: on the device of the labels.
        images: normalised [N, C, H, W]; each batch is moved to the device.
        labels: [N].
        num_classes: K.
        weighted: see `class_relevant_features`.

    Returns:
        [K, F, h, w]; zero for a class without images.
    """
    sums: Tensor | float = 0.0
    for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        rows = class_relevant_features(student, part.to(own.device), own, weighted=weighted)
        if num_classes <= _BATCH:
            sums = sums + _sums_of(rows, own, num_classes)
            continue
        # most classes are not in a batch
        there, place = own.unique(return_inverse=True)
        every = rows.new_zeros(num_classes, *rows.shape[1:])
        sums = sums + every.index_copy(0, there, _sums_of(rows, place, len(there)))
    counts = labels.bincount(minlength=num_classes).clamp(min=1)
    return sums / counts[:, None, None, None]


def _sums_of(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sums over the images of each class [K, F, h, w], of rows [N, F, h, w]."""
    # a product: index_add_ adds up in another order each time on an accelerator
    member = F.one_hot(labels, num_classes).to(rows.dtype)
    return torch.einsum("nk,nfhw->kfhw", member, rows)


def distance_of_means(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return ``1/P sum over classes of || real mean - synthetic mean ||^2``, both [K, F, h, w].

    The norm is over features and the P = h w positions; divided by P, the size of a distance does
    not depend on the resolution of the maps.

    >>> float(distance_of_means(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)))
    6.0
    """
    return (real - synthetic).square().sum(dim=(0, 1)).mean()


class ClassRelevantDistance:
    """Squared distance of the class means of class-relevant features, summed over classes.

    ``1/P sum over c of || mean over real of g_c - mean over synthetic of g_c ||^2``, with
    ``g(x) = A(x) * f(x)`` at each of the P positions, averaged over the extractors. The real means
    are computed once. Defined after the abstract of H-PD (Zhong et al., CVPR 2025), which gives no
    formula.

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
        real = train.seen_on(device), train.labels.to(device)
        self._real = [self._means(student, *real) for student in students]

    def _means(self, student: Student, images: Images, labels: Tensor) -> Tensor:
        return class_relevant_means(
            student, images, labels, self._num_classes, weighted=self._weighted
        )

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Score images [N, C, H, W] in [0, 1] with labels [N]; every class must be there."""
        normalised = self._normalisation.apply(images)
        total = sum(
            float(distance_of_means(real, self._means(student, normalised, labels)))
            for student, real in zip(self._students, self._real, strict=True)
        )
        return total / len(self._students)
