"""The registry of objectives."""

from __future__ import annotations

import torch

from hpd.data import ImageSet
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.typing import Objective


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
