"""What stored values may mean: pictures in a range, normalised ones, or whitened ones.

`KNOWN` are constants of code that everybody builds on. For CIFAR-10 the code of DC, DSA, DM and MTT
has the mean over images of their deviations, which is a fifth below that of all pixels.
Sources: Zhao et al. (DatasetCondensation), Cazenavette et al. (mtt-distillation), torchvision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from hpd.data import Dataset, Normalisation
from hpd.data.whitening import Zca, ZcaKind, whitened
from hpd.errors import ConfigError, nearest

KNOWN: Mapping[str, Normalisation] = {
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Normalisation((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": Normalisation((0.1307,), (0.3081,)),
    "fashion_mnist": Normalisation((0.2861,), (0.3530,)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation, by what they are called."""
RANGES: Mapping[str, tuple[float, float]] = {
    "unit": (0.0, 1.0), "bytes": (0.0, 1 / 255), "symmetric": (0.5, 0.5),
}  # fmt: skip
"""Black and half of white's way up, as mean and deviation: 0 to 1, 0 to 255, -1 to 1."""
BYTES, DATA = "bytes", "data"
"""What mean and deviation of the training images are called."""
OF_DATA_SET = "dc"
"""In a convention: constants that the code of DC, and what builds on it, has for a data set."""
ZCA_KINDS: tuple[ZcaKind, ...] = get_args(ZcaKind)

# constants so near to those of the data are theirs
_SAME = 0.004
# so far, they are of other data; that one number is near by chance is likelier than of three
_OTHER_GREY, _OTHER_COLOUR = 0.01, 0.03
# light, red less blue, green apart from both: each of length 1
_OPPONENTS = (
    (3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5),
)  # fmt: skip
_FAINT = 1e-9
# as in `hpd.data.whitening`
_LARGEST_ZCA = 48 * 48 * 3


@dataclass(frozen=True)
class Space:
    """What values mean.

    Args:
        name: ``"unit"``, ``"cifar10"``, ``"zca per_image"``, ...
        normalisation: that gives the values of pictures in [0, 1].
        view: how students see such a set: ``"plain"``, by the mean and deviation of the data, or a
            kind of ZCA.
    """

    name: str
    normalisation: Normalisation
    view: str = "plain"

    @property
    def is_whitened(self) -> bool:
        """Whether the values are what students see, whitened."""
        return isinstance(self.normalisation, Zca)

    def pictures(self, values: Tensor) -> Tensor:
        """Return pictures [N, C, H, W], in [0, 1] nominally."""
        if self.name == BYTES:
            # as bytes of real images are, to the bit
            return values.float().div_(255) if values.dtype != torch.float32 else values / 255
        return self.normalisation.undo(values.float())

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.is_whitened:
            return f"whitened by ZCA of the training images ({self.view})"
        mean, std = self.normalisation.mean, self.normalisation.std
        if self.name in RANGES:
            low, high = ((bound - mean[0]) / std[0] for bound in (0, 1))
            return f"pictures, {low:g} to {high:g}"
        numbers = "/".join(",".join(f"{value:.4g}" for value in own) for own in (mean, std))
        named = "the training images" if self.name == DATA else self.name
        return f"normalised by the constants of {named} ({numbers})"


class Views:
    """How students may see images, made when they are asked for.

    Args:
        dataset: real images; of one that is whitened already, mean and deviation are taken.
    """

    def __init__(self, dataset: Dataset) -> None:
        own = dataset.train.normalisation
        plain = Normalisation(own.mean, own.std)
        self._sets = {"plain": _seen(dataset, plain)}

    def __getitem__(self, view: str) -> Dataset:
        if view not in self._sets:
            kind = next(kind for kind in ZCA_KINDS if kind == view)
            self._sets[view] = whitened(self._sets["plain"], kind)
        return self._sets[view]

    @property
    def plain(self) -> Dataset:
        """The data, seen by mean and deviation."""
        return self._sets["plain"]

    @property
    def can_whiten(self) -> bool:
        """Whether images are small enough for ZCA."""
        return math.prod(self.plain.train.image_shape) <= _LARGEST_ZCA

    def space(self, name: str) -> Space:
        """Return a space by its name; ``MEAN/STD`` are constants, a number a channel.

        Raises:
            ConfigError: for an unknown name, or constants for other channels.
        """
        channels = self.plain.train.image_shape[0]
        if name.startswith("zca "):
            kind = name.removeprefix("zca ")
            return Space(name, self[kind].train.normalisation, kind)
        if name == DATA:
            return Space(name, self.plain.train.normalisation)
        if name in RANGES:
            mean, std = RANGES[name]
            return Space(name, Normalisation((mean,) * channels, (std,) * channels))
        found = KNOWN.get(name) or _written(name)
        if found is None:
            known = [DATA, *RANGES, *KNOWN]
            raise ConfigError(
                f"unknown range {name!r}", expected="a name, or MEAN/STD", fix=nearest(name, known)
            )
        if not len(found.mean) == len(found.std) == channels or min(found.std) <= 0:
            raise ConfigError(
                f"the constants {name!r} do not fit the images",
                got=f"{len(found.mean)} and {len(found.std)} numbers",
                expected=f"{channels} of each, deviations above 0",
            )
        return Space(name, found)

    def own_constants(self) -> list[str]:
        """Return the names of known constants that may be meant for these data.

        Those of data of about this mean, and ImageNet's, with which anything is normalised; without
        those that are the data's own to a rounding. The nearest come first.
        """
        own = self.plain.train.normalisation
        fits = [name for name, known in KNOWN.items() if len(known.mean) == len(own.mean)]
        other = _OTHER_GREY if len(own.mean) == 1 else _OTHER_COLOUR
        near = [n for n in fits if n == "imagenet" or _gap(KNOWN[n].mean, own.mean) < other]
        near = [n for n in near if not _is_same(KNOWN[n], own)]
        return sorted(near, key=lambda n: _gap(KNOWN[n].mean, own.mean))

    def expanded(self, convention: Sequence[str]) -> list[str]:
        """Return a convention in which the constants of the data set have their names."""
        own = [*self.own_constants(), DATA]
        return [n for name in convention for n in (own if name == OF_DATA_SET else [name])]


