"""What students are trained on: distilled sets, and the baselines beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from generators import Prior
from hpd.artifacts import DistilledSet
from hpd.data import Dataset, Images, ImageSet
from hpd.errors import ConfigError
from hpd.evaluation.settings import EvaluationSettings, LabelKind
from hpd.rng import Streams
from hpd.storage import FLOAT_BITS, PIXEL_BITS, Amount, Storage, most_within
from hpd.students import TrainingSettings
from hpd.students.coresets import SELECTIONS, Selection


def operations(training: TrainingSettings) -> list[str]:
    """Return what images are changed by in a training."""
    mixing = {"cutmix": training.cutmix, "mixup": training.mixup}
    return [*training.augment, *(name for name, amount in mixing.items() if amount)]


Embedding = Callable[[Images], Tensor]
"""Turns normalised images [N, C, H, W] into features [N, F] on the CPU."""


@dataclass(frozen=True)
class Contender:
    """A set to train on.

    Args:
        name: of its row.
        draw: gives normalised images [N, C, H, W] and classes [N] for a student's seed; a whole
            set of real images batch by batch.
        training: how students are trained on it.
        images_per_class: mean number of images in a class.
        storage: what it keeps; of labels only those that are stored in it.
        labels: which of them students learn from.
        soft_labels: the probabilities [N, K] that are stored with the set, if any.
        twin: name of the set that has the same images, before this one; empty: none is known.
    """

    name: str
    draw: Callable[[int], tuple[Images, Tensor]]
    training: TrainingSettings
    images_per_class: float
    storage: Storage
    labels: LabelKind = "hard"
    soft_labels: Tensor | None = None
    twin: str = ""

    @property
    def key(self) -> str:
        """What tells it from others of the same name: labels and augmentation."""
        return " ".join([self.name, self.labels, *operations(self.training)])

    @property
    def learnt(self) -> str:
        """What tells it from others of which students learn something else."""
        return replace(self, name=self.twin).key if self.twin else self.key


@dataclass(frozen=True)
class Materials:
    """What contenders are made of.

    Args:
        distilled: the set to judge.
        initial: what its source gave before the first step; None: nobody knows.
        dataset: real images.
        prior: the generator behind the source; None without one.
        embed: the features by which herding and k-centre choose; asked only for these.
        streams: randomness of what is drawn.
    """

    distilled: DistilledSet
    initial: DistilledSet | None
    dataset: Dataset
    prior: Prior | None
    embed: Embedding
    streams: Streams

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.dataset.train.num_classes


def contenders(given: Materials, settings: EvaluationSettings) -> list[Contender]:
    """Return all sets of an evaluation, in the order of the table.

    Raises:
        ConfigError: if a class has fewer distilled images than one of `counts`, the soft labels
            that are to be stored are not, or there is no generator for samples of one.
    """
    small, distilled = settings.training, given.distilled
    own = of_relabelled if settings.labels == "stored" else of_set
    found = [own("distilled", distilled, small)]
    found += [own(f"distilled_{n}", first_of(distilled, n), small) for n in settings.counts]
    if given.initial is not None:
        twin = "distilled" if _alike(given.initial, distilled) else ""
        found.append(replace(of_set("initial", given.initial, small), twin=twin))
    for name in settings.baselines_of(prior=given.prior is not None):
        found += _baselines(name, given, settings)
    kind = settings.labels_of_baselines
    taught = [c if c.labels == "stored" else replace(c, labels=kind) for c in found]
    if settings.full_training is not None:
        taught.append(of_real("full", given.dataset.train, settings.full_training))
    return taught


def _alike(one: DistilledSet, other: DistilledSet) -> bool:
    """Return whether two sets have the same images, as where nothing was optimised."""
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def references(found: list[Contender], settings: EvaluationSettings) -> list[Contender]:
    """Return the same sets once more, as far as scores need them.

    With hard labels each set that is trained with others, for HLR. And for ARS each without
    augmentation, or with it where the protocol has none; of random real images only those at the
    count of another set.

    Args:
        found: from `contenders`, and from `random_of_counts`.
        settings: the protocol.
    """
    small = [c for c in found if c.name != "full"]
    counts = {c.images_per_class for c in small if not is_random(c.name)}
    matched = [c for c in small if c.images_per_class in counts]
    hard = [replace(c, labels="hard") for c in matched if c.labels != "hard"]
    return hard + [replace(c, training=settings.other_training) for c in matched]


def random_of_counts(
    found: list[Contender], train: ImageSet, settings: EvaluationSettings, streams: Streams
) -> list[Contender]:
    """Return random real images at each count of images that some set has and none of them."""
    known = {c.images_per_class for c in found if is_random(c.name) or c.name == "full"}
    kind, missing = settings.labels_of_baselines, dict.fromkeys(c.images_per_class for c in found)
    made = [
        of_random_real(f"random_real_{count:g}", int(count), train, settings.training, streams)
        for count in missing
        if count not in known and count == int(count)
    ]
    return [replace(c, labels=kind) for c in made]


def is_random(name: str) -> bool:
    """Return whether a row is of random real images."""
    return name.startswith("random_real")


def _baselines(name: str, given: Materials, settings: EvaluationSettings) -> Iterator[Contender]:
    """Yield the rows of a baseline: at the count of the set, and at what it stores."""
    distilled, small = given.distilled, settings.training
    same = max(round(distilled.images_per_class), 1)
    if name.startswith("prior"):
        if given.prior is None:
            raise ConfigError(
                f"the baseline {name!r} needs a generator with classes",
                got="a source without one",
                fix="Leave it out of evaluation.baselines.",
            )
        count = same if name == "prior_same_count" else _affordable_samples(given, settings)
        yield of_prior(name, count, given.prior, given.dataset.train, small, given.streams)
        return
    for row, count in {name: same, **_affordable(name, same, given, settings)}.items():
        if name == "random_real":
            yield of_random_real(row, count, given.dataset.train, small, given.streams)
        else:
            yield _of_coreset(row, SELECTIONS[name], count, given, small)


def _affordable(
    name: str, same: int, given: Materials, settings: EvaluationSettings
) -> dict[str, int]:
    """Return how many real images a class as many floats, and as many bits, are.

    Rounded up for what images take, so that the baseline has at least as much; labels, which may
    take little, buy whole images only.
    """
    kept, classes = given.distilled.storage, given.classes
    pixels = Amount.of(math.prod(given.dataset.train.image_shape), PIXEL_BITS)
    labels = classes if settings.labels_of_baselines == "soft" else 0
    together, each = kept.images + kept.labels, pixels + Amount.of(labels)
    counts = {
        f"{name}_{unit}": max(
            math.ceil(getattr(kept.images, unit) / classes / getattr(pixels, unit)),
            getattr(together, unit) // classes // getattr(each, unit),
        )
        for unit in ("floats", "bits")
    }
    return {row: count for row, count in counts.items() if count != same}


def _affordable_samples(given: Materials, settings: EvaluationSettings) -> int:
    """Return how many samples a class the bits of the set are; at least one.

    Each is kept as the set keeps its own numbers, and so is a label of it, where there is one.
    """
    assert given.prior is not None, "asked of a source that has one"
    prior, kept, classes = given.prior, given.distilled.storage, given.classes
    label = 0.0
    if settings.labels_of_baselines == "soft":
        own = kept.labels
        label = classes * (own.bits / own.floats if own.floats else FLOAT_BITS)
    bits = kept.images.bits + kept.labels.bits - (prior.generator_bits if prior.counted else 0)

    def fits(per_class: int) -> bool:
        count = per_class * classes
        return prior.sample_bits(count) + count * label <= bits

    count = most_within(fits, max(bits, 0) // classes)
    return max(min(count, settings.prior_limit or count), 1)


def first_of(part: DistilledSet, count: int) -> DistilledSet:
    """Return the first images of each class.

    Raises:
        ConfigError: if a class has fewer.
    """
    fewest = min(len(own) for own in part.by_class)
    if count > fewest:
        raise ConfigError(
            "counts in evaluation is not valid",
            got=count,
            expected=f"at most {fewest}, the distilled images of a class",
        )
    kept = torch.cat([own[:count] for own in part.by_class])
    # what the source stores for them is not known, but never more than their pixels
    floats = min(part.stored_floats, part.images[kept].numel())
    return part.only(kept, floats)


def of_set(name: str, part: DistilledSet, training: TrainingSettings) -> Contender:
    """Return a synthetic set with hard labels as a contender."""
    images, storage = part.normalised(), replace(part.storage, labels=Amount())
    return Contender(
        name, lambda seed: (images, part.labels), training, part.images_per_class, storage,
        soft_labels=part.soft_labels,
    )  # fmt: skip


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
    return replace(of_set(name, part, training), labels="stored", storage=part.storage)


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

    storage = _pictures(per_class * train.num_classes, train)
    return Contender(name, draw, training, float(per_class), storage)


def of_prior(
    name: str, per_class: int, prior: Prior, train: ImageSet, training: TrainingSettings,
    streams: Streams,
) -> Contender:  # fmt: skip
    """Return samples of a generator as a contender, drawn anew for each student.

    Each counts for the floats of its z, in the bits in which the prior keeps them, and the
    generator for all of its parameters.
    """

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        images, labels = prior.draw(per_class, streams.generator("prior samples", seed))
        return train.normalisation.apply(images), labels

    count = per_class * train.num_classes
    latents = Amount(count * prior.sample_floats, prior.sample_bits(count))
    generator = Amount(prior.generator_floats, prior.generator_bits)
    storage = Storage(latents, generator=generator)
    if prior.counted:
        storage = Storage(latents + generator)
    return Contender(name, draw, training, float(per_class), storage)


def _of_coreset(
    name: str, selection: Selection, per_class: int, given: Materials, training: TrainingSettings
) -> Contender:
    train = given.dataset.train
    per_class = min(per_class, *(len(own) for own in train.by_class))
    everything = train.seen_on()
    chosen = torch.cat(
        [own[selection(given.embed(everything.at(own)), per_class)] for own in train.by_class]
    )
    images, labels = train.normalised(chosen), train.labels[chosen]
    storage = _pictures(len(chosen), train)
    return Contender(name, lambda seed: (images, labels), training, float(per_class), storage)


def of_real(name: str, train: ImageSet, training: TrainingSettings) -> Contender:
    """Return all images of a real set as a contender."""
    everything = train.seen_on()
    return Contender(
        name,
        lambda seed: (everything, train.labels),
        training,
        len(train) / train.num_classes,
        _pictures(len(train), train),
    )


def _pictures(count: int, train: ImageSet) -> Storage:
    """Return what real images keep: 8 bits a value."""
    return Storage(Amount.of(count * math.prod(train.image_shape), PIXEL_BITS))
