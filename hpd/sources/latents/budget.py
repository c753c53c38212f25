"""How many images of a generator a budget holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from generators import Generator
from hpd.errors import ConfigError
from hpd.sources.coded import StorageSettings
from hpd.storage import FLOAT_BITS, most_within


@dataclass(frozen=True)
class Costs:
    """What a set of latents takes.

    Args:
        numbers: of an image: its latents, or a seed.
        seeds: whether these are seeds, which no codec shortens.
        classes: of the data.
        storage: in how many bits numbers are kept.
        learnt_labels: whether labels are learnt.
        label_room: bits left free for another label of each image.
        generator: floats of each of the generator's weights, where they are of the set.
    """

    numbers: int
    seeds: bool
    classes: int
    storage: StorageSettings
    learnt_labels: bool = False
    label_room: int = 0
    generator: tuple[tuple[int, ...], ...] = ()

    @property
    def generator_floats(self) -> int:
        """Of the generator, where it is of the set."""
        return sum(math.prod(shape) for shape in self.generator)

    def floats(self, per_class: int) -> int:
        """Return the floats of so many images a class, labels beside."""
        return self.generator_floats + per_class * self.classes * self.numbers

    def bits(self, per_class: int) -> int:
        """Return the bits of so many images a class, with their labels."""
        count = per_class * self.classes
        own = count * FLOAT_BITS
        if not self.seeds:
            own = self.storage.bits_for((count, self.numbers))
        if self.learnt_labels:
            own += self.storage.of_labels.bits_for((count, self.classes))
        weights = self.storage.of_generator
        return own + count * self.label_room + sum(map(weights.bits_for, self.generator))

    def most(self, floats: int, bits: int | None) -> int:
        """Return the most images a class that fit, by bits where these are given."""

        def fits(per_class: int) -> bool:
            if bits is not None:
                return self.bits(per_class) <= bits
            return self.floats(per_class) <= floats

        return most_within(fits, floats if bits is None else bits)


def images_within(costs: Costs, floats: int, bits: int | None, wanted: int | None) -> int:
    """Return the images to give in each class.

    Args:
        costs: of the set.
        floats: of the budget.
        bits: of the budget, in place of floats.
        wanted: how many are asked for; None: all that fit.

    Raises:
        ConfigError: if so many, or a single one, do not fit.
    """
    most = costs.most(floats, bits)
    if wanted is None and most > 0:
        return most
    if wanted is not None and wanted <= most:
        return wanted
    own = costs.generator_floats
    beside = f" beside a generator of {own:,} floats" if own else ""
    raise ConfigError(
        "the latents do not fit the budget",
        got=f"{wanted or 1} images a class of {costs.numbers} numbers{beside}",
        expected=f"at most {floats:,} floats" if bits is None else f"at most {bits:,} bits",
        fix="Raise the budget, lower source.storage.bits, or take fewer images.",
    )


def weight_shapes(generator: Generator) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a generator's parameters."""
    return tuple(tuple(value.shape) for value in generator.parameters())
