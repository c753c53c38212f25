"""The table of an evaluation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hpd.errors import ConfigError, nearest
from hpd.evaluation.contenders import is_random
from hpd.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from hpd.showing import as_html, count_text, never_fails, table_html
from hpd.storage import Storage


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: ``distilled``, ``distilled_N`` (its first N of each class), ``initial`` (the source
            before its first step), ``random_real``, ``herding``, ``k_centre`` (as many images),
            ``..._floats`` and ``..._bits`` (as many floats or bits, where that is another number
            of images), ``random_real_N`` (N of each class), ``prior_samples`` (samples of the
            source's generator, as many as the floats of the set are), ``prior_same_count`` or
            ``full`` (the whole training set).
        network: kind of student, with what tells it apart where there are several of the kind:
            ``convnet width 8``.
        images_per_class: mean number of images in a class.
        storage: what the set keeps: images or latents, labels, generator.
        accuracy_mean: percent of the test images, mean over students.
        accuracy_std: sample standard deviation over students, in points.
        seeds: seed of each student.
        accuracies: percent, of each student.
        labels: ``hard``; ``soft``, a teacher's probabilities, one an image; ``stored``, those that
            the set brings along; ``online``, a teacher asked for each batch.
        lr: learning rate at the start of the schedule.
        augment: operations that students were trained with.
        hlr: hard label recovery, in points; see `hpd.evaluation.scores`. None, as of the others,
            where a set that it needs was not trained on.
        ior: improvement over random, in points.
        lrs: label robust score, 0 to 100.
        ars: augmentation robust score, 0 to 100.
    """

    name: str
    network: str
    images_per_class: float
    storage: Storage
    accuracy_mean: float
    accuracy_std: float
    seeds: list[int]
    accuracies: list[float] = field(default_factory=list)
    labels: str = "hard"
    lr: float = 0.0
    augment: list[str] = field(default_factory=list)
    hlr: float | None = None
    ior: float | None = None
    lrs: float | None = None
    ars: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Row:
        """Read a row of `evaluation.json`.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        row = cls(**{**values, "storage": Storage.of_row(values)})
        numbers = [row.images_per_class, row.accuracy_mean, row.accuracy_std, row.lr]
        numbers += [*row.accuracies, *(s for s in row.scores if s is not None)]
        texts = [row.name, row.network, row.labels, *row.augment]
        whole = all(isinstance(seed, int) for seed in row.seeds)
        finite = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        if not whole or not finite or not all(isinstance(text, str) for text in texts):
            raise ValueError("a row has numbers or names that are none")
        return row

    @property
    def scores(self) -> tuple[float | None, ...]:
        """HLR, IOR, LRS and ARS."""
        return self.hlr, self.ior, self.lrs, self.ars


@dataclass(frozen=True)
class Evaluation:
    """A table of accuracies.

    Args:
        rows: the table.
        references: what the scores of the rows rest on besides: the same sets with hard labels,
            without augmentation, and random real images at other counts.
        similarity: how close the distilled images are to each other and to real ones.
        about: what made the numbers: settings, versions, seed, seconds.
        name: of the record that it is among the evaluations of a run; empty for none.
    """

    rows: list[Row]
    references: list[Row] = field(default_factory=list)
    similarity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)
    name: str = field(default="", compare=False)

    def __repr__(self) -> str:
        shown = [f"{row.name} {_accuracy(row)}" for row in self.rows[:4]]
        more = ", ..." if len(self.rows) > len(shown) else ""
        name = f"{self.name!r}: " if self.name else ""
        return f"Evaluation({name}{', '.join(shown)}{more})"

    @never_fails
    def _repr_html_(self) -> str:
        return as_html(self.name or "Evaluation", self.table_html())

    def table_html(self) -> str:
        """Return the table as HTML."""
        heading = ["trained on", "student", "a class", "accuracy %", "floats of the images"]
        rows = [
            [row.name.replace("_", " "), row.network, count_text(row.images_per_class),
             _accuracy(row), f"{row.storage.images.floats:,}"]
            for row in self.rows
        ]  # fmt: skip
        return table_html(heading, rows)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Evaluation:
        """Read a record of `evaluation.json`.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        own = ("format", "rows", "references", "across_architectures", "similarity", "name")
        return cls(
            [Row.read(row) for row in record["rows"]],
            [Row.read(row) for row in record.get("references", [])],
            dict(record.get("similarity", {})),
            {key: value for key, value in record.items() if key not in own},
            str(record.get("name", "")),
        )

    def row(self, name: str, network: str | None = None) -> Row:
        """Return the row of a set (for one student, if there are several).

        Args:
            name: as tables show it, ``"random real"``, or with underscores.
            network: its name in the rows; None: the first.

        Raises:
            ConfigError: if there is none, with those that there are.
        """
        wanted = str(name).replace(" ", "_")
        found = [r for r in self.rows if r.name == wanted]
        if not found:
            names = list(dict.fromkeys(r.name for r in self.rows))
            raise ConfigError(f"no row {name!r}", fix=nearest(wanted, names))
        own = [r for r in found if network in (None, r.network)]
        if not own:
            kinds = " or ".join(r.network for r in found)
            raise ConfigError(f"no student {network!r} in the row", expected=kinds)
        return own[0]

    @property
    def across_architectures(self) -> dict[str, float]:
        """The mean accuracy of each set over all architectures but the first, by name.

        Empty if there is one architecture only.
        """
        first = self.rows[0].network if self.rows else ""
        others: dict[str, list[float]] = {}
        for row in self.rows:
            if row.network != first:
                others.setdefault(row.name, []).append(row.accuracy_mean)
        return {name: round(statistics.fmean(values), 4) for name, values in others.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the record that `evaluation.json` holds of it."""
        named = {"name": self.name} if self.name else {}
        return {
            **named,
            "rows": [asdict(row) for row in self.rows],
            "references": [asdict(row) for row in self.references],
            "across_architectures": self.across_architectures,
            "similarity": dict(self.similarity),
            **self.about,
        }


# below so many test images one of them is more than half a point
_FEW = 200
# what stands beside a set: chance, and the generator as it is
_BESIDE = (
    ("random_real", "random_real_floats", "random_real_bits"),
    ("prior_samples", "prior_same_count"),
)


def _accuracy(row: Row) -> str:
    deviation = f" \u00b1 {row.accuracy_std:.1f}" if len(row.seeds) > 1 else ""
    return f"{row.accuracy_mean:.1f}{deviation}"


def remarks(rows: Sequence[Row], test_images: int) -> list[str]:
    """Return what readers of the rows should know, a line each.

    That is whether random real images, or samples of the prior, teach a kind of student more than
    the set (a mean two standard errors above its own) or as much (above, but by less; a single
    student has no deviation, and is taken at its word); and what one test image is worth, where
    they are few.

    Args:
        rows: the table.
        test_images: how many students were tested on.
    """
    found = [line for kind in _BESIDE for row in rows for line in _lost(row, rows, kind)]
    if 0 < test_images < _FEW:
        found.append(f"{test_images} test images: each is {100 / test_images:.1f} points")
    return found


def _lost(row: Row, rows: Sequence[Row], kind: Sequence[str]) -> list[str]:
    """Return a line if a row of this kind is above a distilled one."""
    others = [other for other in rows if other.network == row.network and other.name in kind]
    best = max(others, key=lambda other: other.accuracy_mean, default=None)
    if row.name != "distilled" or best is None or best.accuracy_mean <= row.accuracy_mean:
        return []
    error = math.hypot(*(one.accuracy_std / len(one.seeds) ** 0.5 for one in (best, row)))
    several = min(len(best.seeds), len(row.seeds)) > 1
    ahead = not several or best.accuracy_mean - row.accuracy_mean > 2 * error
    name, count = best.name.replace("_", " "), count_text(best.images_per_class)
    return [
        f"{name} ({count} a class) teach a {row.network} {'more than' if ahead else 'as much as'}"
        f" the distilled images: {_accuracy(best)} % against {_accuracy(row)} %"
    ]


def scored(rows: Sequence[Row], references: Sequence[Row], whole: Mapping[str, float]) -> list[Row]:
    """Return rows with their scores, as far as what these need was measured.

    Args:
        rows: the table.
        references: what else was measured.
        whole: accuracy on the whole training set by name of the student, for those without a row
            ``full``.
    """
    measured = [*rows, *references]
    return [row if row.name == "full" else _scored(row, measured, whole) for row in rows]


def _scored(row: Row, measured: Sequence[Row], whole: Mapping[str, float]) -> Row:
    mine = [r for r in measured if r.network == row.network]
    full = next((r.accuracy_mean for r in mine if r.name == "full"), whole.get(row.network))
    own = [r for r in mine if r.name == row.name]
    hard = next((r for r in own if r.labels == "hard" and r.augment == row.augment), None)
    random = _random_beside(row, mine)
    other = next((r for r in own if r.labels == row.labels and r.augment != row.augment), None)
    ior = None if random is None else improvement_over_random(row.accuracy_mean, random)
    hlr = lrs = ars = None
    if full is not None and hard is not None:
        hlr = hard_label_recovery(full, hard.accuracy_mean)
    if hlr is not None and ior is not None:
        lrs = label_robust_score(hlr, ior)
    beside = None if other is None else _random_beside(other, mine)
    if other is not None and ior is not None and beside is not None:
        ars = augmentation_robust_score(
            *_augmented_first(row, ior, improvement_over_random(other.accuracy_mean, beside))
        )
    return replace(row, hlr=_rounded(hlr), ior=_rounded(ior), lrs=_rounded(lrs), ars=_rounded(ars))


def _random_beside(row: Row, measured: Sequence[Row]) -> float | None:
    """Return the accuracy of as many random real images, trained on and labelled alike."""
    # those that a set stores come from a teacher, as do those that one gives an image
    kind = "soft" if row.labels == "stored" else row.labels
    return next(
        (
            r.accuracy_mean
            for r in measured
            if is_random(r.name)
            and (r.images_per_class, r.augment) == (row.images_per_class, row.augment)
            and r.labels == kind
        ),
        None,
    )


def _augmented_first(row: Row, own: float, other: float) -> tuple[float, float]:
    return (own, other) if row.augment else (other, own)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
