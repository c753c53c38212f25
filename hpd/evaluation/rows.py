"""The table of an evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hpd.errors import ConfigError
from hpd.evaluation.contenders import is_random
from hpd.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from hpd.storage import Storage

FORMAT = 2
"""Of `evaluation.json`. Format 1 was judged by other batches and lengths of training."""


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
        network: kind of student.
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
        return cls(**{**values, "storage": Storage.of_row(values)})


@dataclass(frozen=True)
class Evaluation:
    """A table of accuracies.

    Args:
        rows: the table.
        references: what the scores of the rows rest on besides: the same sets with hard labels,
            without augmentation, and random real images at other counts.
        similarity: how close the distilled images are to each other and to real ones.
        about: what made the numbers: settings, versions, seed, seconds.
    """

    rows: list[Row]
    references: list[Row] = field(default_factory=list)
    similarity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def row(self, name: str, network: str | None = None) -> Row:
        """Return the row of a set (for one kind of student, if there are several).

        Raises:
            ConfigError: if there is none.
        """
        found = [r for r in self.rows if r.name == name and network in (None, r.network)]
        if not found:
            names = dict.fromkeys(r.name if network is None else r.network for r in self.rows)
            raise ConfigError("no such row", got=name, expected=" or ".join(names))
        return found[0]

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
        """Return what `evaluation.json` holds."""
        return {
            "format": FORMAT,
            "rows": [asdict(row) for row in self.rows],
            "references": [asdict(row) for row in self.references],
            "across_architectures": self.across_architectures,
            "similarity": dict(self.similarity),
            **self.about,
        }


def scored(rows: Sequence[Row], references: Sequence[Row], whole: Mapping[str, float]) -> list[Row]:
    """Return rows with their scores, as far as what these need was measured.

    Args:
        rows: the table.
        references: what else was measured.
        whole: accuracy on the whole training set by kind of student, for those without a row
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
