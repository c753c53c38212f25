"""What must be kept to have a set again, in three numbers that are never added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

FLOAT_BITS = 32
"""Of a number that is kept as float32."""
PIXEL_BITS = 8
"""Of a value of an image that is kept as a picture: real images, and whatever a PNG holds."""


@dataclass(frozen=True)
class Amount:
    """How much is kept of one kind.

    Args:
        floats: numbers, however many bits each takes: what the field counts.
        bits: of all of them together.

    >>> Amount.of(10) + Amount.of(5, PIXEL_BITS)
    Amount(floats=15, bits=360)
    """

    floats: int = 0
    bits: int = 0

    @classmethod
    def of(cls, floats: int, bits_each: int = FLOAT_BITS) -> Amount:
        """Return so many numbers of as many bits each."""
        return cls(floats, floats * bits_each)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.floats + other.floats, self.bits + other.bits)


@dataclass(frozen=True)
class Storage:
    """What a set keeps.

    Args:
        images: pixels, or the latents and networks that they are made of.
        labels: soft labels, or the teacher that must be asked; nothing for classes, which the
            order of the images tells.
        generator: the pretrained generator without which the images cannot be had again; nothing
            where the images themselves are kept.
    """

    images: Amount
    labels: Amount = Amount()
    generator: Amount = Amount()

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return the three amounts by name."""
        return asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Storage:
        """Read what `as_json` returned.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        parts = {name: values[name] for name in ("images", "labels", "generator")}
        return cls(**{n: Amount(int(p["floats"]), int(p["bits"])) for n, p in parts.items()})

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Storage:
        """Read it from a row of `evaluation.json`; earlier versions wrote one number of floats.

        Raises:
            KeyError, TypeError, ValueError: if it is not there.
        """
        if "storage" in row:
            return cls.read(row["storage"])
        return cls(Amount.of(int(row["stored_floats"])))


def most_within(fits: Callable[[int], bool], limit: int) -> int:
    """Return the greatest count that fits, from 0 to a limit.

    Args:
        fits: whether a count does; where one does not, no greater one may.
        limit: the greatest that is asked of.

    >>> most_within(lambda count: 7 * count <= 50, 50)
    7
    """
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
