"""What every student can do, and how one is built without touching the global random state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hpd.registry import Registry, Settings

ImageShape = tuple[int, int, int]
WeightRule = Callable[[Any, torch.Generator], None]
"""Draws the weights of one type of layer in place; it runs without gradient."""


class Student(nn.Module, ABC):
    """A classifier in three parts: feature maps, embedding, linear head.

    ``forward(x) = head(embed(x))`` with ``embed(x) = pool(features(x))``. All take normalised
    images [N, C, H, W].
    """

    head: nn.Linear

    @property
    def has_dropout(self) -> bool:
        """Whether training draws from torch's global generator, the only one dropout knows."""
        return any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in self.modules())

    def weight_rules(self) -> Mapping[type[nn.Module], WeightRule]:
        """Return how to draw weights that `initialise` does not know or draws otherwise."""
        return {}

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the last convolutional feature maps [N, F, h, w]."""

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """Turn feature maps [N, F, h, w] into the embedding [N, E] that the head reads."""

    def feature_maps(self, x: Tensor) -> Sequence[Tensor]:
        """Return the feature maps [N, F, h, w] at the end of each block, the last ones last.

        Students that do not tell blocks apart return the last ones alone.
        """
        return (self.features(x),)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embedding [N, E]."""
        return self.pool(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K]."""
        return self.head(self.embed(x))

    def class_activation(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return where each image speaks for its class: Grad-CAM, scaled to [0, 1].

        ``A = relu(sum_f a_f f)`` with ``a_f`` the mean over positions of the derivative of the
        class's logit by feature map f; each map is divided by its maximum (an all-zero map stays
        zero). For a head on averaged features it is the classic CAM.

        Args:
            features: [N, F, h, w], from `features`.
            labels: the class of each image [N].

        Returns:
            [N, h, w] in [0, 1], without gradient.

        Source: Zhou et al., CVPR 2016; Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
        """
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            logits = self.head(self.pool(leaf))
            chosen = logits.gather(1, labels[:, None]).sum()
            (slope,) = torch.autograd.grad(chosen, leaf)
        weights = slope.mean(dim=(2, 3), keepdim=True)
        activation = (weights * features.detach()).sum(dim=1).relu()
        peak = activation.amax(dim=(1, 2), keepdim=True)
        return activation / torch.where(peak > 0, peak, torch.ones_like(peak))


class StudentSettings(Settings):
    """Options of a student."""

    def make(self, image_shape: ImageShape, num_classes: int) -> Student:
        """Return the module for images of shape (C, H, W); its weights do not matter."""
        raise NotImplementedError

    def build(self, image_shape: ImageShape, num_classes: int, rng: torch.Generator) -> Student:
        """Return a student on the CPU with fresh weights drawn from `rng`.

        Its dropout is off until `train()` is called, as `train_student` does: an objective that
        matches through the student takes no noise, and no draw from torch's global generator.
        """
        # modules draw from the global generator when they are made; on meta nothing is drawn
        with torch.device("meta"):
            student = self.make(image_shape, num_classes)
        student.to_empty(device="cpu")
        initialise(student, rng, student.weight_rules())
        for layer in student.modules():
            if isinstance(layer, nn.Dropout):
                layer.eval()
        return student


STUDENTS: Registry[StudentSettings] = Registry("student", StudentSettings)


def _by_fan_in(layer: nn.Linear | nn.Conv2d, rng: torch.Generator) -> None:
    """Uniform in +-1/sqrt(fan_in), weights and biases."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    for value in layer.parameters(recurse=False):
        value.uniform_(-bound, bound, generator=rng)


def _neutral(layer: nn.Module, rng: torch.Generator) -> None:
    """Scale and running variance 1, all else 0."""
    own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    for name, value in own:
        value.fill_(1 if name in ("weight", "running_var") else 0)


def _attention(layer: nn.MultiheadAttention, rng: torch.Generator) -> None:
    """Xavier's uniform weights for queries, keys and values in one; biases 0, the output's too."""
    nn.init.xavier_uniform_(layer.in_proj_weight, generator=rng)
    layer.in_proj_bias.zero_()
    layer.out_proj.bias.zero_()


WEIGHT_RULES: Mapping[type[nn.Module], WeightRule] = {
    nn.Linear: _by_fan_in,
    nn.Conv2d: _by_fan_in,
    nn.BatchNorm2d: _neutral,
    nn.GroupNorm: _neutral,
    nn.LayerNorm: _neutral,
    nn.MultiheadAttention: _attention,
}


@torch.no_grad()
def initialise(
    module: nn.Module, rng: torch.Generator, rules: Mapping[type[nn.Module], WeightRule] = {}
) -> None:
    """Give every layer the weights that torch gives by default, drawn from `rng`.

    A layer comes after the layers inside it, so that its rule has the last word on theirs.

    Args:
        module: what to fill, on the CPU.
        rng: where the weights come from.
        rules: for types of layers that `WEIGHT_RULES` does not know, or knows otherwise.

    Raises:
        TypeError: for a layer whose default is not known here.
    """
    known = {**WEIGHT_RULES, **rules}

    def fill(layer: nn.Module) -> None:
        rule = next((known[kind] for kind in type(layer).__mro__ if kind in known), None)
        if rule is not None:
            rule(layer, rng)
        elif any(True for _ in chain(layer.parameters(False), layer.buffers(False))):
            raise TypeError(f"no default weights known for {type(layer).__name__}")

    module.apply(fill)
