"""Gradient matching (DC, DSA, IDC): the gradients that a student would train with.

Sources: Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, equations
9 and 10 (DC); Zhao and Bilen, ICML 2021, for the Siamese augmentation (DSA); Kim et al., Dataset
Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, for the squared distance and
for networks trained on real images (IDC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.objectives.bank import Bank, BankSettings
from hpd.objectives.base import OBJECTIVES
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.objectives.network import Network, NetworkSettings
from hpd.rng import Streams
from hpd.students import Student
from hpd.students.expert_record import ExpertsWanted
from hpd.typing import Matched, Objective, State, Step

Layers = Literal["weights", "convolutions", "all"]


def cosine_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return ``sum over out of (1 - <r, s> / (|r| |s| + 1e-6))``, tensors as [out, rest].

    A vector is one channel.
    """
    r, s = (g.flatten(1) if g.ndim > 1 else g[None] for g in (real, synthetic))
    cosine = (r * s).sum(dim=1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)
    return (1 - cosine).sum()


def squared_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return ``sum (r - s)^2``."""
    return (real - synthetic).square().sum()


def l1_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return ``sum |r - s|``."""
    return (real - synthetic).abs().sum()


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_distance,
    "squared": squared_distance,
    "l1": l1_distance,
}


def gradient_distance(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], distance: str = "cosine"
) -> Tensor:
    """Return the distance of two gradients, summed over parameters.

    Args:
        real: gradient of each parameter that counts.
        synthetic: the same shapes.
        distance: a key of `DISTANCES`.
    """
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([DISTANCES[distance](r, s) for r, s in pairs]).sum()


def counted(student: Student, layers: Layers) -> tuple[str, ...]:
    """Return the names of the parameters whose gradients are matched.

    Args:
        student: the network.
        layers: ``"weights"``: of convolutions and linear layers, as in DC; ``"convolutions"``: of
            convolutions alone, as in IDC; ``"all"``: biases and norms as well.
    """
    least = {"weights": 2, "convolutions": 4, "all": 0}[layers]
    return tuple(name for name, value in student.named_parameters() if value.ndim >= least)


def weight_gradient(
    student: Student, images: Tensor, labels: Tensor, names: Sequence[str]
) -> list[Tensor]:
    """Return the gradient of the mean cross entropy, to be differentiated by the images.

    Args:
        student: the network.
        images: normalised [N, C, H, W].
        labels: [N], or probabilities [N, K], which the gradient depends on, too.
        names: of the parameters.
    """
    parameters = dict(student.named_parameters())
    loss = F.cross_entropy(student(images), labels)
    return list(torch.autograd.grad(loss, [parameters[n] for n in names], create_graph=True))


@OBJECTIVES.register("gradient")
class GradientSettings(MatchingSettings):
    """Gradient matching, class by class.

    DC with an empty `augment`, DSA with all of it; IDC with ``distance: squared``,
    ``layers: convolutions``, ``augment: [color, crop, cutout]``, ``real_batch: 64`` and
    ``network: {train_on: real, momentum: 0.9, weight_decay: 5e-4, cutmix: 0.5}``.
    """

    distance: Literal["cosine", "squared", "l1"] = Field(
        "cosine", description="cosine per output channel, summed squares or summed absolutes"
    )
    layers: Layers = Field("weights", description="which parameters count")
    network: NetworkSettings = Field(
        NetworkSettings(), description="how long a network is matched through, and its training"
    )

    bank: BankSettings | None = Field(
        None,
        description="networks that real images trained beforehand, in the place of `network`; null:"
        " none",
    )

    @model_validator(mode="after")
    def _takes_one_kind_of_network(self) -> Self:
        if self.bank is None:
            return self
        for name, moot in (("network", self.network != NetworkSettings()), ("cross", self.cross)):
            if moot:
                raise ConfigError(
                    f"{name} does nothing beside a bank of networks",
                    got=name,
                    fix="Leave it out.",
                    option=name,
                    because="bank",
                )
        return self

    def experts_wanted(self, train: ImageSet) -> ExpertsWanted | None:
        """Return which networks are to be trained; see `hpd.engine.experts.MatchesExperts`."""
        return None if self.bank is None else self.bank.wanted(self.student, train)

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective; see `ObjectiveSettings.build`.

        Raises:
            HpdError: for what is wrong with the bank of networks; see `BankSettings.open`.
        """
        return GradientMatching(RealSide(train, self, device, streams), self)


class GradientMatching:
    """Distance of the gradients that real and synthetic images of a class give a student."""

    def __init__(self, real: RealSide, settings: GradientSettings) -> None:
        self._real, self._settings = real, settings
        self._network: Network | Bank = (
            Network(real, settings.network)
            if settings.bank is None
            else Bank(real, settings.bank, settings.student)
        )

    @property
    def provenance(self) -> Mapping[str, object]:
        """The networks, where they were trained beforehand."""
        return self._network.provenance

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        return self.match(images, labels, step, torch.ones_like(labels, dtype=torch.bool))

    def needs_all(self, step: Step) -> bool:
        """Return whether the network trains on the synthetic images before this step."""
        return self._settings.bank is None and self._settings.network.train_on == "synthetic"

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        student = self._network.at(images, labels, step)
        image_grad = torch.zeros_like(images)
        loss = 0.0
        for c in labels[own].unique().tolist():
            of_class = labels == c
            distance, (grad,) = self._match_class(student, (images[of_class],), c, step)
            loss += distance
            image_grad[of_class] = grad
        return Matched(loss, image_grad[own])

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities; see `MatchesTargets`."""
        student = self._network.at(images, labels, step, targets)
        grads = torch.zeros_like(images), torch.zeros_like(targets)
        loss = 0.0
        for c in labels.unique().tolist():
            of_class = labels == c
            parts = images[of_class], targets[of_class]
            distance, found = self._match_class(student, parts, c, step)
            loss += distance
            for grad, own in zip(grads, found, strict=True):
                grad[of_class] = own
        return Matched(loss, grads[0], label_grad=grads[1])

    def state(self) -> State:
        """Return clones of the network's weights and momentum."""
        return self._network.state()

    def load_state(self, state: State) -> None:
        """Restore the network."""
        self._network.load_state(state)

    def _match_class(
        self, student: Student, parts: tuple[Tensor, ...], label: int, step: Step
    ) -> tuple[float, tuple[Tensor, ...]]:
        """Return the distance of one class and its gradients.

        Args:
            student: what is matched through.
            parts: images of the class [n, C, H, W], and its labels [n, K] if there are some.
            label: the class.
            step: of the run.
        """
        batch = self._real.batch(label, step)
        leaves = tuple(part.detach().requires_grad_() for part in parts)
        synthetic = self._real.normalise(leaves[0])
        augment = self._real.augmentation(step, label)
        if augment is not None:
            batch, synthetic = augment(batch), augment(synthetic)
        names = counted(student, self._settings.layers)
        response = self._real.response(student)
        target = response.weight_gradient(student, batch, _all(label, batch), names)
        told = leaves[1] if len(leaves) > 1 else _all(label, synthetic)
        got = weight_gradient(student, synthetic, told, names)
        distance = gradient_distance(target, got, self._settings.distance)
        return float(distance.detach()), torch.autograd.grad(distance, leaves)


def _all(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
