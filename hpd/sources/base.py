"""The registry of sources, and what all sources share."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from generators import Prior, StoredGenerator
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.sources.chunks import most_at_once
from hpd.sources.coded import StorageSettings
from hpd.sources.learnt_labels import LearntLabelSettings
from hpd.typing import Source, State

USUAL_CHUNK = 64
"""Images that are rendered at a time where nothing is said."""


class SourceSettings(Settings):
    """Options of a source."""

    learnt_labels: LearntLabelSettings | None = Field(
        None,
        description="learn a label of each image, with an objective that has a gradient to labels;"
        " null: an image's label is its class",
    )

    storage: StorageSettings | None = Field(
        None, description="in how many bits its numbers are stored; null: 32, as they are"
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised.

        Args:
            train: the real training images.
            device: where the parameters live.
            streams: randomness of the initialisation.
        """
        raise NotImplementedError

    def build_whole(
        self,
        train: ImageSet,
        device: torch.device,
        streams: Streams,
        stored: StoredGenerator | None = None,
    ) -> Source:
        """Return the source with labels that it learns, stored as it is to be; see `build`.

        Args:
            train: the real training images.
            device: where the parameters live.
            streams: randomness of the initialisation.
            stored: a generator in memory, in the place of the one that is named.

        Raises:
            ConfigError: if there is a generator and the source takes none.
        """
        settings, two = self, self.in_chunks_of(2)
        if two is not self:
            probe = two.unprojected()._built(train, device, streams, stored)
            probe.enter(0)
            settings = self.in_chunks_of(most_at_once(probe))
        source = settings._built(train, device, streams, stored)
        if self.learnt_labels is not None:
            source = self.learnt_labels.around(source, train.num_classes)
        return source if self.codec is None else self.codec.around(source)

    def _built(
        self, train: ImageSet, device: torch.device, streams: Streams,
        stored: StoredGenerator | None,
    ) -> Source:  # fmt: skip
        if stored is None:
            return self.build(train, device, streams)
        if isinstance(self, TakesGenerator):
            return self.build_from(stored, train, device, streams)
        kind = SOURCES.kind_of(self)
        raise ConfigError("the source takes no generator", got=kind, expected="gan")

    def in_chunks_of(self, images: int) -> Self:
        """Return the options with so many images at a time, itself where it does not ask for that.

        Args:
            images: in the place of `chunk_images=auto`.
        """
        return self

    @property
    def codec(self) -> StorageSettings | None:
        """By what it is stored; None: its numbers as they are, of which only images are kept."""
        return self.storage

    def on(self, generator: str) -> Self:
        """Return the options with another generator, by name or folder.

        Raises:
            ConfigError: if the source has none.
        """
        raise ConfigError(
            "the source takes no generator", got=SOURCES.kind_of(self), expected="gan"
        )

    def unprojected(self) -> Self:
        """Return the options of a source that can be built at once, to check that it can be.

        Real images are not projected into a generator, nothing is fitted to them, and no starts are
        chosen from many; all else stays.
        """
        return self

    @property
    def needs_scores(self) -> bool:
        """Whether its stages are decided by scores; see `hpd.typing.Stage`."""
        return False

    @property
    def has_prior(self) -> bool:
        """Whether images come out of a pretrained generator."""
        return False

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return that generator and its classes; None without one, or if it has no classes.

        Args:
            train: the real training images.
            stored: the generator, where it is in memory.

        Raises:
            GeneratorError: if it does not exist or does not fit the data.
        """
        return None


class ChunkedSettings(SourceSettings):
    """Options of a source that decodes its parameters to images."""

    chunk_images: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        USUAL_CHUNK,
        description="most images rendered with a graph at a time; bounds the memory; auto: what a"
        " quarter of the machine's memory holds, by two images that are measured",
    )

    @property
    def chunk(self) -> int:
        """Images at a time; where nobody measured, as many as usual."""
        return USUAL_CHUNK if self.chunk_images == "auto" else self.chunk_images

    def in_chunks_of(self, images: int) -> Self:
        """Return the options with so many images at a time; see `SourceSettings`."""
        if self.chunk_images != "auto":
            return self
        return self.model_copy(update={"chunk_images": images})


class CountedSettings(ChunkedSettings):
    """Options of a source that stores as many images as it gives."""

    images_per_class: int = Field(1, ge=1, description="images that are distilled of each class")

    def labels(self, train: ImageSet) -> Tensor:
        """Return the labels [K * images_per_class], ordered by class."""
        return torch.arange(train.num_classes).repeat_interleave(self.images_per_class)


@runtime_checkable
class TakesGenerator(Protocol):
    """Settings of a source that also takes a generator in memory, in place of a stored one."""

    def build_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        """Return the source on this generator; see `SourceSettings.build`."""
        ...


class Prunable(Source, Protocol):
    """A source whose images can be dropped one by one, and no other changes."""

    def images_within(self, budget: int) -> int:
        """Return the most images a class that a budget in floats leaves room for."""
        ...

    def keep(self, kept: Tensor) -> SourceSettings:
        """Drop all images but those at some indices, ascending, as many of every class.

        Returns:
            the settings of what is left, every size written out.
        """
        ...


@runtime_checkable
class Prunes(Protocol):
    """Settings of a source that can be pruned when its run is finished."""

    def budget(self, train: ImageSet) -> int:
        """Return the floats that were asked for."""
        ...

    def restore(
        self, state: State, train: ImageSet, device: torch.device, streams: Streams
    ) -> Prunable:
        """Return the source as it was in its only stage when `state` was taken."""
        ...


SOURCES: Registry[SourceSettings] = Registry("source", SourceSettings)
