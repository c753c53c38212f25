"""Training a student on labelled images: the one loop for evaluation, extractors and experts."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.augment import OperationName, draw_augmentation
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students.base import Student


class TrainingSettings(Settings):
    """How a student is trained. The defaults are the evaluation of DC, DSA and DM.

    Source: Zhao et al., ICLR 2021: SGD 0.01, momentum 0.9, weight decay 5e-4, the rate divided by
    ten at half of 300 epochs (1,000 with augmentation), batches of 256.
    """

    epochs: int = Field(300, ge=1)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(256, ge=1)
    schedule: Literal["step", "cosine"] = Field(
        "step", description="step: a tenth of the rate from half of the epochs on"
    )
    augment: list[OperationName] = Field([], description="one of these per batch; [] for none")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            angle = torch.pi * epoch / self.epochs
            return self.lr * 0.5 * (1 + float(torch.cos(torch.tensor(angle))))
        return self.lr * (0.1 if epoch > self.epochs // 2 else 1.0)


def train_student(
    student: Student, images: Tensor, labels: Tensor, settings: TrainingSettings, streams: Streams
) -> Student:
    """Train `student` in place with cross entropy, and return it.

    Args:
        student: on the device of `images`.
        images: normalised, [N, C, H, W].
        labels: [N], int64.
        settings: the protocol.
        streams: where the order of the images and the augmentation come from.
    """
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    student.train()
    for epoch in range(settings.epochs):
        optimizer.param_groups[0]["lr"] = settings.rate(epoch)
        rng = streams.generator("epoch", epoch)
        order = torch.randperm(len(images), generator=rng).to(images.device)
        for batch in order.split(settings.batch_size):
            x = images[batch]
            if settings.augment:
                x = draw_augmentation(settings.augment, rng, count=len(x))(x)
            optimizer.zero_grad()
            F.cross_entropy(student(x), labels[batch]).backward()
            optimizer.step()
    return student


@torch.no_grad()
def accuracy(student: Student, images: Tensor, labels: Tensor, batch_size: int = 128) -> float:
    """Return the share of normalised images [N, C, H, W] whose label [N] is predicted."""
    student.eval()
    right = [
        (student(x).argmax(dim=1) == y).sum()
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]
    return int(sum(right)) / len(images)
