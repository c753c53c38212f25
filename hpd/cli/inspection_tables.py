"""What an inspection of a data set shows in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from hpd.cli.tables import say, text_table
from hpd.data.inspection import Cost, Inspection, Named, Repeats
from hpd.data.pictures.reading import shown_path
from hpd.machine.memory import as_text
from hpd.showing import roughly

# classes that are listed one by one; of more the first and last of them
_ALL_CLASSES, _END_CLASSES = 20, 5
_MOST_KINDS = 5
_SHOWN_BYTES = 1_000_000


def show(about: Inspection, console: Console) -> None:
    """Print what an inspection found: tables of classes and facts, then what is wrong."""
    parts = " and ".join(f"{sum(own):,} {part}" for part, own in about.counts.items())
    say(console, f"{shown_path(about.where)}: {about.kind}, {len(about.classes)} classes, {parts}")
    for note in about.notes:
        say(console, note)
    if about.sample is not None:
        say(
            console,
            f"looked at {about.looked_at:,} of {about.total:,} pictures, at most {about.sample} "
            "of each class and part: all that follows is said of these",
        )
    console.print(text_table(["class", *about.counts], _class_rows(about), left=1))
    console.print(text_table(["", "pictures"], _facts(about), left=2))
    if about.broken.count:
        _name(console, "broken", about.broken)
    for what, named in about.odd.items():
        _name(console, what, named)
    if about.several_frames.count:
        _name(console, "with several frames: the first is taken", about.several_frames)
    for where, repeats in about.repeats.items():
        _show_repeats(console, where, repeats)
    for sentence in about.advice:
        say(console, f"-> {sentence}")


def _class_rows(about: Inspection) -> list[list[str]]:
    """Return classes with their counts: all, or the first and last, and the extremes."""
    columns = list(about.counts.values())

    def row(label: int, before: str = "") -> list[str]:
        name = before + shown_path(about.classes[label])
        return [name, *(f"{own[label]:,}" for own in columns)]

    count = len(about.classes)
    if count <= _ALL_CLASSES:
        return [row(label) for label in range(count)]
    sizes = [sum(own) for own in zip(*columns, strict=True)]
    fewest, most = (pick(range(count), key=sizes.__getitem__) for pick in (min, max))
    extremes = [row(fewest, "fewest: "), row(most, "most: ")] if min(sizes) < max(sizes) else []
    return [
        *(row(label) for label in range(_END_CLASSES)),
        [f"{count - 2 * _END_CLASSES} more", *("" for _ in columns)],
        *(row(label) for label in range(count - _END_CLASSES, count)),
        *extremes,
    ]


def _facts(about: Inspection) -> list[list[str]]:
    rows = [
        ["size", _counted(about.sizes)],
        ["format", _counted(about.formats)],
        ["mode", _counted(about.modes)],
    ]
    if len(about.sizes) > 1:
        rows.insert(1, ["smallest, largest", f"{about.smallest}, {about.largest}"])
    if about.not_square:
        rows.append(["not square", f"{about.not_square:,}"])
    if about.shape is None:
        rows.append(["images", "none yet: sizes differ" if len(about.sizes) > 1 else "none"])
    else:
        channels, height, width = about.shape
        rows.append(["images", f"{width}x{height}, {channels} channel{'s' * (channels > 1)}"])
    if about.mean is not None and about.std is not None:
        rows.append(["mean, std", f"{_numbers(about.mean)}, {_numbers(about.std)}"])
    if about.cost is not None:
        rows.append(["cost", _cost(about.cost)])
    return rows


def _counted(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:_MOST_KINDS]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _cost(cost: Cost) -> str:
    large = cost.size_bytes is not None and cost.size_bytes >= _SHOWN_BYTES
    size = f", {as_text(cost.size_bytes)}" if large and cost.size_bytes else ""
    if cost.stored:
        return f"none: the images are in the cache{size}"
    where = "once, then kept in the cache" if cost.kept else "at every start, in memory"
    time = "less than a second" if cost.seconds < 1 else f"about {roughly(cost.seconds)}"
    return f"{time} {where}{size}"


def _name(console: Console, what: str, named: Named) -> None:
    say(console, f"{named.count:,} {what}")
    for name in named.names:
        say(console, f"    {name}")
    if named.count > len(named.names):
        say(console, f"    and {named.count - len(named.names):,} more")


def _show_repeats(console: Console, where: str, repeats: Repeats) -> None:
    if not repeats.count:
        return
    other = f", {repeats.other_class:,} of another class" if repeats.other_class else ""
    say(console, f"{repeats.count:,} equal {where}, pixel for pixel as a run reads them{other}")
    for first, again in repeats.pairs:
        say(console, f"    {shown_path(first)} = {shown_path(again)}")
    if repeats.count > len(repeats.pairs):
        say(console, f"    and {repeats.count - len(repeats.pairs):,} more")
