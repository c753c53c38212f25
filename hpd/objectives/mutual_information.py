"""Mutual information (MIM4DD): synthetic images near real ones of their class, far from others.

An add-on to any objective. The idea is that of Shang, Yuan and Yan, MIM4DD: Mutual Information
Maximization for Dataset Distillation, NeurIPS 2023; no code of theirs was found, and what their
text leaves open is ours: layers, pooling, temperature, weights. The forms are those of van den Oord
et al., 2018 (InfoNCE), with several positives as in Khosla et al., NeurIPS 2020, and of Tian et
al., Contrastive Representation Distillation, ICLR 2020 (CRD).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.augment import OPERATION_NAMES, Augmentation, OperationName
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.machine.host import on_host, send
from hpd.objectives.base import ADD_ONS, AddOnSettings, ObjectiveSettings, Stateless
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.networks.convnet import ConvNetSettings
from hpd.typing import Matched, Objective, Step

# of more classes the joint batch has those of a step, and at least so many
_MANY_CLASSES, _LEAST_CLASSES = 100, 10


def similarities(synthetic: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Return ``s_ij = <z_i, z_j> / tau`` of features scaled to length 1: [N, M].

    Args:
        synthetic: features [N, F].
        real: features [M, F].
        temperature: tau, positive.
    """
    return F.normalize(synthetic, dim=1) @ F.normalize(real, dim=1).t() / temperature


def info_nce(scores: Tensor, positives: Tensor) -> Tensor:
    """Return ``mean_i [ -1/|P(i)| sum over j in P(i) of ( s_ij - logsumexp_j' s_ij' ) ]``.

    It lies between ``log |P|`` and what makes ``log M - loss`` a lower bound of the mutual
    information; with equal scores it is ``log M``.

    Args:
        scores: s [N, M].
        positives: whether j is in P(i) [N, M], bool; at least one for each i.
    """
    rows = scores.log_softmax(dim=1).masked_fill(~positives, 0)
    return -(rows.sum(dim=1) / positives.sum(dim=1)).mean()


def contrastive(scores: Tensor, positives: Tensor, cardinality: int) -> Tensor:
    """Return the loss of contrastive representation distillation.

    ``mean_i [ -(mean over P(i) of log h_ij) - (sum over the others of log(1 - h_ij)) ]`` with
    ``h = exp(s) / (exp(s) + N / C)``, N the number of others.

    Args:
        scores: s [N, M].
        positives: whether j is in P(i) [N, M], bool; at least one for each i, and not all.
        cardinality: C, the number of real images that the others are drawn from.

    Source: Tian et al., ICLR 2020, equations 10, 18 and 19.
    """
    negatives = (~positives).sum(dim=1, keepdim=True)
    logits = scores - (negatives / cardinality).log()
    right = F.logsigmoid(logits).masked_fill(~positives, 0).sum(dim=1) / positives.sum(dim=1)
    wrong = F.logsigmoid(-logits).masked_fill(positives, 0).sum(dim=1)
    return -(right + wrong).mean()


def information_bound(scores: Tensor, positives: Tensor) -> Tensor:
    """Return ``log M - info_nce``, in nats: at most the entropy of equally frequent classes.

    Args:
        scores: s [N, M].
        positives: see `info_nce`.
    """
    return math.log(scores.shape[1]) - info_nce(scores, positives)


