"""The card of a report: accuracy by corruption as small curves, and what else was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.artifacts.report.charts import Mark
from hpd.artifacts.report.tables import row_label

# more curves in one frame are hard to tell apart
_MOST_DRAWN = 4


@dataclass(frozen=True)
class Measured:
    """Mean and standard deviation over networks; the latter None for a single one."""

    mean: float
    std: float | None

    @property
    def text(self) -> str:
        """How a table shows it."""
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} \u00b1 {self.std:.1f}"


@dataclass(frozen=True)
class CardSet:
    """One set on the card.

    Args:
        label: what people are told which set it is.
        network: name of the student; see `hpd.evaluation.Row`.
        students: how many.
        clean: accuracy in percent of images as they are, like all accuracies.
        corruptions: accuracies at growing strength, by kind.
        corrupted: the mean of these.
        attack: the attack in words.
        attacked: accuracy under it.
        resolution: the other resolution, in pixels.
        resized: accuracy there; None where nobody measured.
        membership: advantage of guesses who was trained on, in points.
    """

    label: str
    network: str
    students: int
    clean: Measured
    corruptions: Mapping[str, Sequence[Measured]]
    corrupted: Measured
    attack: str
    attacked: Measured
    resolution: int
    resized: Measured | None
    membership: Measured


@dataclass(frozen=True)
class Curve:
    """One set in a panel: its number from 1, and points in a frame of 100 x 100."""

    number: int
    points: str


@dataclass(frozen=True)
class Panel:
    """One kind of corruption: the curves, and the same in words for who cannot see them."""

    title: str
    description: str
    curves: list[Curve]
    x_ticks: list[Mark]


@dataclass(frozen=True)
class CardPicture:
    """The panels of one kind of student.

    Args:
        network: name of the student; see `hpd.evaluation.Row`.
        labels: of the sets that are drawn, in the order of their numbers.
        left_out: number of sets that are not drawn.
        panels: one for each kind of corruption.
        y_ticks: accuracies, the same in each panel.
    """

    network: str
    labels: list[str]
    left_out: int
    panels: list[Panel]
    y_ticks: list[Mark]


@dataclass(frozen=True)
class SpoiltRow:
    """One kind of corruption at one strength, as text: an accuracy for each set."""

    kind: str
    strength: int
    cells: list[str]


@dataclass(frozen=True)
class CardSection:
    """All of the card.

    Args:
        sets: that were judged.
        pictures: one for each kind of student.
        spoilt: all that the pictures show, and the deviations.
    """

    sets: list[CardSet]
    pictures: list[CardPicture]
    spoilt: list[SpoiltRow]


def card_section(evaluation: Mapping[str, Any]) -> CardSection | None:
    """Return the card of `evaluation.json`, None where it has none.

    Raises:
        KeyError, TypeError, ValueError: if it is no card.
    """
    card = evaluation.get("card")
    sets = [] if card is None else [_read(values) for values in card["sets"]]
    if not sets:
        return None
    networks = dict.fromkeys(own.network for own in sets)
    pictures = [_picture([s for s in sets if s.network == network]) for network in networks]
    return CardSection(sets, pictures, _spoilt(sets))


def _read(values: Mapping[str, Any]) -> CardSet:
    students = int(values["students"])

    def measured(spread: Mapping[str, Any]) -> Measured:
        mean, std = float(spread["mean"]), float(spread["std"])
        return Measured(mean, std if students > 1 else None)

    return CardSet(
        label=row_label(str(values["name"])),
        network=str(values["network"]),
        students=students,
        clean=measured(values["clean"]),
        corruptions={
            str(kind): [measured(spread) for spread in own]
            for kind, own in dict(values["corruptions"]).items()
        },
        corrupted=measured(values["corrupted"]),
        attack=str(values["attack"]),
        attacked=measured(values["attacked"]),
        resolution=int(values["resolution"]),
        resized=None if values["resized"] is None else measured(values["resized"]),
        membership=measured(values["membership"]),
    )


def kind_label(kind: str) -> str:
    """Return how people are told which corruption it is.

    >>> kind_label("gaussian_noise"), kind_label("jpeg")
    ('gaussian noise', 'JPEG')
    """
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ")


def _picture(sets: Sequence[CardSet]) -> CardPicture:
    drawn = sets[:_MOST_DRAWN]
    values = [m.mean for own in drawn for line in own.corruptions.values() for m in line]
    # one scale for all panels, to the next ten above the highest
    top = max(10, 10 * math.ceil(max([*values, *(own.clean.mean for own in drawn)]) / 10))
    return CardPicture(
        network=sets[0].network,
        labels=[own.label for own in drawn],
        left_out=len(sets) - len(drawn),
        panels=[_panel(kind, drawn, top) for kind in drawn[0].corruptions],
        y_ticks=[Mark(f"{value:g}", top=100 - 100 * value / top) for value in (0, top / 2, top)],
    )


def _panel(kind: str, sets: Sequence[CardSet], top: float) -> Panel:
    lines = [[own.clean.mean, *(m.mean for m in own.corruptions[kind])] for own in sets]
    last = max(1, *(len(line) - 1 for line in lines))
    words = [
        f"{own.label}: {line[0]:.1f} without, then " + ", ".join(f"{v:.1f}" for v in line[1:])
        for own, line in zip(sets, lines, strict=True)
    ]

    def drawn(line: Sequence[float]) -> str:
        points = ((100 * i / last, 100 - 100 * v / top) for i, v in enumerate(line))
        return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)

    return Panel(
        title=kind_label(kind),
        description="; ".join(words),
        curves=[Curve(number, drawn(line)) for number, line in enumerate(lines, start=1)],
        x_ticks=[Mark(str(i), left=round(100 * i / last, 2)) for i in range(last + 1)],
    )


def _spoilt(sets: Sequence[CardSet]) -> list[SpoiltRow]:
    rows = []
    for kind in sets[0].corruptions:
        lines = [own.corruptions[kind] for own in sets]
        for strength, same in enumerate(zip(*lines, strict=True), start=1):
            rows.append(SpoiltRow(kind_label(kind), strength, [own.text for own in same]))
    return rows
