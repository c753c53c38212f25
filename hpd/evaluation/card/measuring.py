"""The card of a set: what students of it are worth where images are not as they should be."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor
from typing_extensions import Self

from hpd.data import Dataset, Images
from hpd.evaluation.card.attacks import evaluating, membership_advantage, pgd
from hpd.evaluation.card.corruptions import CORRUPTIONS, STRENGTHS, find_corruption
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students import Student, in_batches

# images that are corrupted or attacked at once
_CHUNK = 128


class CardSettings(Settings):
    """What a card is measured with: two cards compare only at the same settings."""

    corruptions: list[str] = Field(
        list(CORRUPTIONS), min_length=1, description="kinds, each at three strengths"
    )
    epsilon: float = Field(
        2 / 255, gt=0, le=1, description="of the attack: most that a value in [0, 1] changes"
    )
    steps: int = Field(10, ge=1, description="of the attack")
    step_size: float | None = Field(
        None, gt=0, description="of the attack; null: 2.5 epsilon / steps, enough to cross the box"
    )
    resolution: int | None = Field(
        None, ge=1, description="other side of the images in pixels; null: half as large again"
    )
    images: int | None = Field(2000, ge=1, description="test images to use; null: all of them")
    membership_images: int = Field(
        1000, ge=2, description="training images, and as many test images, to tell apart"
    )

    @field_validator("corruptions")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            find_corruption(name)
        return names

    @property
    def attack(self) -> str:
        """The attack with its strength, in words.

        >>> CardSettings().attack
        'PGD-10, L-inf 2/255'
        """
        return f"PGD-{self.steps}, L-inf {self.epsilon * 255:.4g}/255"

    def side_for(self, image_shape: tuple[int, int, int]) -> int:
        """Return the shorter side of images (C, H, W) at the other resolution.

        >>> CardSettings().side_for((3, 32, 32))
        48
        """
        return self.resolution or round(1.5 * min(image_shape[1:]))


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over students; the latter is 0 for one student."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Measure the values of students."""
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(round(statistics.fmean(values), 4), round(std, 4))


