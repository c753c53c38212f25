"""What a data set is made of, told before anybody spends an hour on it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from hpd.data.images import Dataset
from hpd.data.listing import PARTS, Listing, Report
from hpd.data.normalisation import Normalisation
from hpd.data.pictures.looking import Counts, Look, Shape, digest_of, look_at, pick
from hpd.data.pictures.reading import PictureOptions, shown_path

_MOST_NAMED = 10
_SMALL_PIXELS = 16
_LONG_RATIO = 4
_RESOLUTIONS = (32, 64, 128, 256)
# of the shorter sides; that many pictures may be enlarged by the resolution that is proposed
_ENLARGED_SHARE = 0.1
_LEAST_RESOLUTION = 4


@dataclass
class Named:
    """Pictures that something is true of.

    Args:
        count: how many there are.
        names: the first ten of them, with the reason where there is one.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Add one."""
        self.count += 1
        if len(self.names) < _MOST_NAMED:
            self.names.append(name)


@dataclass
class Repeats:
    """Pictures that show the same as an earlier one, pixel for pixel.

    Args:
        count: how many there are.
        other_class: how many of them have another class than that one.
        pairs: the first ten: the earlier one, and this.
    """

    count: int = 0
    other_class: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def add(self, first: Look, again: Look) -> None:
        """Add one."""
        self.count += 1
        self.other_class += first.label != again.label
        if len(self.pairs) < _MOST_NAMED:
            self.pairs.append((first.name, again.name))


@dataclass(frozen=True)
class Cost:
    """What it takes to make images of the pictures.

    Args:
        seconds: on this machine, once; from the time that the inspection took for its pictures.
        size_bytes: of the images; None where sizes differ.
        kept: whether they are kept in the cache: small sets are read at every start.
        stored: whether they are there already.
    """

    seconds: float
    size_bytes: int | None
    kept: bool
    stored: bool


@dataclass(frozen=True)
class Inspection:
    """What a data set is made of.

    Args:
        where: the folder, file or name.
        kind: of the data set, as it is registered.
        classes: their names, in the order of the labels.
        counts: number of pictures of each class, by part.
        looked_at: number of pictures that were looked at.
        sample: how many of each class and part were looked at; None: all.
        notes: how the place was understood.
        sizes: number of pictures of each size ``"32x24"``, width first, the most frequent first.
        smallest: the size with the fewest pixels.
        largest: the size with the most.
        not_square: number of pictures that are not square.
        modes: number of pictures of each mode, as Pillow calls it.
        formats: number of pictures of each format.
        several_frames: animations and documents, of which the first frame is taken.
        broken: pictures that cannot be read, with the reason: a run refuses the set.
        odd: pictures that are not what is expected of one, by what is odd about them.
        repeats: pictures that show the same, pixel for pixel as a run reads them: within the
            training part, within the test part, and of the test part within the training part.
        shape: (C, H, W) of the images; None where sizes differ.
        mean: of the training images in [0, 1], per channel; None where sizes differ.
        std: likewise.
        cost: of making images of the pictures; None where there are no pictures.
        advice: what to do, as sentences.
    """

    where: str
    kind: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    looked_at: int = 0
    sample: int | None = None
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    smallest: str | None = None
    largest: str | None = None
    not_square: int = 0
    modes: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    several_frames: Named = field(default_factory=Named)
    broken: Named = field(default_factory=Named)
    odd: Mapping[str, Named] = field(default_factory=dict)
    repeats: Mapping[str, Repeats] = field(default_factory=dict)
    shape: Shape | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cost: Cost | None = None
    advice: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Number of pictures in both parts."""
        return sum(map(sum, self.counts.values()))

    def as_json(self) -> dict[str, Any]:
        """Return the same facts for a JSON file."""
        return {"total": self.total, **asdict(self)}


def inspect_listing(
    listing: Listing,
    options: PictureOptions,
    *,
    kind: str,
    sample: int | None = None,
    kept: bool = False,
    stored: bool = False,
    report: Report = lambda done, total: None,
) -> Inspection:
    """Look at the pictures of a listing; broken ones and sizes that differ are told, not raised.

    Args:
        listing: what to look at.
        options: how a run reads the pictures.
        kind: of the data set.
        sample: how many pictures of each class and part are looked at; None: all.
        kept: whether a run keeps the images in the cache.
        stored: whether they are there already.
        report: hears how many pictures are looked at.
    """
    picked = pick(listing, sample)
    looks, counts, start = list[Look](), dict[Shape, Counts](), time.perf_counter()
    for some in look_at(picked, options, report):
        looks += some.each
        for read, values in some.counts.items():
            counts[read] = counts.get(read, 0) + values
    seconds = time.perf_counter() - start
    about = Inspection(
        listing.where, kind, listing.classes,
        {part: _per_class(getattr(listing, part).labels, len(listing.classes)) for part in PARTS},
        looked_at=len(looks), sample=sample, notes=listing.notes,
    )  # fmt: skip
    shapes = {look.shape for look in looks if look.shape is not None}
    shape = shapes.pop() if len(shapes) == 1 else None
    size = None if shape is None else about.total * int(np.prod(shape))
    scaled = seconds * about.total / max(len(looks), 1)
    about = replace(
        _with_facts(about, looks, options.resolution),
        shape=shape,
        repeats=_repeats(looks),
        cost=Cost(scaled, size, kept, stored),
    )
    if shape in counts:
        measured = Normalisation.of_histogram(torch.from_numpy(counts[shape]))
        about = replace(about, mean=measured.mean, std=measured.std)
    sides = [min(look.facts.width, look.facts.height) for look in looks if look.facts is not None]
    return replace(about, advice=tuple(_advice(about, sides)))


