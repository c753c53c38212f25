"""Pictures and labels to the parts of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hpd.data.classes import names_without, plain_name, shown_names
from hpd.data.layouts.scanning import shown
from hpd.data.listing import NO_TEST, Entry, Listing, Part, Wanted
from hpd.errors import DataError
from hpd.rng import Streams

ByClass = Sequence[Sequence[Entry]]
"""Pictures of each class, in the order of the labels."""


@dataclass(frozen=True)
class Labelled:
    """Pictures with labels, as a file holds them: in any order, of all classes.

    Args:
        entries: the pictures [N].
        labels: index of the class of each [N].
    """

    entries: Sequence[Entry]
    labels: Sequence[int]

    def of(self, classes: Sequence[int]) -> list[list[Entry]]:
        """Return the pictures of some classes, in the order of these."""
        own: dict[int, list[Entry]] = {label: [] for label in classes}
        for entry, label in zip(self.entries, self.labels, strict=True):
            if label in own:
                own[label].append(entry)
        return [own[label] for label in classes]


def listing_of(
    where: str,
    classes: Sequence[str],
    train: ByClass,
    test: ByClass | None,
    *,
    wanted: Wanted,
    notes: Sequence[str] = (),
) -> Listing:
    """Return a listing of the classes that are wanted.

    Args:
        where: the folder or file.
        classes: their names, in the order of the labels.
        train: their pictures in the training part.
        test: those in the test part; None: a share of `train` is kept for it.
        wanted: what is wanted.
        notes: what the user should know.

    Raises:
        DataError: if there are not two classes, or one has too few pictures.
    """
    if len(classes) < 2:
        raise DataError(
            f"{shown(where)} has too few classes",
            got=shown_names(classes) or "none",
            expected=">= 2",
        )
    if test is None:
        pairs = [
            split_class(name, own, wanted.test_fraction)
            for name, own in zip(classes, train, strict=True)
        ]
        train, test = [a for a, _ in pairs], [b for _, b in pairs]
    for part, own in (("training", train), ("test", test)):
        empty = [name for name, entries in zip(classes, own, strict=True) if not entries]
        if empty:
            raise DataError(
                f"the {part} part of {shown(where)} has no image of {shown_names(empty)}"
            )
    names = tuple(plain_name(name) for name in classes)
    return Listing(where, names, _part(train), _part(test), tuple(notes))


def listing_of_labelled(
    where: str,
    classes: Sequence[str],
    train: Labelled,
    test: Labelled | None,
    *,
    wanted: Wanted,
    notes: Sequence[str] = (),
) -> Listing:
    """Return a listing of what a file holds; see `listing_of`.

    Names of which there is no picture are left out, unless they are asked for.
    """
    names = unequal_names(classes, where)
    chosen = wanted.choose(names)
    if wanted.classes is None:
        seen = {*train.labels, *(test.labels if test else ())}
        unseen = [names[label] for label in chosen if label not in seen]
        chosen = [label for label in chosen if label in seen]
        notes = [*notes, f"no picture is of class {shown_names(unseen)}"] if unseen else notes
    return listing_of(
        where,
        [names[label] for label in chosen],
        train.of(chosen),
        test.of(chosen) if test else None,
        wanted=wanted,
        notes=[*notes, *([] if test else [NO_TEST])],
    )


def split_class(
    name: str, entries: Sequence[Entry], test_fraction: float
) -> tuple[list[Entry], list[Entry]]:
    """Split the pictures of a class: training, test; the same at every call.

    What a class keeps for the test depends on its name and its number of pictures alone.

    Raises:
        DataError: if there is a single picture.
    """
    if len(entries) < 2:
        raise DataError(
            f"class {name!r} has too few images",
            got=len(entries),
            expected="at least 2, to keep one for the test",
        )
    rng = Streams(0).generator("folder split", plain_name(name))
    order = torch.randperm(len(entries), generator=rng).tolist()
    count = min(max(1, round(test_fraction * len(entries))), len(entries) - 1)
    train, test = ([entries[i] for i in sorted(own)] for own in (order[count:], order[:count]))
    return train, test


def unequal_names(names: Sequence[str], where: str) -> list[str]:
    """Return class names in Unicode's composed form, checked to be different and to be text.

    Raises:
        DataError: naming the first that is not.
    """
    known: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"a class name in {shown(where)} is not UTF-8", got=ascii(name)
            ) from None
        plain = plain_name(name)
        if plain in known:
            raise DataError(
                f"two classes in {shown(where)} have the same name",
                got=f"{known[plain]!a} and {name!a}",
                fix="They look alike; rename one.",
            )
        known[plain] = name
    return list(known)


def check_same_classes(
    train: Sequence[str], test: Sequence[str], train_where: str, test_where: str
) -> None:
    """Check that two parts have the same classes, by name.

    Raises:
        DataError: naming those that one has and the other has not.
    """
    pairs = (("no", names_without(train, test)), ("also", names_without(test, train)))
    differs = [f"{word} {shown_names(names)}" for word, names in pairs if names]
    if differs:
        raise DataError(
            f"{shown(test_where)} has other classes than {shown(train_where)}",
            got="; ".join(differs),
            expected="the same classes in both",
        )


def in_order(names: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Return names sorted: by their numbers, if all are numbers.

    >>> in_order(["10", "9"]), in_order(["b", "a"])
    (['9', '10'], ['a', 'b'])
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _part(own: ByClass) -> Part:
    entries = [entry for entries in own for entry in entries]
    return Part(entries, [label for label, some in enumerate(own) for _ in some])
