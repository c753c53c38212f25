"""Hierarchical memories as the source: one for the data set, one a class, one an image.

Source: Zheng et al., Leveraging Hierarchical Feature Sharing for Efficient Dataset Condensation,
ECCV 2024 (HMN). No code was released: sizes, layers and the start are ours, and so is a pretrained
generator as the decoder.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from typing_extensions import Self

from generators import Prior, StoredGenerator
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources.base import SOURCES
from hpd.sources.hmn.budget import Account, Wanted, plan
from hpd.sources.hmn.decoders import (
    DECODERS,
    Blueprint,
    ConvDecoderSettings,
    DecoderSettings,
)
from hpd.sources.hmn.generator import GeneratorDecoderSettings
from hpd.sources.hmn.levels import HmnThenLevels
from hpd.sources.hmn.memories import HmnOptions, HmnSource
from hpd.typing import Source, State


@SOURCES.register("hmn")
class HmnSettings(HmnOptions):
    """Memories and networks within a budget of floats, and as many images as that gives."""

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            ConfigError: if the memories do not fit the budget.
            GeneratorError: if the decoder is a generator that does not fit the data.
        """
        return self._build(self.decoder.blueprint(train, device, streams), train, device, streams)

    def build_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        """Return the source on a generator in memory; see `build`."""
        if not isinstance(self.decoder, GeneratorDecoderSettings):
            kind = DECODERS.kind_of(self.decoder)
            raise ConfigError("the decoder takes no generator", got=kind, expected="stylegan")
        blueprint = self.decoder.blueprint_from(stored, train, device, streams)
        return self._build(blueprint, train, device, streams)

    def on(self, generator: str) -> Self:
        """Return the options with another generator as the decoder; see `SourceSettings.on`."""
        if not isinstance(self.decoder, GeneratorDecoderSettings):
            kind = DECODERS.kind_of(self.decoder)
            raise ConfigError("the decoder takes no generator", got=kind, expected="stylegan")
        decoder = self.decoder.model_copy(update={"generator": generator})
        return self.model_copy(update={"decoder": decoder})

    def unprojected(self) -> Self:
        """Return the options without the fit to real images; see `SourceSettings.unprojected`."""
        if not isinstance(self.decoder, ConvDecoderSettings):
            return self
        return self.model_copy(update={"decoder": self.decoder.model_copy(update={"fit_steps": 0})})

    @property
    def has_prior(self) -> bool:
        """Whether images come out of a pretrained generator."""
        return isinstance(self.decoder, GeneratorDecoderSettings)

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return the decoder's generator and its classes; see `SourceSettings.prior`."""
        decoder = self.decoder
        return (
            decoder.prior(train, stored) if isinstance(decoder, GeneratorDecoderSettings) else None
        )

    def restore(
        self, state: State, train: ImageSet, device: torch.device, streams: Streams
    ) -> HmnSource:
        """Return the source whose state this is; see `Prunes`."""
        if isinstance(self.decoder, GeneratorDecoderSettings) and self.decoder.then_levels:
            raise ConfigError("images of then_levels share nothing: there is nothing to prune")
        blueprint = self.decoder.blueprint(train, device, streams)
        source = self._memories(blueprint, train, device, streams)
        source.load_state(state)
        return source

    def budget(self, train: ImageSet) -> int:
        """Return the floats that were asked for, without what is over the budget."""
        image_floats = math.prod(train.image_shape)
        return self.budget_floats or train.num_classes * self.budget_images * image_floats

    def _build(
        self, blueprint: Blueprint, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        source = self._memories(blueprint, train, device, streams)
        if blueprint.fit_steps:
            source.fit(train, blueprint.fit_steps)
        if isinstance(self.decoder, GeneratorDecoderSettings) and self.decoder.then_levels:
            return HmnThenLevels(source, self.decoder, self.chunk)
        return source

    def _memories(
        self, blueprint: Blueprint, train: ImageSet, device: torch.device, streams: Streams
    ) -> HmnSource:
        account, width = self._plan(blueprint, train)
        decoder = blueprint.build(account.shapes, width, streams.fork("decoder"))
        return HmnSource(
            account, decoder, settled=self._settled(account, blueprint.settled(width)),
            instance_scale=blueprint.instance_scale(account.images_per_class),
            device=device, streams=streams,
        )  # fmt: skip

    def _plan(self, blueprint: Blueprint, train: ImageSet) -> tuple[Account, int]:
        image_floats, budget = math.prod(train.image_shape), self.budget(train)
        held = math.floor(budget * (1 + self.overbudget))
        account, width = plan(
            held,
            train.num_classes,
            blueprint.grid(held / train.num_classes),
            Wanted(
                images_per_class=self.images_per_class,
                dataset=self.dataset_channels,
                of_class=self.class_channels,
                instance=self.instance_channels,
                extractor=self.extractor_channels,
            ),
            blueprint.floats,
            widths=blueprint.widths,
            image_floats=image_floats if blueprint.keeps_images else None,
        )
        return replace(account, budget=budget), width

    def _settled(self, account: Account, decoder: DecoderSettings) -> HmnSettings:
        """Return these settings with every size written out."""
        sizes = {
            "images_per_class": account.images_per_class,
            "dataset_channels": account.shapes.dataset,
            "class_channels": account.shapes.of_class,
            "instance_channels": account.shapes.instance,
            "extractor_channels": account.shapes.extractor,
            "decoder": decoder,
        }
        return self.model_copy(update=sizes)
