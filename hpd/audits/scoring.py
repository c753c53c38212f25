"""How well a reading fits: a kernel regression from the set to training images, and its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hpd.data import ImageSet
from hpd.progress import told
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students import Student, in_batches
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.ridge import centred_targets, ridge_predictions

_BATCH = 128
# larger images are averaged down to this: which reading fits shows at any size
_SIDE = 32
_BIAS = 0.1
# of random training images: the lead over a single one would be one over its luck
_DRAWS = 4


class FindSettings(Settings):
    """How what is not said of a set is found out; see `hpd.audits.scoring`."""

    rows: int = Field(2000, ge=20, description="training images to predict, as many of each class")
    images: int = Field(300, ge=1, description="most images of the set to predict from")
    networks: int = Field(2, ge=1, description="random networks, whose features are joined")
    width: int = Field(128, ge=1, description="of these networks, without norm")
    ridge: float = Field(5e-3, ge=1e-9, description="penalty, a share of the kernel's diagonal")
    margin: float = Field(
        3.0, gt=0, description="standard errors by which a reading must lose to be out"
    )


class Probe:
    """Predicts training images from a set, under any reading of it.

    ``P = K_rs (K_ss + ridge tr(K_ss)/N I)^-1 Y``, Y the centred classes of the set, K the product
    of features of random convolutional networks, which comes to the kernel of networks of endless
    width (Loo et al., NeurIPS 2022); less the mean of P over the training images, as a regression
    from few images leans to some class. Test images are never seen.

    Some data are predicted more easily from images as they are, others from whitened ones. So a
    reading is judged by its lead over as many random training images, seen likewise.

    Args:
        train: training images.
        settings: how many, and by what networks.
        streams: randomness of these.
    """

    def __init__(self, train: ImageSet, settings: FindSettings, streams: Streams) -> None:
        per_class = max(1, settings.rows // train.num_classes)
        self._rows = train.draw_each(per_class, streams.generator("rows"))
        rest = torch.ones(len(train), dtype=torch.bool)
        rest[self._rows] = False
        self._rest = rest.nonzero().flatten()
        self._train, self._settings, self._streams = train, settings, streams
        self.labels = train.labels[self._rows]
        channels, height, width = train.image_shape
        self._shape = (channels, min(height, _SIDE), min(width, _SIDE))
        self._networks = [
            _network(self._shape, settings.width, streams.generator("network", i))
            for i in range(settings.networks)
        ]
        self._real: dict[str, Tensor] = {}
        self._usual: dict[tuple[str, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        """Share that is right by guessing."""
        return 1 / self._train.num_classes

    def some_of(self, classes: Tensor, rng: torch.Generator) -> Tensor:
        """Return indices of images of a set to predict from, as many of each class.

        Args:
            classes: of the images [N].
            rng: which of a class.
        """
        if len(classes) <= self._settings.images:
            return torch.arange(len(classes))
        each = max(1, self._settings.images // int(classes.unique().numel()))
        own = [(classes == c).nonzero().flatten() for c in classes.unique().tolist()]
        return torch.cat([some[torch.randperm(len(some), generator=rng)[:each]] for some in own])

    @torch.no_grad()
    def predictions(
        self, seen: Tensor, classes: Tensor, num_classes: int, view: str, train: ImageSet
    ) -> Tensor:
        """Return what a set predicts for the training images, float64 [M, K].

        Args:
            seen: images as students see them [n, C, H, W].
            classes: of the set's own [n].
            num_classes: K.
            view: name of how students see them.
            train: the training images, seen so.
        """
        if view not in self._real:
            self._real[view] = self._features(train.normalised(self._rows))
        targets = centred_targets(classes, num_classes)
        own = self._features(seen).double()
        found = ridge_predictions(self._real[view].double(), own, targets, self._settings.ridge)
        return found - found.mean(dim=0)

    def usual(self, count: int, view: str, train: ImageSet) -> Tensor:
        """Return which training images are right from as many random ones, draw by draw [D, M].

        Args:
            count: images that they are predicted from.
            view: name of how students see them.
            train: the training images, seen so.
        """
        key = (view, count)
        if key not in self._usual:
            each = max(1, round(count / train.num_classes))
            shares = []
            for i in range(_DRAWS):
                some = self._train.at(self._rest)
                chosen = self._rest[some.draw_each(each, self._streams.generator("real", i))]
                found = self.predictions(
                    train.normalised(chosen), train.labels[chosen], train.num_classes, view, train
                )
                shares.append(found.argmax(dim=1) == self.labels)
            self._usual[key] = torch.stack(shares)
        return self._usual[key]

    def _features(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images.float(), self._shape[1:])
        parts = [
            in_batches(network.embed, small, _BATCH)
            for network in told("scoring readings", self._networks)
        ]
        return torch.cat(parts, dim=1)


def _network(shape: tuple[int, int, int], width: int, rng: torch.Generator) -> Student:
    """Return a network whose weights keep the size of what goes through it (He et al., 2015)."""
    settings = ConvNetSettings(width=width, norm="none", depth=_depth(min(shape[1:])))
    network = settings.build(shape, 2, rng).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(0, math.sqrt(2 / layer.weight[0].numel()), generator=rng)
                assert layer.bias is not None
                layer.bias.normal_(0, _BIAS, generator=rng)
    return network.requires_grad_(False)


def _depth(side: int) -> int:
    """Return how many blocks leave something of an image, at most 3."""
    return max(1, min(3, side.bit_length() - 1))


@dataclass(frozen=True)
class Lead:
    """By how much one reading is ahead of another, in points.

    Args:
        points: difference of the shares that are right.
        error: its standard error over the training images, which both were tried on.
    """

    points: float
    error: float

    def is_clear(self, margin: float) -> bool:
        """Return whether it is ahead by so many standard errors."""
        return self.points > margin * self.error

    @property
    def reversed(self) -> Lead:
        """The lead of the other."""
        return Lead(-self.points, self.error)

    def loses(self, other: str) -> str:
        """Return in words how the other stands."""
        if self.points < 0:
            return f"{other} is ahead by {self.reversed} points"
        return f"the next, {other}, loses {self} points"

    def __str__(self) -> str:
        return f"{self.points:.1f} \u00b1 {self.error:.1f}"


@dataclass(frozen=True)
class Beside:
    """What a reading has right, beside random images.

    Args:
        right: which training images are right [M].
        usual: which are right from as many random ones, seen likewise, draw by draw [D, M].
    """

    right: Tensor
    usual: Tensor


def lead_of(one: Tensor, other: Tensor) -> Lead:
    """Return the lead of one reading over another.

    Args:
        one: which images it has right, booleans [M].
        other: the same of the other.

    >>> str(lead_of(torch.tensor([True] * 4), torch.tensor([True, True, False, False])))
    '50.0 \u00b1 25.0'
    """
    gaps = one.double() - other.double()
    error = float(gaps.std(unbiased=False)) / math.sqrt(len(gaps))
    return Lead(100 * float(gaps.mean()), 100 * error)


def lead_beside(one: Beside, other: Beside) -> Lead:
    """Return the lead of one reading over another, each beside random images seen likewise.

    Args:
        one: which images it has right, and which random ones have, draw by draw.
        other: the same of the other, of the same draws.
    """
    gains = [own.right.double() - own.usual.double() for own in (one, other)]
    # [D, M]: of each draw, image by image
    gaps = gains[0] - gains[1]
    rows, draws = gaps.mean(dim=0), gaps.mean(dim=1)
    error = float(rows.var(unbiased=False)) / len(rows) + float(draws.var()) / len(draws)
    return Lead(100 * float(gaps.mean()), 100 * math.sqrt(error))


def above_chance(right: Tensor, chance: float) -> Lead:
    """Return the lead over guessing."""
    share = float(right.double().mean())
    error = math.sqrt(max(share, chance) * (1 - min(share, 1 - chance)) / len(right))
    return Lead(100 * (share - chance), 100 * error)


def percent(right: Tensor) -> float:
    """Return the share that is right, in percent."""
    return 100 * float(right.double().mean())
