"""What a hierarchical memory network may hold: shapes from a budget, and the whole account."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from hpd.errors import ConfigError

# shares of the budget for all that is not an instance memory, tried in this order
_SHARES = (0.35, 0.5, 0.7, 0.9, 1.0)
_MOST_CHANNELS = 512


@dataclass(frozen=True)
class Shapes:
    """Channels of the memories, all on one grid of positions.

    Args:
        grid: (h, w), positions of every memory.
        dataset: channels of the one dataset memory.
        of_class: channels of each class memory.
        instance: channels of each instance memory.
        extractor: channels that an extractor makes of the dataset memory, by a 1x1 convolution.
    """

    grid: tuple[int, int]
    dataset: int
    of_class: int
    instance: int
    extractor: int

    @property
    def positions(self) -> int:
        """Number of positions of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def code(self) -> int:
        """Channels that the decoder sees: extracted, class and instance, side by side."""
        return self.extractor + self.of_class + self.instance

    @property
    def extractor_floats(self) -> int:
        """Weights and biases of one class's extractor."""
        return (self.dataset + 1) * self.extractor


@dataclass(frozen=True)
class Account:
    """Everything that is stored, in floats.

    ``|m_D| + K |m_C| + K n |m_I| + K |f| + |D| <= budget``, or ``K n C H W <= budget`` where the
    images themselves are kept.

    Args:
        shapes: of the memories.
        num_classes: K.
        images_per_class: n.
        decoder: floats of the decoder that are not public knowledge.
        budget: floats that may be stored.
        image_floats: of one image, if the images are kept; None: memories and networks are.
    """

    shapes: Shapes
    num_classes: int
    images_per_class: int
    decoder: int
    budget: int
    image_floats: int | None = None

    @property
    def items(self) -> dict[str, tuple[int, int]]:
        """What is stored: (how many, floats of each)."""
        k, n, s = self.num_classes, self.images_per_class, self.shapes
        if self.image_floats is not None:
            return {"images": (k * n, self.image_floats)}
        return {
            "dataset memory": (1, s.dataset * s.positions),
            "class memories": (k, s.of_class * s.positions),
            "instance memories": (k * n, s.instance * s.positions),
            "extractors": (k, s.extractor_floats),
            "decoder": (1, self.decoder),
        }

    @property
    def total(self) -> int:
        """Floats that are stored."""
        return sum(count * each for count, each in self.items.values())

    @property
    def per_image(self) -> int:
        """Floats that one image less would save."""
        if self.image_floats is not None:
            return self.image_floats
        return self.shapes.instance * self.shapes.positions

    def images_within(self, budget: int) -> int:
        """Return the most images a class that the same memories and networks leave room for."""
        per_class = self.num_classes * self.per_image
        fixed = self.total - per_class * self.images_per_class
        return max(budget - fixed, 0) // per_class

    def as_json(self) -> dict[str, object]:
        """Return the account with a line for each item, the total and what is left over."""
        lines = [
            {"item": item, "count": count, "floats_each": each, "floats": count * each}
            for item, (count, each) in self.items.items()
        ]
        return {
            "lines": lines,
            "total": self.total,
            "budget": self.budget,
            "left_over": self.budget - self.total,
            "images_per_class": self.images_per_class,
        }


@dataclass(frozen=True)
class Wanted:
    """What the user fixed; None: to be chosen by the budget.

    Args:
        images_per_class: n.
        dataset: channels of the dataset memory.
        of_class: channels of a class memory.
        instance: channels of an instance memory.
        extractor: channels of an extractor.
    """

    images_per_class: int | None = None
    dataset: int | None = None
    of_class: int | None = None
    instance: int | None = None
    extractor: int | None = None


def instance_floats(class_floats: float) -> float:
    """Return the floats of an instance memory that suit a budget of `class_floats` a class.

    ``0.6 sqrt(B / K)``: with the budget grow both the number of images and what is known of each.
    No source fixes this rule: it is ours.
    """
    return 0.6 * math.sqrt(class_floats)


def plan(
    budget: int,
    num_classes: int,
    grid: tuple[int, int],
    wanted: Wanted,
    decoder_floats: Callable[[Shapes, int], int],
    *,
    widths: Sequence[int],
    image_floats: int | None = None,
) -> tuple[Account, int]:
    """Choose the shapes that a budget allows.

    Instance memories of about `instance_floats`, and the widest decoder that leaves two thirds of
    the budget to them. Where that leaves fewer than two images a class, smaller memories are
    taken, then a smaller share of them.

    Args:
        budget: floats that may be stored.
        num_classes: K.
        grid: positions of the memories.
        wanted: what is not to be chosen here.
        decoder_floats: what a decoder of some width costs.
        widths: that the decoder may have.
        image_floats: of one image, if the images are kept and all else is free.

    Returns:
        the account, and the width of the decoder.

    Raises:
        ConfigError: if nothing fits.
    """
    given = wanted.images_per_class
    for fewest, share in product((given,) if given else (2, 1), _SHARES):
        for shapes, width in _candidates(budget / num_classes, grid, wanted, widths):
            decoder = decoder_floats(shapes, width)
            bare = Account(shapes, num_classes, 0, decoder, budget, image_floats)
            room = bare.images_within(budget)
            if bare.total <= share * budget and room >= fewest:
                return replace(bare, images_per_class=given or room), width
    raise ConfigError(
        "the memories do not fit the budget",
        got=f"{budget:,} floats for {num_classes} classes of {given or 1} images or more",
        fix="Raise source.budget_images, or lower source.images_per_class, the channels of the"
        " memories or the width of the decoder.",
    )


def _candidates(
    class_floats: float, grid: tuple[int, int], wanted: Wanted, widths: Sequence[int]
) -> Iterator[tuple[Shapes, int]]:
    """Give shapes and widths, the preferred first: large memories, then wide decoders."""
    target = round(instance_floats(class_floats) / (grid[0] * grid[1]))
    target = min(max(target, 1), _MOST_CHANNELS)
    for instance in [wanted.instance] if wanted.instance else range(target, 0, -1):
        for shared in dict.fromkeys((instance, max(instance // 2, 1), 1)):
            shapes = Shapes(
                grid=grid,
                dataset=wanted.dataset or shared,
                of_class=wanted.of_class or shared,
                instance=instance,
                extractor=wanted.extractor or shared,
            )
            yield from ((shapes, width) for width in sorted(widths, reverse=True))
