"""What every student can do, and how one is built without touching the global random state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hpd.registry import Registry, Settings

ImageShape = tuple[int, int, int]


class Student(nn.Module, ABC):
    """A classifier in three parts: feature maps, embedding, linear head.

    ``forward(x) = head(embed(x))`` with ``embed(x) = pool(features(x))``. All take normalised
    images [N, C, H, W].
    """

    head: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the last convolutional feature maps [N, F, h, w]."""

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """Turn feature maps [N, F, h, w] into the embedding [N, E] that the head reads."""

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
        """Return a student on the CPU with fresh weights drawn from `rng`."""
        # modules draw from the global generator when they are made; on meta nothing is drawn
        with torch.device("meta"):
            student = self.make(image_shape, num_classes)
        student.to_empty(device="cpu")
        initialise(student, rng)
        return student


STUDENTS: Registry[StudentSettings] = Registry("student")


@torch.no_grad()
def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Give every layer the weights that torch gives by default, drawn from `rng`.

    Convolutions and linear layers: uniform in +-1/sqrt(fan_in), weights and biases; norms: weight
    1, bias 0, running mean 0 and variance 1.

    Raises:
        TypeError: for a layer whose default is not known here.
    """
    for layer in module.modules():
        own = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for value in own.values():
                value.uniform_(-bound, bound, generator=rng)
        elif isinstance(layer, nn.GroupNorm | nn.BatchNorm2d):
            for name, value in own.items():
                value.fill_(1 if name in ("weight", "running_var") else 0)
        elif own:
            raise TypeError(f"no default weights known for {type(layer).__name__}")
