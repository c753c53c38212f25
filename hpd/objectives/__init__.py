"""Objectives: how far the synthetic images are from the real set."""

from hpd.objectives import distribution, gradient, recovery, trajectory
from hpd.objectives.base import OBJECTIVES, ObjectiveSettings

__all__ = ["OBJECTIVES", "ObjectiveSettings"]
_REGISTERED = (distribution, gradient, recovery, trajectory)