def _seen(dataset: Dataset, normalisation: Normalisation) -> Dataset:
    train, test = (
        replace(part, normalisation=normalisation) for part in (dataset.train, dataset.test)
    )
    return Dataset(train, test)


def _written(text: str) -> Normalisation | None:
    """Return constants that are written as ``0.49,0.48,0.45/0.2,0.2,0.2``."""
    if not re.fullmatch(r"[\d.,e+-]+/[\d.,e+-]+", text):
        return None
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        return None
    return Normalisation(mean, std) if all(map(math.isfinite, (*mean, *std))) else None


def _gap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _is_same(one: Normalisation, other: Normalisation) -> bool:
    return max(_gap(one.mean, other.mean), _gap(one.std, other.std)) < _SAME


def contrast_of(pictures: Tensor) -> float:
    """Return the root mean square deviation of a channel of an image from its own mean.

    Args:
        pictures: [N, C, H, W].
    """
    return float(pictures.float().var(dim=(2, 3), unbiased=False).mean().sqrt())


def spectrum_of(pictures: Tensor) -> Tensor:
    """Return the power of pictures by octave of frequency, of light and of each difference of it.

    The logarithm of the mean power of ``k <= |f| < 2 k`` cycles an image, k = 1, 2, 4, ...: natural
    images have most of it at low frequencies and in light, whitened ones alike at all.

    Args:
        pictures: [N, C, H, W].

    Returns:
        [C, octaves]; of colour: light, red less blue, and green apart from both.
    """
    images = pictures.float()
    if images.shape[1] == len(_OPPONENTS):
        images = torch.einsum("dc,nchw->ndhw", torch.tensor(_OPPONENTS), images)
    power = torch.fft.fft2(images).abs().square().mean(dim=0)
    height, width = images.shape[2:]
    down, across = (torch.fft.fftfreq(side) * side for side in (height, width))
    radius = (down[:, None].square() + across.square()).sqrt()
    first = [2**i for i in range(min(height, width).bit_length() - 1)]
    octaves = [power[:, (radius >= k) & (radius < 2 * k)].mean(dim=1) for k in first]
    return (torch.stack(octaves, dim=1) + _FAINT).log()


def spectral_gap(one: Tensor, other: Tensor) -> float:
    """Return how unlike two spectra are in shape: the mean deviation of their difference.

    Args:
        one: from `spectrum_of`.
        other: likewise.
    """
    gap = one - other
    return float((gap - gap.mean()).abs().mean())


def share_outside(pictures: Tensor, margin: float) -> float:
    """Return the share of values that lie further than `margin` outside of [0, 1]."""
    return float(((pictures < -margin) | (pictures > 1 + margin)).double().mean())


def are_whole_bytes(pictures: Tensor) -> bool:
    """Return whether pictures were once bytes: nearly all values are whole 255ths, from 0 to 1.

    Constants that are not the right ones leave values between: by chance a value is as near to a
    whole 255th in one of 25.
    """
    scaled = pictures.double() * 255
    near = ((scaled - scaled.round()).abs() < 0.02) & (scaled > -0.5) & (scaled < 255.5)
    return bool(near.double().mean() > 0.999)


def looks_centred(values: Tensor) -> bool:
    """Return whether values lie on both sides of 0, as normalised and whitened ones do."""
    numbers = values.float()
    return bool(numbers.min() < 0) and abs(float(numbers.mean())) < float(numbers.std()) + 1e-12


def channels_swapped(values: Tensor) -> Tensor:
    """Return images [N, 3, H, W] with blue first for red first, and the other way round."""
    return torch.flip(values, dims=(1,))