@ADD_ONS.register("mutual_information")
class MutualInformationSettings(AddOnSettings):
    """A contrastive loss between feature maps of synthetic and real images, layer by layer."""

    form: Literal["infonce", "crd"] = Field("infonce", description="softmax, or sigmoid")
    layers: Literal["last", "all"] = Field(
        "last", description="the last feature maps, or those at the end of each block"
    )
    layer_weights: list[float] | None = Field(
        None, description="of each of these layers; null: 1 divided by their number"
    )
    pool: Literal["flatten", "average"] = Field(
        "flatten",
        description="feature maps as they are, or averaged over positions; instance norm leaves"
        " little in an average",
    )
    temperature: float = Field(0.1, gt=0, description="that similarities are divided by")
    student: Annotated[StudentSettings, STUDENTS] | None = Field(
        None,
        description="a fresh one per step; null: as the host's, or a ConvNet if it has none",
    )
    real_batch: int = Field(16, ge=1, description="real images of each class in the joint batch")
    augment: list[OperationName] = Field(
        list(OPERATION_NAMES),
        description="one of these is drawn per step and applied to both sides alike; [] for none",
    )

    def build(
        self, host: ObjectiveSettings, train: ImageSet, device: torch.device, streams: Streams
    ) -> Objective:
        """Return the add-on; see `AddOnSettings.build`.

        Raises:
            ConfigError: if there are not as many weights as layers.
        """
        student = self.student or getattr(host, "student", None) or ConvNetSettings()
        if self.layer_weights is not None:
            self._check_weights(student, train, len(self.layer_weights))
        matching = MatchingSettings(
            student=student, real_batch=self.real_batch, augment=self.augment
        )
        return MutualInformation(RealSide(train, matching, device, streams), self)

    def _check_weights(self, student: StudentSettings, train: ImageSet, got: int) -> None:
        layers = 1
        if self.layers == "all":
            with torch.device("meta"):
                module = student.make(train.image_shape, train.num_classes).eval()
                layers = len(module.feature_maps(torch.zeros(1, *train.image_shape)))
        if got != layers:
            raise ConfigError(
                "layer_weights of add-on 'mutual_information' do not fit the student",
                got=f"{got} weights",
                expected=f"one for each of {layers} layers",
            )


class MutualInformation(Stateless):
    """The loss of `MutualInformationSettings`, over one joint batch of real images.

    They are of all classes; where there are more than a hundred, of those of a step, and of others
    to make them ten.

    The real side has no gradient. Both sides go through the same fresh student and the same
    augmentation; the student is not the host's.

    Args:
        real: students and real images.
        settings: options.
    """

    def __init__(self, real: RealSide, settings: MutualInformationSettings) -> None:
        self._real, self._settings = real, settings

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        real, settings = self._real, self._settings
        student = real.student(step).requires_grad_(False)
        augment = real.augmentation(step)
        batch, classes = self._joint_batch(labels, step)
        with torch.no_grad():
            targets = self._features(student, batch, augment)
        leaf = images.detach().requires_grad_()
        features = self._features(student, real.normalise(leaf), augment)
        positives = labels[:, None] == classes[None]
        scores = [
            similarities(own, other, settings.temperature)
            for own, other in zip(features, targets, strict=True)
        ]
        losses = torch.stack([self._loss(each, positives) for each in scores])
        loss = (losses * send(self._weights(len(losses)).to(losses.dtype), losses.device)).sum()
        (image_grad,) = torch.autograd.grad(loss, leaf)
        bound = information_bound(scores[-1].detach(), positives)
        return Matched(loss.detach(), image_grad, {"bound": bound})

    def _joint_batch(self, labels: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Return normalised real images [M, C, H, W] of all classes, or of some, and labels [M]."""
        every = self._classes(on_host(labels), step)
        batch, counts = self._real.batches(every.tolist(), step)
        return batch, send(every.repeat_interleave(torch.tensor(counts)), labels.device)

    def _classes(self, labels: Tensor, step: Step) -> Tensor:
        """Return the classes of the joint batch, ascending: of many those of a step, and others."""
        every = torch.arange(self._real.train.num_classes)
        if len(every) <= _MANY_CLASSES:
            return every
        rng = self._real.streams.generator("joint classes", step.stage, step.index)
        order = torch.randperm(len(every), generator=rng)
        own = labels.unique()
        others = order[~torch.isin(order, own)][: max(0, _LEAST_CLASSES - len(own))]
        return torch.cat([own, others]).sort().values

    def _features(
        self, student: Student, images: Tensor, augment: Augmentation | None
    ) -> Sequence[Tensor]:
        """Return the features [n, F] of each layer, of normalised images."""
        maps = student.feature_maps(images if augment is None else augment(images))
        chosen = maps[-1:] if self._settings.layers == "last" else maps
        if self._settings.pool == "average":
            return [each.mean(dim=(2, 3)) for each in chosen]
        return [each.flatten(1) for each in chosen]

    def _loss(self, scores: Tensor, positives: Tensor) -> Tensor:
        if self._settings.form == "infonce":
            return info_nce(scores, positives)
        return contrastive(scores, positives, len(self._real.train))

    def _weights(self, layers: int) -> Tensor:
        weights = self._settings.layer_weights
        return torch.full((layers,), 1 / layers) if weights is None else torch.tensor(weights)
