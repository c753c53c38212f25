"""What the host asks a device for in a step: numbers, and whether all is finite, all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hpd.checks import check_finite
from hpd.errors import NumericError
from hpd.machine.host import told
from hpd.typing import Matched, ParameterGroup

DIVERGED = "Lower the learning rate, or leave out the level; the best state so far is kept."


@dataclass(frozen=True)
class Readings:
    """Numbers of a step.

    Args:
        loss: of this process.
        metrics: by name.
    """

    loss: float
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, matched: Matched, groups: Sequence[ParameterGroup], where: str) -> Readings:
        """Read what a step came to, in one go, and check that all of it is finite.

        Args:
            matched: what the objective gave.
            groups: with the gradients that came of it.
            where: in the run, for messages.

        Raises:
            NumericError: if loss or a gradient is not finite.
        """
        checked = [(f"the image gradient {where}", matched.image_grad)]
        checked += [
            (f"the gradient of {group.name} {where}", tensor.grad)
            for group in groups
            for tensor in group.tensors
            if tensor.grad is not None
        ]
        checked = [(name, tensor) for name, tensor in checked if tensor.numel()]
        # finite just where all values are, without a copy of them, and fast on any device
        ends = [end for _, tensor in checked for end in torch.aminmax(tensor)]
        names = list(matched.metrics)
        loss, *rest = told([matched.loss, *(matched.metrics[n] for n in names), *ends])
        if not math.isfinite(loss):
            raise NumericError(f"the loss is not finite {where}", got=loss, fix=DIVERGED)
        found = rest[len(names) :]
        for (name, tensor), *both in zip(checked, found[::2], found[1::2], strict=True):
            if not all(map(math.isfinite, both)):
                check_finite(tensor, name, DIVERGED)
        return cls(loss, dict(zip(names, rest[: len(names)], strict=True)))
