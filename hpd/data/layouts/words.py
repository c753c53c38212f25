"""The words by which people name the parts of a data set."""

from __future__ import annotations

from collections.abc import Iterable

from hpd.data.listing import PartName

TRAIN_WORDS = ("train", "training")
TEST_WORDS = ("test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev")
"""The first of those that are there is the test part."""


def part_of(word: str) -> PartName | None:
    """Return the part that a word names, in any letter case; None if it names none.

    >>> part_of("Training"), part_of("val"), part_of("cat")
    ('train', 'test', None)
    """
    low = word.strip().lower()
    if low in TRAIN_WORDS:
        return "train"
    return "test" if low in TEST_WORDS else None


def by_preference(words: Iterable[str]) -> list[str]:
    """Return words that name test parts, the preferred one first.

    >>> by_preference(["val", "Test"])
    ['Test', 'val']
    """
    return sorted(words, key=lambda word: (TEST_WORDS.index(word.strip().lower()), word))
