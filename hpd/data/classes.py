"""Class names: which are meant, and what differs between two lists of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

from hpd.errors import DataError

_SHOWN = 3
_LONGEST = 24


def class_changes(
    before: Sequence[str], after: Sequence[str], *, same_labels: bool = False
) -> list[str]:
    """Return what has become of classes, by name; nothing if they are the same in the same order.

    Args:
        before: their names in the order of the labels.
        after: likewise.
        same_labels: whether every image has the label that it had, so that a name at the place of
            another one stands for the same class.

    >>> class_changes(["cat", "dog"], ["ant", "dog"])
    ["classes gone: 'cat'", "classes added: 'ant'"]
    >>> class_changes(["cat", "dog"], ["ant", "dog"], same_labels=True)
    ["classes renamed: 'cat' -> 'ant'"]
    >>> class_changes(["ant", "cat", "dog"], ["ant", "dog", "cat"])
    ["classes in another order: 'cat', 'dog' -> 'dog', 'cat'"]
    """
    gone, added = names_without(before, after), names_without(after, before)
    pairs = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
    was, now = (shown_names([pair[i] for pair in pairs]) for i in (0, 1))
    if gone and added and same_labels:
        return [f"classes renamed: {was} -> {now}"]
    if gone or added:
        parts = {"gone": gone, "added": added}
        return [f"classes {what}: {shown_names(own)}" for what, own in parts.items() if own]
    return [f"classes in another order: {was} -> {now}"] if pairs else []


def names_without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the names that are not among the others, in their order."""
    known = set(others)
    return [name for name in names if name not in known]


def shown_names(names: Sequence[str]) -> str:
    """Return the first names, cut where they are long, and how many more there are.

    >>> shown_names(["cat", "dog", "ant", "bee", "fly"])
    "'cat', 'dog', 'ant' and 2 more"
    """
    cut = [n if len(n) <= _LONGEST else f"{n[:_LONGEST]}..." for n in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, cut)) + more


def plain_name(name: str) -> str:
    """Return a name as it is compared and kept: in Unicode's composed form (NFC).

    Some file systems take names apart: an e and its accent are two characters there, one here.
    """
    return unicodedata.normalize("NFC", name)


def chosen_classes(wanted: Sequence[str | int], classes: Sequence[str]) -> list[int]:
    """Return the indices of classes given by name or index, in the order given.

    Args:
        wanted: two or more different ones.
        classes: all names.

    Raises:
        DataError: for an unknown class (with the nearest name), one that is given twice, or a
            number that is the name of one class and the index of another.

    >>> chosen_classes(["dog", 0], ["cat", "dog"])
    [1, 0]
    """
    positions = {name: i for i, name in enumerate(classes)}
    numbers = {number for name in classes if (number := _as_number(name)) is not None}
    chosen = [_class_index(name, classes, positions, numbers) for name in wanted]
    if len(set(chosen)) < max(len(chosen), 2):
        raise DataError("classes must be two or more different ones", got=list(wanted))
    return chosen


def _class_index(
    wanted: str | int, classes: Sequence[str], positions: dict[str, int], numbers: set[int]
) -> int:
    if isinstance(wanted, str):
        index = positions.get(plain_name(wanted))
        if index is None:
            raise DataError(f"unknown class {wanted!r}", fix=_hint(wanted, classes))
        return index
    if not 0 <= wanted < len(classes):
        by_name = [name for name in classes if _as_number(name) == wanted]
        fix = f"Write {by_name[0]!r}, the name, as text." if by_name else _hint("", classes)
        raise DataError(f"unknown class {wanted}", fix=fix)
    # where names are numbers, a number that is not quoted may mean either
    if numbers and _as_number(classes[wanted]) != wanted:
        raise DataError(
            f"class {wanted} may be a name or an index",
            got=f"index {wanted} is the class {classes[wanted]!r}",
            expected="names in quotes, as classes here are named by numbers",
        )
    return wanted


def _as_number(name: str) -> int | None:
    """Return the number that a name is, with or without leading zeros; None for any other name."""
    return int(name) if name.isascii() and name.isdigit() else None


def _hint(name: str, classes: Sequence[str]) -> str:
    """Return a sentence with the closest name, or with some of them."""
    close = get_close_matches(name, classes, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {shown_names(classes)}."
