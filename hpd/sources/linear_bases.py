"""Shared bases as the source: each image is a sum of a few pictures that all images share.

Source: Deng and Russakovsky, Remember the Past: Distilling Datasets into Addressable Memories for
Neural Networks, NeurIPS 2022 (LinBa): bases of half the size, enlarged, and coefficients of each
image. The start from principal components is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet, Normalisation
from hpd.errors import ConfigError, RunError
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, ChunkedSettings
from hpd.sources.batches import Batches
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Source, Stage, State, Step

# real images that the bases are found in, at most
_SEEN = 5000
# of them in memory at a time
_PART = 256
# of the budget, for the bases
_SHARE = 0.4


@SOURCES.register("linear_bases")
class LinearBasesSettings(ChunkedSettings):
    """Bases that all images share and coefficients of each, in normalised space."""

    budget_images: Annotated[int, Only("budget_floats", None)] = Field(
        1, ge=1, description="floats to store, as the images a class that would take as many"
    )
    budget_floats: int | None = Field(
        None, ge=1, description="floats to store, in place of budget_images"
    )
    images_per_class: int | None = Field(
        None, ge=1, description="images to give; null: all that the budget holds"
    )
    bases: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description="pictures that all images are sums of; null: as many as two fifths of the"
        " budget hold, as in LinBa's 16 at one image of 32 x 32",
    )
    factor: int = Field(
        2, ge=1, description="sides of the bases are those of the images by this, to be enlarged"
    )
    init: Literal["real", "noise"] = Field(
        "real",
        description="real: principal components of real images, and random ones' coefficients;"
        " or N(0, 1)",
    )
    batch_images: Annotated[int | None, Field(ge=1)] = Field(
        16, description="most images of a class in one step, drawn at random; null: all"
    )
    steps: int = Field(1000, ge=0, description="of the optimiser")
    lr_bases: float = Field(0.01, gt=0, description="learning rate of the shared pictures")
    lr_coefficients: float = Field(
        0.01, gt=0, description="learning rate of the weights of their sums"
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            ConfigError: if the factor does not divide the images, or they do not fit the budget.
            DataError: for init=real, if a class has fewer real images than there are to give.
        """
        channels, height, width = train.image_shape
        if height % self.factor or width % self.factor:
            raise ConfigError(
                "factor must divide the height and width of the images",
                got=self.factor,
                expected=f"a divisor of {height} and {width}",
            )
        shape = (channels, height // self.factor, width // self.factor)
        count, per_class = self.sizes(train)
        labels = torch.arange(train.num_classes).repeat_interleave(per_class)
        rng = streams.generator("linear bases init")
        if self.init == "real":
            drawn = train.draw_per_class(per_class, rng)
            seen = torch.randperm(len(train), generator=rng)[: max(_SEEN, count)]
            bases = principal_bases(_reduced(train, seen, self.factor), count)
            parts = [coefficients_of(x, bases) for x in _reduced(train, drawn, self.factor)]
            coefficients = torch.cat(parts)
        else:
            bases = torch.randn(count, *shape, generator=rng) / math.sqrt(count)
            coefficients = torch.randn(len(labels), count, generator=rng)
        return LinearBasesSource(
            bases.to(device), coefficients.to(device), labels.to(device), train, self, streams
        )

    def sizes(self, train: ImageSet) -> tuple[int, int]:
        """Return the bases, and the images to give in each class: what they leave room for.

        Raises:
            ConfigError: if there are no such numbers.
        """
        floats = math.prod(train.image_shape)
        budget, each = self.budget(train), floats // self.factor**2
        bases = self.bases or min(max(int(_SHARE * budget / each), 1), each)
        most = (budget - bases * each) // (train.num_classes * bases)
        wanted = most if self.images_per_class is None else self.images_per_class
        if not 0 < wanted <= most:
            raise ConfigError(
                "bases and coefficients do not fit the budget",
                got=f"{bases} bases of {each} floats and {max(wanted, 1)} images a class",
                expected=f"at most {budget:,} floats",
                fix="Raise source.budget_images or source.factor, or lower source.bases or"
                " source.images_per_class.",
            )
        return bases, wanted

    def budget(self, train: ImageSet) -> int:
        """Return the floats that were asked for."""
        floats = math.prod(train.image_shape)
        return self.budget_floats or self.budget_images * train.num_classes * floats


def principal_bases(images: Iterable[Tensor], count: int) -> Tensor:
    """Return the pictures whose sums are nearest to some images: the first right singular vectors.

    Each is as long as the images are along it in the mean (root of the mean square), so that
    coefficients are of size 1.

    Args:
        images: M in all, in parts [m, C, h, w].
        count: B, at most min(M, C h w).

    Returns:
        [B, C, h, w].

    Raises:
        ConfigError: if there are fewer.

    Source: Eckart and Young, 1936.
    """
    seen, moment, like = 0, torch.zeros((), dtype=torch.float64), torch.empty(0)
    for like in images:
        flat = like.flatten(1).double()
        seen, moment = seen + len(flat), moment + flat.T @ flat
    most = min(seen, len(moment))
    if count > most:
        raise ConfigError(
            "there are more bases than directions in which real images differ",
            got=count,
            expected=f"at most {most}",
            fix="Lower source.bases.",
        )
    # whose eigenvectors are the singular ones
    values, vectors = torch.linalg.eigh(moment / seen)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    # the sign of an eigenvector is no one's choice: its largest part is positive
    largest = vectors.gather(0, vectors.abs().argmax(dim=0)[None])
    scaled = vectors * largest.sign() * values.clamp_min(1e-12).sqrt()
    return scaled.T.reshape(count, *like.shape[1:]).to(like.dtype)


def coefficients_of(images: Tensor, bases: Tensor) -> Tensor:
    """Return the coefficients [N, B] whose sums of bases are nearest to images [N, C, h, w]."""
    flat, span = images.flatten(1).double(), bases.flatten(1).double()
    return torch.linalg.lstsq(span.T, flat.T).solution.T.to(images.dtype)


def _reduced(train: ImageSet, chosen: Tensor, factor: int) -> Iterator[Tensor]:
    """Yield normalised real images of a smaller side, averaged over pixels, part by part."""
    for part in chosen.split(_PART):
        yield F.avg_pool2d(train.normalised(part), factor)


class LinearBasesSource:
    """``x_n = enlarged(sum_b a_nb base_b)``, of normalised images; bases and a are the parameters.

    Args:
        bases: [B, C, h, w], on the device.
        coefficients: [N, B].
        labels: [N], ordered by class, equally many of each.
        train: the real images: their size and normalisation.
        settings: options.
        streams: randomness of the batches.
    """

    def __init__(
        self, bases: Tensor, coefficients: Tensor, labels: Tensor, train: ImageSet,
        settings: LinearBasesSettings, streams: Streams,
    ) -> None:  # fmt: skip
        self.bases, self.coefficients = as_leaf(bases), as_leaf(coefficients)
        self.labels = labels
        self._size = train.image_shape[1:]
        self._num_classes = train.num_classes
        self._normalisation: Normalisation = train.normalisation
        self._settings = settings
        self._batches = Batches(settings.batch_images, train.num_classes, streams)

    @property
    def stored_floats(self) -> int:
        """Number of values in bases and coefficients."""
        return self.bases.numel() + self.coefficients.numel()

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """Bases and coefficients; see `Stores`."""
        return {"bases": self.bases, "coefficients": self.coefficients}

    @property
    def provenance(self) -> Mapping[str, object]:
        """How many bases of which size."""
        return {"linear_bases": {"bases": len(self.bases), "size": list(self.bases.shape[1:])}}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return (Stage("bases", self._settings.steps),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return bases and coefficients."""
        if stage:
            raise RunError("bases have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        options = self._settings
        return (
            ParameterGroup("bases", (self.bases,), options.lr_bases),
            ParameterGroup(
                "coefficients", (self.coefficients,), options.lr_coefficients, self.labels
            ),
        )

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The coefficients; see `Shardable`."""
        return {"coefficients": self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, self.coefficients = self.labels[own], as_leaf(self.coefficients[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.coefficients = labels, as_leaf(state["coefficients"])
        self.load_state(state)

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        return self._batches.of(self.labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._settings.chunk)

    def _decode(self, indices: Tensor) -> Tensor:
        # summed one by one, so that an image is the same to the bit beside whatever others
        parts = picked(self.coefficients, indices)[:, :, None] * self.bases.flatten(1)
        small = parts.sum(dim=1).unflatten(1, self.bases.shape[1:])
        images = F.interpolate(small, size=self._size, mode="bilinear", align_corners=False)
        return self._normalisation.undo(images)

    def state(self) -> State:
        """Return clones of bases and coefficients."""
        return {
            "bases": self.bases.detach().clone(),
            "coefficients": self.coefficients.detach().clone(),
        }

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore bases and coefficients."""
        self.bases.copy_(state["bases"])
        self.coefficients.copy_(state["coefficients"])
