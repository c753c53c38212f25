"""The optimiser of a stage, with rates relative to what is optimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.registry import Settings
from hpd.typing import ParameterGroup


class OptimizerSettings(Settings):
    """The optimiser; a fresh one is made for each stage.

    Features of different levels differ in scale by large factors. With ``rates: relative`` the
    learning rate of a tensor is the group's `lr` times the tensor's RMS at the start of the
    stage, so one number serves all levels and generators; ``absolute`` takes `lr` as it is, as
    the published settings do (with ``kind: sgd``).
    """

    kind: Literal["adam", "sgd"] = "adam"
    rates: Literal["relative", "absolute"] = "relative"
    momentum: float = Field(0.5, ge=0, lt=1, description="of SGD, or Adam's beta 1")
    beta2: float = Field(0.99, ge=0, lt=1, description="Adam's beta 2; SGD has none")

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """Return a fresh optimiser over the tensors of `groups`."""
        options: list[dict[str, Any]] = [
            {"params": [tensor], "lr": self._rate(group.lr, tensor)}
            for group in groups
            for tensor in group.tensors
        ]
        if self.kind == "sgd":
            return torch.optim.SGD(options, momentum=self.momentum)
        return torch.optim.Adam(options, betas=(self.momentum, self.beta2))

    def _rate(self, lr: float, tensor: Tensor) -> float:
        return lr if self.rates == "absolute" else lr * root_mean_square(tensor)


def root_mean_square(tensor: Tensor) -> float:
    """Return sqrt(mean(x^2)), or 1 for a tensor of zeros, which has no scale of its own."""
    value = float(tensor.detach().double().square().mean().sqrt())
    return value or 1.0
