"""Selection by the objective's own loss, at draws that are the same for every score."""

from __future__ import annotations

from statistics import fmean

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.engine.selection.base import SELECTORS, SelectorSettings
from hpd.machine.host import told
from hpd.rng import Streams
from hpd.typing import Objective, Selector, Step


@SELECTORS.register("loss")
class LossSettings(SelectorSettings):
    """The loss of the objective.

    The losses of a run's own steps cannot be compared: each is of another student, other real
    images and another augmentation, and the least of them would be the luckiest draw. So the
    objective is asked again, always with the same draws.
    """

    every: int = Field(20, ge=1, description="steps between scores; each costs `draws` steps")
    draws: int = Field(1, ge=1, description="draws that the loss is averaged over")

    def build(
        self, train: ImageSet, device: torch.device, streams: Streams, objective: Objective
    ) -> Selector:
        """Return the selector; see `SelectorSettings.build`."""
        return ObjectiveLoss(objective, self.draws)


class ObjectiveLoss:
    """The objective's loss, averaged over draws that no step of a run takes.

    What the objective learns on the way is as it was afterwards.

    Args:
        objective: of the run.
        draws: number of draws.
    """

    def __init__(self, objective: Objective, draws: int) -> None:
        self._objective, self._draws = objective, draws

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Score images [N, C, H, W] in [0, 1] with labels [N]."""
        kept = self._objective.state()
        losses = []
        for draw in range(self._draws):
            # the first step of a stage that no run has: its network is fresh
            losses.append(self._objective(images, labels, Step(-1 - draw, 0)).loss)
            self._objective.load_state(kept)
        return fmean(told(losses))
