"""What students are trained on: distilled sets, and the baselines beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.data import Dataset, ImageSet
from hpd.errors import ConfigError
from hpd.evaluation.coresets import SELECTIONS, Selection
from hpd.evaluation.settings import EvaluationSettings
from hpd.rng import Streams
from hpd.students import TrainingSettings

Embedding = Callable[[Tensor], Tensor]
"""Turns normalised images [N, C, H, W] into features [N, F] on the CPU."""


@dataclass(frozen=True)
class Contender:
    """A set to train on.

    Args:
        name: of its row.
        draw: gives normalised images [N, C, H, W] and labels [N] for a student's seed.
        training: how students are trained on it.
        images_per_class: mean number of images in a class.
        stored_floats: floats that it counts for.
        relabelled: whether it takes part where a teacher gives the labels.
        label_floats: floats of the soft labels that it brings along.
    """

    name: str
    draw: Callable[[int], tuple[Tensor, Tensor]]
    training: TrainingSettings
    images_per_class: float
    stored_floats: int
    relabelled: bool = True
    label_floats: int = 0


def contenders(
    distilled: DistilledSet,
    initial: DistilledSet,
    dataset: Dataset,
    settings: EvaluationSettings,
    streams: Streams,
    embed: Embedding,
) -> list[Contender]:
    """Return all sets of an evaluation, in the order of the table.

    Args:
        distilled: the set to judge.
        initial: what its source gave before the first step.
        dataset: real images.
        settings: the protocol.
        streams: randomness of the random real images.
        embed: the features by which herding and k-centre choose; asked only for these.

    Raises:
        ConfigError: if a class has fewer distilled images than one of `counts`, or the soft labels
            that are to be stored are not.
    """
    train, per_class = dataset.train, round(distilled.images_per_class)
    floats_per_class = distilled.stored_floats / train.num_classes
    # rounded up: the baseline has at least as many floats
    affordable = math.ceil(floats_per_class / train.images[0].numel())
    small = settings.training
    own = of_relabelled if settings.labels == "stored" else of_set
    found = [own("distilled", distilled, small)]
    found += [own(f"distilled_{n}", first_of(distilled, n), small) for n in settings.counts]
    found.append(of_set("initial", initial, small))
    for name in settings.baselines:
        sizes: dict[str, int] = {name: per_class}
        if affordable != per_class:
            sizes[f"{name}_floats"] = affordable
        for row, count in sizes.items():
            if name == "random_real":
                found.append(of_random_real(row, count, train, small, streams))
            else:
                found.append(_of_coreset(row, SELECTIONS[name], count, train, small, embed))
    if settings.full_training is not None:
        found.append(_of_all(train, settings.full_training))
    return found


def first_of(part: DistilledSet, count: int) -> DistilledSet:
    """Return the first images of each class.

    Raises:
        ConfigError: if a class has fewer.
    """
    own = [(part.labels == c).nonzero().flatten() for c in range(len(part.classes))]
    fewest = min(len(indices) for indices in own)
    if count > fewest:
        raise ConfigError(
            "counts in evaluation is not valid",
            got=count,
            expected=f"at most {fewest}, the distilled images of a class",
        )
    kept = torch.cat([indices[:count] for indices in own])
    # what the source stores for them is not known, but never more than their pixels
    floats = min(part.stored_floats, part.images[kept].numel())
    return part.only(kept, floats)


def of_set(name: str, part: DistilledSet, training: TrainingSettings) -> Contender:
    """Return a synthetic set as a contender."""
    images = part.normalised()
    per_class, floats = part.images_per_class, part.stored_floats
    return Contender(name, lambda seed: (images, part.labels), training, per_class, floats)


def of_relabelled(name: str, part: DistilledSet, training: TrainingSettings) -> Contender:
    """Return a synthetic set with the soft labels that are stored in it.

    Raises:
        ConfigError: if there are none.
    """
    if part.soft_labels is None:
        raise ConfigError(
            "the distilled set has no soft labels",
            got="labels 'stored'",
            expected="a run with stored ones",
            fix="Store them with `hpd relabel RUN --teacher DIR`.",
        )
    images, labels = part.normalised(), part.soft_labels
    per_class, floats = part.images_per_class, part.stored_floats
    return Contender(
        name, lambda seed: (images, labels), training, per_class, floats, False, part.label_floats
    )


def of_random_real(
    name: str, per_class: int, train: ImageSet, training: TrainingSettings, streams: Streams
) -> Contender:
    """Return random real images as a contender, drawn anew for each student.

    As many of each class as `per_class` says, or as the smallest class has.
    """
    per_class = min(per_class, *(len(own) for own in train.by_class))

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        chosen = train.draw_per_class(per_class, streams.generator("random real", seed))
        return train.normalised(chosen), train.labels[chosen]

    floats = per_class * train.num_classes * train.images[0].numel()
    return Contender(name, draw, training, float(per_class), floats)


def _of_coreset(
    name: str, selection: Selection, per_class: int, train: ImageSet,
    training: TrainingSettings, embed: Embedding,
) -> Contender:  # fmt: skip
    per_class = min(per_class, *(len(own) for own in train.by_class))
    chosen = torch.cat(
        [own[selection(embed(train.normalised(own)), per_class)] for own in train.by_class]
    )
    images, labels = train.normalised(chosen), train.labels[chosen]
    floats = images.numel()
    return Contender(name, lambda seed: (images, labels), training, float(per_class), floats)


def _of_all(train: ImageSet, training: TrainingSettings) -> Contender:
    everything = train.normalised()
    return Contender(
        "full",
        lambda seed: (everything, train.labels),
        training,
        len(train) / train.num_classes,
        train.images.numel(),
        relabelled=False,
    )
