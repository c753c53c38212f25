"""The registry of selectors, and the one that selects nothing."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.typing import Objective, Selector


class SelectorSettings(Settings):
    """Options of a selector."""

    every: int = Field(10, ge=1, description="steps between scores")

    def split(self, train: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Return what source and objective may see of the training images, and the selector's.

        Both see all of them, unless the selector needs some that nothing was matched to.
        """
        return train, train

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector.

        Args:
            train: real training images: the selector's of `split`.
            device: where to score.
            streams: randomness of extractors and students.
            objective: what the run matches to.
        """
        raise NotImplementedError


def some_of(train: ImageSet, per_class: int, rng: torch.Generator) -> ImageSet:
    """Return `per_class` random images of each class, all of a class that has fewer.

    They stay in the order of the data, so that a limit that leaves nothing out changes nothing.
    """
    return train.at(train.draw_each(per_class, rng).sort().values)


SELECTORS: Registry[SelectorSettings] = Registry("selector", SelectorSettings)


@SELECTORS.register("last")
class LastSettings(SelectorSettings):
    """Keep the last state of each stage, and the last stage: no selection."""

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector; see `SelectorSettings.build`."""
        return _keep_last


def _keep_last(images: Tensor, labels: Tensor) -> None:
    return None
