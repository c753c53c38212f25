"""The tables of a report: accuracies, cost and provenance, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.storage import Storage

ROW_MEANINGS = {
    "distilled": "the result",
    "initial": "what the source gave before its first step",
    "random_real": "as many real images, drawn anew for each student",
    "random_real_floats": "real images of as many floats",
    "random_real_bits": "real images of as many bits",
    "prior_samples": "samples of the generator, of as many bits",
    "prior_same_count": "as many samples of the generator",
    "herding": "real images chosen by herding",
    "k_centre": "real images chosen by k-centre",
    "full": "the whole training set",
}
"""What the rows of an evaluation are."""


def row_label(name: str) -> str:
    """Return what people call a row: its name, without underscores.

    >>> row_label("random_real_floats"), row_label("distilled_5")
    ('random real floats', 'distilled 5')
    """
    return name.replace("_", " ")


def legend(names: Iterable[str]) -> str:
    """Return what some rows are, in one line; what needs no words is left out.

    >>> legend(["distilled", "initial", "full"])
    'initial: what the source gave before its first step; full: the whole training set'
    """
    shown = dict.fromkeys(name for name in names if name != "distilled")
    return "; ".join(f"{row_label(name)}: {_meaning(name)}" for name in shown if _meaning(name))


def _meaning(name: str) -> str:
    if name in ROW_MEANINGS:
        return ROW_MEANINGS[name]
    base, _, last = name.rpartition("_")
    if last in ("floats", "bits") and base in ROW_MEANINGS:
        return f"{ROW_MEANINGS[base]}, of as many {last}"
    if last.isdigit():
        return f"the first {last} a class" if base == "distilled" else f"{last} a class"
    return ""


SCORES = {"hlr": "HLR", "ior": "IOR", "lrs": "LRS", "ars": "ARS"}
"""What tables call the scores of a row."""

SCORE_LEGEND = (
    "HLR: points below the whole set, with hard labels. IOR: points above as many random real"
    " images. LRS and ARS: from 0 to 100, how well it does whatever the labels, and whatever the"
    " augmentation"
)
"""What the scores say."""


def whole_set_line(whole_sets: Sequence[Mapping[str, Any]]) -> str:
    """Return what students of known widths come to on the whole set; empty if nobody measured.

    Raises:
        KeyError, TypeError, ValueError: if these are not the `whole_sets` of an evaluation.
    """
    known = [
        f"{own['student']['kind']} of width {own['student'].get('width')} "
        f"{float(own['accuracy']):.1f} ({own['training'].get('epochs')} epochs)"
        for own in whole_sets
    ]
    return f"on the whole set: {', '.join(known)}" if known else ""


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the table of accuracies; percents of the test images."""

    name: str
    label: str
    labels: str
    network: str
    images_per_class: float
    storage: Storage
    mean: float
    std: float
    students: int
    scores: Mapping[str, float | None]

    @property
    def low(self) -> float:
        """Where the bar of the standard deviation begins."""
        return max(0.0, self.mean - self.std)

    @property
    def high(self) -> float:
        """Where it ends."""
        return min(100.0, self.mean + self.std)


def accuracy_rows(evaluation: Mapping[str, Any]) -> list[AccuracyRow]:
    """Return the rows of `evaluation.json`.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    return [
        AccuracyRow(
            name=str(row["name"]),
            label=row_label(str(row["name"])),
            labels=str(row.get("labels", "hard")),
            network=str(row["network"]),
            images_per_class=float(row["images_per_class"]),
            storage=Storage.of_row(row),
            mean=float(row["accuracy_mean"]),
            std=float(row["accuracy_std"]),
            students=len(row["seeds"]),
            scores={name: _number(row.get(name)) for name in SCORES},
        )
        for row in evaluation["rows"]
    ]


@dataclass(frozen=True)
class Likeness:
    """How close synthetic images are to real ones and to each other, None where nobody measured.

    Args:
        usual: median distance of a real image to the nearest other one.
        diversity: mean LPIPS distance between two images of a class.
    """

    usual: float | None = None
    diversity: float | None = None


def likeness(evaluation: Mapping[str, Any]) -> Likeness:
    """Return what `evaluation.json` says of it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is none.
    """
    found = evaluation.get("similarity", {})
    usual = found.get("nearest_real", {}).get("usual_rms")
    # a text says why it was left out
    perceptual = found["lpips"] if isinstance(found.get("lpips"), Mapping) else {}
    diversity = perceptual.get("diversity")
    return Likeness(
        None if usual is None else float(usual), None if diversity is None else float(diversity)
    )
