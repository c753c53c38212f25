"""The registry of objectives."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hpd.data import ImageSet
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.typing import Objective, State


class ObjectiveSettings(Settings):
    """Options of an objective."""

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective.

        Args:
            train: the real training images.
            device: where to match.
            streams: randomness of students, batches and augmentation.
        """
        raise NotImplementedError


OBJECTIVES: Registry[ObjectiveSettings] = Registry("objective")


class Stateless:
    """An objective whose every step is derived from the step alone."""

    @property
    def provenance(self) -> Mapping[str, object]:
        """Nothing but the data."""
        return {}

    def state(self) -> State:
        """Return nothing."""
        return {}

    def load_state(self, state: State) -> None:
        """Restore nothing."""
