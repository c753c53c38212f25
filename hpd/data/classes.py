"""What differs between two lists of class names, in a few words however many there are."""

from __future__ import annotations

from collections.abc import Sequence

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
