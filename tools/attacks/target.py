"""What every target of an attack has: seeds, and inputs that follow from their number alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from attacks.places import Place


@dataclass(frozen=True)
class Input:
    """One input.

    Args:
        what: what it is, in a line.
        feed: gives it to hpd; returns a word for what came of it.
        content: the damaged file or text, if it is one.
        named: whether it names places to write to, which may be anywhere.
    """

    what: str
    feed: Callable[[], str]
    content: bytes = b""
    named: bool = False

    def digest(self, place: Place) -> str:
        """Return what tells inputs apart, wherever they take place."""
        said = self.what.replace(str(place.root), "PLACE").encode("utf-8", "replace")
        return hashlib.sha256(said + self.content).hexdigest()[:12]


class Target:
    """One boundary of hpd, and how it is attacked.

    Args:
        place: where files may be written.

    Attributes:
        name: on the command line, in the ledger and on the page.
        share: of the inputs of a run, against those of the other targets.
        about: what is damaged, and what it is given to.
    """

    name: ClassVar[str]
    share: ClassVar[float] = 1.0
    about: ClassVar[str]

    def __init__(self, place: Place) -> None:
        self.place = place

    def prepare(self) -> None:
        """Make the seeds, and import what they need; once, before any input."""

    def make(self, rng: random.Random) -> Input:
        """Return an input that follows from `rng` alone."""
        raise NotImplementedError

    def input(self, number: int) -> Input:
        """Return the input of a number."""
        try:
            return self.make(random.Random(f"{self.name}/{number}"))
        # a value that no tensor or file can hold: of an attack that goes on, one less
        except Exception as error:
            return Input(f"none: {type(error).__name__}: {error}"[:200], lambda: "not made")
