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
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.machine.host import Number, on_host, send
from hpd.objectives.bank import Bank, BankSettings
from hpd.objectives.base import OBJECTIVES
from hpd.objectives.classes import OfClasses, mask_of, of_classes, picked, sum_of
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.objectives.network import Network, NetworkSettings
from hpd.rng import Streams
from hpd.students import Student
from hpd.students.experts.record import ExpertsWanted
from hpd.typing import Matched, Objective, State, Step

Layers = Literal["weights", "convolutions", "all"]
# of what layers give, that two derivatives keep
_COPIES = 4


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
        """What the student computed in; the networks, where they were trained beforehand."""
        return {"student_precision": self._real.precision, **self._network.provenance}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        loss, (image_grad,) = self._match((images,), labels, step)
        return Matched(loss, image_grad)

    def needs_all(self, step: Step) -> bool:
        """Return whether the network trains on the synthetic images before this step."""
        return self._settings.bank is None and self._settings.network.train_on == "synthetic"

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        loss, (image_grad,) = self._match((images,), labels, step, own)
        if bool(on_host(own).all()):
            return Matched(loss, image_grad)
        return Matched(loss, picked(image_grad, labels, own)[0])

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities; see `MatchesTargets`."""
        loss, (image_grad, label_grad) = self._match((images, targets), labels, step)
        return Matched(loss, image_grad, label_grad=label_grad)

    def _match(
        self, given: tuple[Tensor, ...], labels: Tensor, step: Step, own: Tensor | None = None
    ) -> tuple[Number, tuple[Tensor, ...]]:
        """Return the loss, and its gradients by images and by labels that are learnt.

        Args:
            given: images of all classes [N, C, H, W], and labels [N, K] if there are some.
            labels: classes [N].
            step: of the run.
            own: which images are matched [N], bool; None: all.
        """
        real, images = self._real, given[0]
        student = self._network.at(images, labels, step, *given[1:])
        grads, losses = tuple(torch.zeros_like(one) for one in given), []
        per_class = -(-len(images) // real.train.num_classes)
        at_once = real.classes_at_once(student, per_class, _COPIES)
        for part in of_classes(labels, own, at_once):
            # batches of one size go through together
            alone = not (part.even and real.even(part.labels))
            parts = of_classes(labels, mask_of(part, labels)) if alone else [part]
            for some in parts:
                chosen = tuple(one[some.where] for one in given)
                loss, found = self._match_classes(student, chosen, some, step)
                losses.append(loss)
                for whole, grad in zip(grads, found, strict=True):
                    whole[some.where] = grad
        return sum_of(losses), grads

    def state(self) -> State:
        """Return clones of the network's weights and momentum."""
        return self._network.state()

    def load_state(self, state: State) -> None:
        """Restore the network."""
        self._network.load_state(state)

    def _match_classes(
        self, student: Student, given: tuple[Tensor, ...], part: OfClasses, step: Step
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the distance of some classes of equally many images, and its gradients.

        Args:
            student: what is matched through.
            given: their images [n, C, H, W], and their labels [n, K] if there are some.
            part: the classes.
            step: of the run.
        """
        real, count = self._real, len(part.labels)
        batch, _ = real.batches(part.labels, step)
        leaves = tuple(one.detach().requires_grad_() for one in given)
        batch, synthetic = self._augmented(batch, real.normalise(leaves[0]), part.labels, step)
        names = counted(student, self._settings.layers)
        response, traced = real.response(student), real.traced(student)
        if count == 1:
            label = part.labels[0]
            target = response.weight_gradient(student, batch, _all(label, batch), names)
            told = leaves[1] if len(leaves) > 1 else _all(label, synthetic)
            got = traced.weight_gradient(student, synthetic, told, names)
        else:
            batches, parts = (x.unflatten(0, (count, -1)) for x in (batch, synthetic))
            classes = send(torch.tensor(part.labels), batch.device)[:, None]
            target = response.weight_gradients(
                student, batches, classes.expand(-1, batches.shape[1]), names
            )
            told = classes.expand(-1, parts.shape[1])
            if len(leaves) > 1:
                told = leaves[1].unflatten(0, (count, -1))
            got = traced.weight_gradients(student, parts, told, names)
            # what is summed over channels is summed over classes and channels
            target, got = ([_channels_of(one) for one in each] for each in (target, got))
        distance = gradient_distance(target, got, self._settings.distance)
        return distance.detach(), torch.autograd.grad(distance, leaves)

    def _augmented(
        self, batch: Tensor, synthetic: Tensor, labels: Sequence[int], step: Step
    ) -> tuple[Tensor, Tensor]:
        """Return real and synthetic images of some classes, each class augmented in its own way."""
        augments = [self._real.augmentation(step, label) for label in labels]
        if augments[0] is None:
            return batch, synthetic
        count = len(labels)
        if count == 1:
            return augments[0](batch), augments[0](synthetic)
        # both sides of a class at once: half as many kernels
        parts = zip(augments, batch.tensor_split(count), synthetic.tensor_split(count), strict=True)
        changed = [augment(torch.cat([real, own])) for augment, real, own in parts if augment]
        real = len(batch) // count
        return (
            torch.cat([both[:real].detach() for both in changed]),
            torch.cat([both[real:] for both in changed]),
        )


def _channels_of(gradients: Tensor) -> Tensor:
    """Return gradients of several batches [B, out, ...] as those of one with B times the channels.

    A vector is one channel: [B, out] stays.
    """
    return gradients.flatten(0, 1) if gradients.ndim > 2 else gradients


def _all(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
