"""The readings of a set that are plausible, each tried on training images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hpd.audits.labels import LabelMeaning
from hpd.audits.orders import FOUND, found_right
from hpd.audits.scoring import Beside, Probe, percent
from hpd.audits.spaces import (
    DATA,
    RANGES,
    ZCA_KINDS,
    Space,
    Views,
    are_whole_bytes,
    channels_swapped,
    contrast_of,
    looks_centred,
    share_outside,
    spectral_gap,
    spectrum_of,
)
from hpd.audits.stored import Axes, Stored, arranged, axes_of
from hpd.errors import ConfigError
from hpd.sources.multi_formation import parts_of

Channels = Literal["rgb", "bgr"]
ZcaAnswer = Literal["none", "standardised", "pixels", "per_image"]

# optimised pictures leave [0, 1], see `hpd.arrays.pictures`; those that are none, by far more
_NEAR, _MOST_OUTSIDE = 0.25, 0.15
# distilled pictures have from a third to three times the contrast of real ones
_CONTRAST = 6.0
_IMAGES_FOR_CONTRAST = 500
_FACTORS = (1, 2, 3)
_GROUND = 0.5


@dataclass(frozen=True)
class Given:
    """What the user says of a set; None: it is found out.

    Args:
        range: name of what the values mean, or ``MEAN/STD``; see `Views.space`.
        zca: kind of ZCA in whose space they are, or ``"none"``.
        axes: order of the axes of flat images.
        channels: order of the channels.
        factor: parts along each side of an image.
        class_order: ``"data"``, ``"alphabetical"``, ``"found"``, or all classes with commas.
        labels: what labels mean.
        fkd_seed: of the order of soft labels in batches.
    """

    range: str | None = None
    zca: ZcaAnswer | None = None
    axes: Axes | None = None
    channels: Channels | None = None
    factor: int | None = None
    class_order: str | None = None
    labels: LabelMeaning | None = None
    fkd_seed: int = 42

    def __post_init__(self) -> None:
        if self.range is not None and self.zca not in (None, "none"):
            raise ConfigError(
                "values in the space of ZCA have no other range", got="--range and --zca",
                fix="Leave one of them out.",
            )  # fmt: skip
        if self.factor is not None and self.factor < 1:
            raise ConfigError("the factor counts parts", got=self.factor, expected=">= 1")


@dataclass(frozen=True)
class Reading:
    """One way to read the values of a set.

    Args:
        space: what they mean.
        axes: their order.
        channels: red first, or blue.
        factor: parts along each side of an image.
    """

    space: Space
    axes: Axes = "channels first"
    channels: Channels = "rgb"
    factor: int = 1

    def answer(self, question: str) -> str:
        """Return what it says to a question."""
        return self.space.name if question == "values" else str(getattr(self, question))

    @property
    def words(self) -> str:
        """What it is, in short."""
        parts = [self.space.name]
        parts += [self.axes] if self.axes != "channels first" else []
        parts += [self.channels] if self.channels != "rgb" else []
        parts += [f"factor {self.factor}"] if self.factor > 1 else []
        return ", ".join(parts)

    def values(self, values: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return values [N, C, H, W], red first."""
        images = arranged(values, shape, self.axes)
        return channels_swapped(images) if self.channels == "bgr" else images

    def pictures(self, values: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return pictures [N factor^2, C, H, W], in [0, 1] nominally."""
        return enlarged(self.space.pictures(self.values(values, shape)), self.factor)

    def seen(self, values: Tensor, views: Views) -> Tensor:
        """Return images as students see them [N factor^2, C, H, W]."""
        train = views[self.space.view].train
        if self.space.is_whitened:
            return self.values(values, train.image_shape).float()
        return train.normalisation.apply(self.pictures(values, train.image_shape))


def enlarged(pictures: Tensor, factor: int) -> Tensor:
    """Return the parts of pictures, enlarged to the size of the whole; see `parts_of`.

    Sides that the factor does not divide are padded with grey at the right and at the bottom, as
    IDC's code does.
    """
    if factor == 1:
        return pictures
    height, width = pictures.shape[2:]
    right, below = -width % factor, -height % factor
    padded = F.pad(pictures, (0, right, 0, below), value=_GROUND)
    return parts_of(padded, factor, (height, width))


@dataclass(frozen=True)
class Tried:
    """A reading and how it fits.

    Args:
        reading: it.
        ruled_out: why its values do not look like what it says; empty: they do.
        exact: whether its pictures are whole bytes.
        contrast: that of its pictures, as a share of that of real ones.
        offset: mean of its pictures less that of real ones, in deviations of the latter.
        spectrum: how unlike that of its pictures is to that of real ones; see `spectral_gap`.
        usual: which training images are right from as many random ones, seen likewise [D, M].
        predicted: class of the set for each training image [M]; None where it was not tried.
        rights: which training images are right, by the order of the classes.
    """

    reading: Reading
    ruled_out: str = ""
    exact: bool = False
    contrast: float = 1.0
    offset: float = 0.0
    spectrum: float = 0.0
    usual: Tensor | None = None
    predicted: Tensor | None = None
    rights: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def unlikeness(self) -> float:
        """How far its pictures are from real ones in contrast, brightness and spectrum; 0: not.

        ``|log(contrast)| + |offset| + spectrum``.
        """
        return abs(math.log(max(self.contrast, 1e-12))) + abs(self.offset) + self.spectrum

    @property
    def order(self) -> str:
        """Which order of the classes has most training images right."""
        return max(self.rights, key=lambda name: percent(self.rights[name]))

    @property
    def right(self) -> Tensor:
        """Which training images are right, in that order [M]."""
        return self.rights[self.order]

    @property
    def beside(self) -> Beside:
        """What is right, beside what is from random images."""
        assert self.usual is not None, "of a reading that was tried"
        return Beside(self.right, self.usual)

    @property
    def gain(self) -> float:
        """Percent that are right, less that from as many random training images."""
        return percent(self.right) - percent(self.beside.usual)

    @property
    def score(self) -> float:
        """Percent of the training images that are right."""
        return percent(self.right)

    def as_json(self) -> dict[str, Any]:
        """Return it for `audit.json`."""
        own = self.reading
        scored: dict[str, Any] = {}
        if self.predicted is not None:
            scored = {"score": round(self.score, 2), "gain": round(self.gain, 2)}
            scored["order"] = self.order
        return {
            "values": own.space.name, "axes": own.axes, "channels": own.channels,
            "factor": own.factor, "contrast": round(self.contrast, 4),
            "offset": round(self.offset, 4), "spectrum": round(self.spectrum, 4),
            "ruled_out": self.ruled_out or None, **scored,
        }  # fmt: skip


def doubts(stored: Stored, views: Views, given: Given, asked: Sequence[Reading]) -> list[Reading]:
    """Return readings besides those that a file or the user leaves, to try what these say."""
    others = readings(replace(stored, said=None), views, replace(given, range=None, zca=None,
                      axes=None, channels=None))  # fmt: skip
    return [one for one in others if one.words not in {own.words for own in asked}]


def readings(stored: Stored, views: Views, given: Given) -> list[Reading]:
    """Return the readings that are plausible before anything is tried.

    Raises:
        ConfigError: if what the user says fits no image, or is not there to choose.
        ShapeError: if the images are not of the shape of the data.
    """
    shape = views.plain.train.image_shape
    axes = axes_of(stored.values, shape, stored.where)
    if given.axes is not None:
        axes = (given.axes,) if given.axes in axes else axes
    channels: tuple[Channels, ...] = ("rgb", "bgr") if _may_be_swapped(stored, shape) else ("rgb",)
    if given.channels is not None:
        channels = (given.channels,)
    if given.channels == "bgr" and shape[0] != 3:
        raise ConfigError("grey images have no order of channels", got="--channels bgr")
    found = itertools.product(spaces(stored, views, given), axes, channels, _factors(stored, given))
    return [
        Reading(space, own, order, factor)
        for space, own, order, factor in found
        if factor == 1 or not space.is_whitened
    ]


def _may_be_swapped(stored: Stored, shape: tuple[int, int, int]) -> bool:
    """Return whether blue may come first: in arrays of others, of which nothing says it."""
    pictures = stored.layout in ("folder", "sre2l", "webdataset", "parquet")
    return shape[0] == 3 and stored.said is None and not pictures


def _factors(stored: Stored, given: Given) -> tuple[int, ...]:
    if given.factor is not None:
        return (given.factor,)
    if stored.layout != "idc":
        return (1,)
    return tuple(dict.fromkeys((*_FACTORS, *([stored.factor] if stored.factor else []))))


def spaces(stored: Stored, views: Views, given: Given) -> list[Space]:
    """Return what the values may mean.

    Raises:
        ConfigError: for an unknown name, or images that are too large to whiten.
    """
    if given.range is not None:
        return [views.space(given.range)]
    if given.zca not in (None, "none"):
        if not views.can_whiten:
            raise ConfigError("images are too large for ZCA", got=f"--zca {given.zca}")
        return [views.space(f"zca {given.zca}")]
    if stored.said is not None:
        return [stored.said]
    if stored.values.dtype == torch.uint8:
        return [views.space("bytes")]
    names = [*RANGES, DATA, *views.own_constants()]
    # ZCA leaves what is centred about 0
    if given.zca is None and views.can_whiten and looks_centred(stored.values):
        names += [f"zca {kind}" for kind in ZCA_KINDS]
    return [views.space(name) for name in names]


def tried(
    stored: Stored,
    classes: Tensor,
    orders: Mapping[str, Tensor],
    views: Views,
    probe: Probe,
    asked: Sequence[Reading],
    rng: torch.Generator,
    *,
    is_said: bool = False,
) -> Iterator[Tried]:
    """Try readings, one after the other.

    Args:
        stored: the set.
        classes: of its images, as it counts them [N].
        orders: class of the data of each of them, by name.
        views: how students may see images.
        probe: what predicts training images.
        asked: the readings.
        rng: which images of a large set are taken.
        is_said: whether a file or the user says that it is one of these: it is tried even where its
            values look like something else.
    """
    plain = views.plain.train
    chosen = probe.some_of(classes, rng)
    values, own = stored.values[chosen], classes[chosen]
    real = plain.unit(slice(0, _IMAGES_FOR_CONTRAST))
    usual, mean, deviation = contrast_of(real), float(real.mean()), float(real.std())
    known = spectrum_of(real)
    for reading in asked:
        pictures = reading.space.pictures(reading.values(values, plain.image_shape))
        ratio = contrast_of(pictures) / max(usual, 1e-12)
        offset = (float(pictures.mean()) - mean) / max(deviation, 1e-12)
        gap = spectral_gap(spectrum_of(pictures), known)
        why = _ruled_out(reading, pictures, ratio)
        if why and not is_said:
            yield Tried(reading, why, contrast=ratio, offset=offset, spectrum=gap)
            continue
        train = views[reading.space.view].train
        found = probe.predictions(
            reading.seen(values, views), own.repeat_interleave(reading.factor**2),
            plain.num_classes, reading.space.view, train,
        )  # fmt: skip
        predicted = found.argmax(dim=1)
        rights = {name: order[predicted] == probe.labels for name, order in orders.items()}
        rights[FOUND] = found_right(predicted, probe.labels, plain.num_classes)
        exact = not reading.space.is_whitened and are_whole_bytes(pictures)
        beside = probe.usual(len(own) * reading.factor**2, reading.space.view, train)
        yield Tried(reading, why, exact, ratio, offset, gap, beside, predicted, rights)


def _ruled_out(reading: Reading, pictures: Tensor, ratio: float) -> str:
    """Return why pictures cannot be any, from their values alone; empty: they can."""
    outside = share_outside(pictures, _NEAR)
    if not reading.space.is_whitened and outside > _MOST_OUTSIDE:
        return f"{outside:.0%} of the values would lie far outside of [0, 1]"
    if not 1 / _CONTRAST < ratio < _CONTRAST:
        return f"the contrast would be {ratio:.2g} times that of real images"
    return ""