def inspect_images(dataset: Dataset, *, kind: str) -> Inspection:
    """Look at images that have no pictures of their own; see `inspect_listing`."""
    train, (channels, height, width) = dataset.train, dataset.train.image_shape
    looks = []
    for part in PARTS:
        images = getattr(dataset, part)
        for i, label in enumerate(images.labels.tolist()):
            pixels = images.pixels(slice(i, i + 1))[0].permute(1, 2, 0).numpy()
            plain = bool((pixels == pixels[0, 0]).all())
            shape = (channels, height, width)
            looks.append(Look(part, label, f"{part}[{i}]", None, shape, digest_of(pixels), plain))
    size = f"{width}x{height}"
    blank = Named()
    for look in looks:
        if look.blank:
            blank.add(look.name)
    about = Inspection(
        kind, kind, train.classes,
        {part: _per_class(getattr(dataset, part).labels.tolist(), train.num_classes)
         for part in PARTS},
        looked_at=len(looks), sizes={size: len(looks)}, smallest=size, largest=size,
        not_square=0 if width == height else len(looks),
        modes={"L" if channels == 1 else "RGB": len(looks)}, formats={"array": len(looks)},
        odd={"of one colour": blank} if blank.count else {},
        repeats=_repeats(looks), shape=(channels, height, width),
        mean=train.normalisation.mean, std=train.normalisation.std,
    )  # fmt: skip
    return replace(about, advice=tuple(_advice(about, [])))


def _per_class(labels: Sequence[int], classes: int) -> tuple[int, ...]:
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=classes)
    return tuple(counts.tolist())


def _with_facts(about: Inspection, looks: Iterable[Look], resolution: int | None) -> Inspection:
    sizes, modes, formats = Counter[tuple[int, int]](), Counter[str](), Counter[str]()
    frames, broken = Named(), Named()
    least = resolution or _SMALL_PIXELS
    small = f"enlarged by resolution={resolution}" if resolution else f"below {least} px"
    long, blank = f"more than {_LONG_RATIO} times as long as wide", "of one colour"
    odd = {small: Named(), long: Named(), blank: Named()}
    for look in looks:
        name = shown_path(look.name)
        if look.facts is None:
            broken.add(look.problem)
            continue
        width, height = look.facts.width, look.facts.height
        sizes[width, height] += 1
        modes[look.facts.mode] += 1
        formats[look.facts.format] += 1
        if look.facts.several_frames:
            frames.add(name)
        if min(width, height) < least:
            odd[small].add(f"{name} ({width}x{height})")
        if max(width, height) > _LONG_RATIO * min(width, height):
            odd[long].add(f"{name} ({width}x{height})")
        if look.blank:
            odd[blank].add(name)
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return replace(
        about,
        sizes={_as_text(size): count for size, count in sizes.most_common()},
        smallest=_as_text(by_area[0]) if by_area else None,
        largest=_as_text(by_area[-1]) if by_area else None,
        not_square=sum(count for (width, height), count in sizes.items() if width != height),
        modes=dict(modes.most_common()),
        formats=dict(formats.most_common()),
        several_frames=frames,
        broken=broken,
        odd={what: named for what, named in odd.items() if named.count},
    )


def _as_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _repeats(looks: Iterable[Look]) -> dict[str, Repeats]:
    """Return pictures that show the same: within each part, and of the test part in the other."""
    found = {"within train": Repeats(), "within test": Repeats(), "of test in train": Repeats()}
    first: dict[str, dict[bytes, Look]] = {part: {} for part in PARTS}
    # train comes first
    for look in looks:
        if look.digest is None:
            continue
        earlier = first[look.part].setdefault(look.digest, look)
        if earlier is not look:
            found[f"within {look.part}"].add(earlier, look)
        if look.part == "test" and look.digest in first["train"]:
            found["of test in train"].add(first["train"][look.digest], look)
    return found


def _advice(about: Inspection, sides: Sequence[int]) -> list[str]:
    """Return what to do, from the gravest on."""
    advice = []
    if about.broken.count:
        advice.append(
            f"{_pictures(about.broken.count)} broken: a run refuses the set until they are "
            "replaced or removed."
        )
    if about.shape is None and len(about.sizes) > 1:
        most = int(np.quantile(sides, _ENLARGED_SHARE))
        proposed = max((r for r in _RESOLUTIONS if r <= most), default=max(most, _LEAST_RESOLUTION))
        advice.append(
            "Sizes differ: a run needs resolution=, which resizes the shorter side and crops the "
            f"centre; resolution={proposed} enlarges few or none."
        )
    elif about.shape is not None and about.shape[1] != about.shape[2]:
        advice.append("Images are not square; resolution= crops the centre.")
    both = about.repeats.get("of test in train", Repeats())
    if both.count:
        advice.append(f"{_pictures(both.count)} in both parts: accuracy on them says nothing.")
    unsure = sum(repeats.other_class for repeats in about.repeats.values())
    if unsure:
        advice.append(f"{_pictures(unsure)} the same as one of another class.")
    return advice


def _pictures(count: int) -> str:
    """Return a number of pictures as the beginning of a sentence.

    >>> _pictures(1), _pictures(2000)
    ('1 picture is', '2,000 pictures are')
    """
    return "1 picture is" if count == 1 else f"{count:,} pictures are"
