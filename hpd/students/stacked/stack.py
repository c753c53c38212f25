"""ConvNets of one architecture as one: their weights, and the gradient of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpd.students.base import ImageShape, Student
from hpd.students.footprint import Footprint
from hpd.students.networks.convolutional import Convolutional
from hpd.students.networks.norms import is_instance_norm
from hpd.students.stacked.layers import Convolution, FirstBlock, Head, Layer, NormReluPool

# Measured on one core, with AVX-512 and held to AVX2 (tools/bench_students.py): Winograd's products
# of so few channels, and batches of so small maps, take longer than convolutions of torch.
_NARROW, _LEAST_VALUES = 32, 20_000


@dataclass(frozen=True)
class _Place:
    """Where a parameter of each student lies in the stack.

    Args:
        name: of the parameter.
        order: turns it into the order of the stack, as a view.
        dim: of the students in the stack.
    """

    name: str
    order: Callable[[Tensor], Tensor]
    dim: int = 0


class StudentStack:
    """Students that answer and learn together.

    Args:
        students: of one architecture, for which `stackable` holds; see `write_back`.
    """

    def __init__(self, students: Sequence[Student]) -> None:
        self._students = students
        first = students[0]
        assert isinstance(first, Convolutional)
        self._places = _places(first)
        each = [dict(student.named_parameters()) for student in students]
        stacked = {
            place.name: torch.stack(
                [place.order(own[place.name].detach()) for own in each], dim=place.dim
            )
            for place in self._places
        }
        self.values = torch.cat([value.flatten() for value in stacked.values()])
        """All weights of all students, [total]."""
        self.gradient = torch.zeros_like(self.values)
        """The gradient of each student's loss by them, [total]; see `differentiate`."""
        sizes = [value.numel() for value in stacked.values()]
        self._weights: dict[str, Tensor] = {}
        for (name, like), value, grad in zip(
            stacked.items(), self.values.split(sizes), self.gradient.split(sizes), strict=True
        ):
            weight = value.view(like.shape).requires_grad_()
            weight.grad = grad.view(like.shape)
            self._weights[name] = weight
        self._connect(first)

    def _connect(self, student: Convolutional) -> None:
        weights, blocks = self._weights, list(student.blocks)
        self._layers: list[Layer] = []
        for i in range(0, len(blocks), 4):
            conv, norm = blocks[i], blocks[i + 1]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.GroupNorm)
            weight, scale, shift = (
                weights[f"blocks.{n}"] for n in (f"{i}.weight", f"{i + 1}.weight", f"{i + 1}.bias")
            )
            if i == 0:
                self._first = FirstBlock(
                    weight, scale, shift, padding=int(conv.padding[0]), eps=norm.eps
                )
            else:
                self._layers += [Convolution(weight), NormReluPool(scale, shift, eps=norm.eps)]
        self._head = Head(weights["head.weight"], weights["head.bias"])

    @torch.no_grad()
    def differentiate(self, images: Tensor, targets: Tensor, temperature: float = 1.0) -> None:
        """Write the gradient of each student's mean cross entropy to `gradient`.

        Args:
            images: normalised, [S, N, C, H, W].
            targets: probabilities of the classes [S, N, K], at this temperature.
            temperature: T of the softmax; the loss counts T^2 times.
        """
        maps = self._last_maps(images)
        grad = self._head.gradient(maps, targets, temperature)
        for layer in reversed(self._layers):
            grad = layer.backward(grad)
        self._first.backward(grad)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return each student's embeddings [S, N, E] of normalised images [S, N, C, H, W]."""
        # a copy: the next call overwrites the maps
        return self._last_maps(images).permute(0, 1, 4, 2, 3).flatten(2).clone()

    def _last_maps(self, images: Tensor) -> Tensor:
        """Return the maps [S, N, h, w, C] that the head sees."""
        maps = self._first.forward(images)
        for layer in self._layers:
            maps = layer.forward(maps)
        return maps

    @torch.no_grad()
    def gradient_of(self, number: int) -> dict[str, Tensor]:
        """Return one student's part of `gradient`, by the names and in the shapes of its own."""
        own = dict(self._students[number].named_parameters())
        found = {name: torch.empty_like(value) for name, value in own.items()}
        for place in self._places:
            grad = self._weights[place.name].grad
            assert grad is not None
            place.order(found[place.name]).copy_(grad.select(place.dim, number))
        return found

    @torch.no_grad()
    def load(self, students: Sequence[Student]) -> None:
        """Go on with the weights of other students of the same architecture, as many."""
        self._students = students
        for place in self._places:
            stacked = self._weights[place.name]
            for i, student in enumerate(students):
                stacked.select(place.dim, i).copy_(place.order(student.get_parameter(place.name)))

    @torch.no_grad()
    def write_back(self, values: Tensor | None = None) -> None:
        """Give the students the weights of the stack, or others in the order of `values`."""
        sizes = [weight.numel() for weight in self._weights.values()]
        parts = (self.values if values is None else values).split(sizes)
        for place, part in zip(self._places, parts, strict=True):
            stacked = part.view(self._weights[place.name].shape)
            for i, student in enumerate(self._students):
                place.order(student.get_parameter(place.name)).copy_(stacked.select(place.dim, i))


def _places(student: Convolutional) -> list[_Place]:
    places = []
    for i in range(0, len(student.blocks), 4):
        if i == 0:
            places.append(_Place("blocks.0.weight", lambda w: w.flatten(1).t()))
        else:
            places.append(_Place(f"blocks.{i}.weight", lambda w: w.permute(2, 3, 1, 0), dim=2))
        # instance norm takes the bias away again, so that its gradient is zero
        names = (f"{i}.bias", f"{i + 1}.weight", f"{i + 1}.bias")
        places += [_Place(f"blocks.{name}", lambda w: w) for name in names]
    positions = student.head.in_features // width_of(student)
    return [
        *places,
        _Place(
            "head.weight",
            lambda w: w.view(len(w), -1, 1, positions).permute(2, 3, 1, 0),
        ),
        _Place("head.bias", lambda w: w),
    ]


def width_of(student: Student) -> int:
    """Return the number of feature maps of a stackable student; its blocks are all as wide."""
    convolution = student.get_submodule("blocks.0")
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels


def stackable(student: Student) -> bool:
    """Return whether a `StudentStack` can be made of students like this one.

    It can of ConvNets with instance norm: of blocks of convolution, norm, ReLU and 2x2 average.
    """
    if type(student) is not Convolutional or len(student.blocks) % 4:
        return False
    blocks = list(student.blocks)
    return all(
        _is_convolution(blocks[i], first=i == 0)
        and is_instance_norm(blocks[i + 1])
        and isinstance(blocks[i + 2], nn.ReLU)
        and isinstance(blocks[i + 3], nn.AvgPool2d)
        and blocks[i + 3].kernel_size == 2
        for i in range(0, len(blocks), 4)
    )


def stack_pays(student: Student, image_shape: ImageShape) -> bool:
    """Return whether a stack of one answers faster on a CPU than torch's layers do.

    Args:
        student: on the meta device, in eval mode.
        image_shape: (C, H, W).
    """
    if not stackable(student) or width_of(student) <= _NARROW:
        return False
    return Footprint.of(student, image_shape).values >= _LEAST_VALUES


def _is_convolution(layer: nn.Module, *, first: bool) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and (first or layer.padding == (1, 1))
    )
