"""Objectives: how far the synthetic images are from the real set."""

from hpd.objectives import (
    distribution,
    gradient,
    mutual_information,
    recovery,
    regression,
    trajectory,
)
from hpd.objectives.base import ADD_ONS, OBJECTIVES, ObjectiveSettings

__all__ = ["ADD_ONS", "OBJECTIVES", "ObjectiveSettings"]
_REGISTERED = (distribution, gradient, mutual_information, recovery, regression, trajectory)