@dataclass(frozen=True)
class Card:
    """What students of one kind are worth that were trained on one set.

    Args:
        name: of the set, as in a `Row`.
        network: name of the student; see `hpd.evaluation.Row`.
        students: how many.
        clean: accuracy in percent of the test images as they are, like all accuracies.
        corruptions: accuracies at the strengths 1, 2 and 3, by kind.
        corrupted: the mean of these.
        attack: the attack in words.
        attacked: accuracy under it.
        resolution: shorter side in pixels at which other students were trained and tested.
        resized: their accuracy; None where there are none.
        membership: advantage of guesses who was trained on, in points; see
            `membership_advantage`.
    """

    name: str
    network: str
    students: int
    clean: Spread
    corruptions: Mapping[str, Sequence[Spread]]
    corrupted: Spread
    attack: str
    attacked: Spread
    resolution: int
    resized: Spread | None
    membership: Spread

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_json` gave.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__}
        spreads = ("clean", "corrupted", "attacked", "membership")
        known.update({name: Spread(**values[name]) for name in spreads})
        known["resized"] = None if values["resized"] is None else Spread(**values["resized"])
        known["corruptions"] = {
            kind: [Spread(**spread) for spread in own]
            for kind, own in dict(values["corruptions"]).items()
        }
        return cls(**known)


def measure_card(
    name: str,
    network: str,
    students: Sequence[Student],
    resized_students: Sequence[Student],
    *,
    data: Dataset,
    settings: CardSettings,
    streams: Streams,
    device: torch.device,
) -> Card:
    """Measure the card of one set.

    The same streams give every set the same test images, corruptions, starts of the attack, and
    images to tell apart. The members are training images of the data that the set was made from,
    be they in the set or not.

    Args:
        name: of the set.
        network: name of the student; see `hpd.evaluation.Row`.
        students: trained on the set, on the device.
        resized_students: trained on the set at `settings.side_for`, on the device; may be none.
        data: real images; the students' normalisation is that of its training part.
        settings: what to measure with.
        streams: of the evaluation.
        device: where to measure.
    """
    bench = _Bench(data, settings, streams.fork("card"), device)
    with evaluating([*students, *resized_students]):
        spoilt = {kind: bench.corrupted(students, kind) for kind in settings.corruptions}
        larger = bench.resized(resized_students)
        every = [scores for own in spoilt.values() for scores in own]
        return Card(
            name=name,
            network=network,
            students=len(students),
            clean=Spread.of(bench.clean(students)),
            corruptions={kind: [Spread.of(each) for each in own] for kind, own in spoilt.items()},
            corrupted=Spread.of([statistics.fmean(own) for own in zip(*every, strict=True)]),
            attack=settings.attack,
            attacked=Spread.of(bench.attacked(students)),
            resolution=settings.side_for(data.train.image_shape),
            resized=Spread.of(larger) if larger else None,
            membership=Spread.of(bench.memberships(students)),
        )


def resized(images: Tensor, side: int) -> Tensor:
    """Return images [N, C, h, w] whose shorter side is `side`: bilinear, antialiased.

    Args:
        images: [N, C, H, W], normalised or not.
        side: in pixels.

    >>> resized(torch.zeros(2, 1, 8, 16), 6).shape
    torch.Size([2, 1, 6, 12])
    """
    size = [round(length * side / min(images.shape[2:])) for length in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


class _Bench:
    """Measures students; every method gives one number for each."""

    def __init__(
        self, data: Dataset, settings: CardSettings, streams: Streams, device: torch.device
    ) -> None:
        self._data, self._settings = data, settings
        self._streams, self._device = streams, device
        order = self._order("test images", len(data.test))
        self._chosen = order if settings.images is None else order[: settings.images]

    def clean(self, students: Sequence[Student]) -> list[float]:
        """Return accuracies in percent."""
        return self._accuracies(students, lambda unit: unit)

    def corrupted(self, students: Sequence[Student], kind: str) -> list[list[float]]:
        """Return accuracies at each strength."""
        corruption = find_corruption(kind)
        found = []
        for strength in STRENGTHS:
            rng = self._streams.generator("corruption", kind, strength)
            # the numbers of all parts, one after another, come from one generator
            spoil = partial(corruption, strength=strength, rng=rng)
            found.append(self._accuracies(students, spoil))
        return found

    def resized(self, students: Sequence[Student]) -> list[float]:
        """Return accuracies at the other resolution."""
        side = self._settings.side_for(self._data.train.image_shape)
        return self._accuracies(students, lambda unit: resized(unit, side))

    def attacked(self, students: Sequence[Student]) -> list[float]:
        """Return accuracies under attack, each student's own."""
        return [self._attacked(student) for student in students]

    def memberships(self, students: Sequence[Student]) -> list[float]:
        """Return the advantages of guesses who was trained on, in points."""
        parts = (self._data.train, self._data.test)
        count = min(self._settings.membership_images, *map(len, parts))
        names = ("members", "others")
        chosen = [
            (part.at(own).seen_on(self._device), part.labels[own].to(self._device))
            for part, name in zip(parts, names, strict=True)
            for own in [self._order(name, len(part))[:count]]
        ]
        return [
            membership_advantage(*(losses(student, *own).cpu() for own in chosen))
            for student in students
        ]

    def _attacked(self, student: Student) -> float:
        settings, normalisation = self._settings, self._data.train.normalisation
        rng = self._streams.generator("attack")
        step_size = settings.step_size or 2.5 * settings.epsilon / settings.steps
        right = 0
        for unit, labels in self._parts():
            found = pgd(
                lambda x: student(normalisation.apply(x)), unit, labels,
                epsilon=settings.epsilon, steps=settings.steps, step_size=step_size, rng=rng,
            )  # fmt: skip
            right += _right(student, normalisation.apply(found), labels)
        return 100 * right / len(self._chosen)

    def _accuracies(
        self, students: Sequence[Student], change: Callable[[Tensor], Tensor]
    ) -> list[float]:
        """Return accuracies on test images that are changed while they are in [0, 1]."""
        right = [0] * len(students)
        for unit, labels in self._parts() if students else ():
            images = self._data.train.normalisation.apply(change(unit))
            right = [
                count + _right(student, images, labels)
                for count, student in zip(right, students, strict=True)
            ]
        return [100 * count / len(self._chosen) for count in right]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give test images in [0, 1] with their labels, some at a time."""
        test = self._data.test
        for own in self._chosen.split(_CHUNK):
            yield test.unit(own, self._device), test.labels[own].to(self._device)

    def _order(self, name: str, count: int) -> Tensor:
        return torch.randperm(count, generator=self._streams.generator(name))


@torch.no_grad()
def losses(student: Student, images: Images, labels: Tensor) -> Tensor:
    """Return the cross entropy [N] of each normalised image [N, C, H, W] with its label [N]."""
    return F.cross_entropy(in_batches(student, images), labels, reduction="none")


@torch.no_grad()
def _right(student: Student, images: Tensor, labels: Tensor) -> int:
    """Return how many normalised images [N, C, H, W] get their label [N]."""
    return int((student(images).argmax(dim=1) == labels).sum())
