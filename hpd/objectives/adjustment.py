"""Directed weight adjustment: a teacher a little beside itself, so that recovered images differ.

Source: Du et al., Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed
Weight Adjustment, NeurIPS 2024 (DWA), and its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from hpd.registry import Only, Settings
from hpd.rng import Streams

Weights = Mapping[str, Tensor]
"""Parameters of a network by name, as `functional_call` takes them."""
_EPSILON = 1e-12


class AdjustmentSettings(Settings):
    """How the teacher's weights are moved, for each block of images anew."""

    mode: Literal["none", "random", "directed"] = Field(
        "none",
        description="directed: up the loss on real-looking images, as in DWA; random: as far in a"
        " random direction, the control",
    )
    rho: Annotated[float, Only("mode", "random", "directed")] = Field(
        0.015, ge=0, description="how far, as the norm of all weights together"
    )
    steps: Annotated[int, Only("mode", "directed")] = Field(
        12, ge=1, description="steps of rho / steps each, of the directed way"
    )
    view: Annotated[Literal["start", "real"], Only("mode", "directed")] = Field(
        "start",
        description="the images that direct: those of the block at the first step, as in DWA, or"
        " one real image of each class",
    )
    carry_over: Annotated[bool, Only("mode", "random", "directed")] = Field(
        False, description="a block starts where the one before ended, as in the released code"
    )


def ascend(
    network: nn.Module, weights: Weights, images: Tensor, labels: Tensor, *, rho: float, steps: int
) -> dict[str, Tensor]:
    """Return weights from which the mean cross entropy on some images is higher.

    ``theta <- theta + (rho / K) g / (|g| + 1e-12)``, K times, with g the gradient of the mean cross
    entropy by all weights, and its norm over all of them: at most rho away in the end.

    Args:
        network: in eval mode; it is left as it is.
        weights: theta to start with.
        images: normalised [N, C, H, W].
        labels: [N].
        rho: the way, not negative.
        steps: K.
    """
    theta = {name: value.detach() for name, value in weights.items()}
    for _ in range(steps):
        leaves = {name: value.requires_grad_() for name, value in theta.items()}
        loss = F.cross_entropy(functional_call(network, leaves, (images,)), labels)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        stride = rho / steps / (_norm(grads) + _EPSILON)
        theta = {
            name: (value + stride * grad).detach()
            for (name, value), grad in zip(leaves.items(), grads, strict=True)
        }
    return theta


def wander(weights: Weights, rho: float, rng: torch.Generator) -> dict[str, Tensor]:
    """Return weights that are rho away in a random direction, uniform over all directions."""
    noise = [torch.randn(value.shape, generator=rng).to(value) for value in weights.values()]
    stride = rho / (_norm(noise) + _EPSILON)
    return {
        name: (value + stride * way).detach()
        for (name, value), way in zip(weights.items(), noise, strict=True)
    }


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack([value.norm() for value in tensors]).norm()


class TeacherAdjustment:
    """The weights that a teacher answers with, for each block of images.

    The teacher itself is never written to: it answers by `functional_call`, so there is nothing to
    restore, whatever happens on the way.

    Args:
        network: of the teacher, in eval mode.
        settings: options.
        streams: where random directions come from.
        view: gives the normalised images [N, C, H, W] and labels [N] that direct a block's weights.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: AdjustmentSettings,
        streams: Streams,
        view: Callable[[int], tuple[Tensor, Tensor]],
    ) -> None:
        self._network, self._settings = network, settings
        self._streams, self._view = streams, view
        self._own: Weights = {name: value.detach() for name, value in network.named_parameters()}
        # one copy of the weights a block: the way there is K times as long as a step of recovery
        self._found: dict[int, Weights] = {}

    def weights(self, block: int) -> Weights:
        """Return the weights of a block; the same ones each time."""
        if self._settings.mode == "none":
            return self._own
        if block not in self._found:
            before = self._settings.carry_over and block > 0
            self._found[block] = self._move(self.weights(block - 1) if before else self._own, block)
        return self._found[block]

    def forget(self) -> None:
        """Find the weights anew when they are asked for."""
        self._found = {}

    def _move(self, weights: Weights, block: int) -> Weights:
        settings = self._settings
        if settings.mode == "random":
            return wander(weights, settings.rho, self._streams.generator("direction", block))
        images, labels = self._view(block)
        return ascend(
            self._network, weights, images, labels, rho=settings.rho, steps=settings.steps
        )
