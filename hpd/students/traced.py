"""How students answer to images that a gradient goes back to: with a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from hpd.machine.host import computes_on_host
from hpd.students.base import Student
from hpd.students.half import with_half_norms
from hpd.students.response import Embedding, gradients_of_batches


class Traced:
    """Gradients and embeddings of students of one architecture, to be differentiated by images.

    Weights, images and what comes back are float32 whatever is computed in: they are rounded on
    the way, and their gradients are added up in float32.

    Args:
        make: returns the module; called once, on the meta device.
        dtype: what is computed in.
    """

    def __init__(self, make: Callable[[], Student], *, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        """What is computed in."""
        # None leaves the student's own dtype, which may be float64
        self._half = torch.bfloat16 if dtype == torch.bfloat16 else None
        if self._half is not None:
            with torch.device("meta"):
                self._embedding = Embedding(with_half_norms(make().eval()))

    def embed(self, student: Student, images: Tensor) -> Tensor:
        """Embed normalised images [N, C, H, W]: [N, E], differentiable once.

        Args:
            student: of this architecture, in eval mode.
            images: which may need a gradient.
        """
        if self._half is None:
            return student.embed(images)
        # as convolutions of a CPU want bfloat16
        last = computes_on_host(images.device)
        tensors = {name: self._rounded(value, last) for name, value in _tensors(student)}
        return self._embedding(tensors, self._rounded(images, last)).to(images.dtype)

    def weight_gradient(
        self, student: Student, images: Tensor, labels: Tensor, names: Sequence[str]
    ) -> list[Tensor]:
        """Return the gradient of the mean cross entropy, to be differentiated by the images.

        Args:
            student: the network.
            images: normalised [N, C, H, W].
            labels: [N], or probabilities [N, K], which the gradient depends on, too.
            names: of the parameters.
        """
        parameters = dict(student.named_parameters())
        loss = F.cross_entropy(self._logits(student, images), labels)
        return list(torch.autograd.grad(loss, [parameters[n] for n in names], create_graph=True))

    def weight_gradients(
        self, student: Student, images: Tensor, labels: Tensor, names: Sequence[str]
    ) -> list[Tensor]:
        """Return `weight_gradient` of several batches of one size, each by itself, at once.

        Args:
            student: the network.
            images: normalised [B, n, C, H, W].
            labels: [B, n], or probabilities [B, n, K].
            names: of the parameters.

        Returns:
            a tensor [B, ...] of each parameter.
        """
        rest = dict(_tensors(student))
        chosen = tuple(rest.pop(name) for name in names)

        def loss(weights: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
            given = rest | dict(zip(names, weights, strict=True))
            rounded = {name: self._rounded(value) for name, value in given.items()}
            logits = functional_call(student, rounded, (self._rounded(x),))
            return F.cross_entropy(logits.to(x.dtype), y)

        return list(gradients_of_batches(loss, chosen, images, labels))

    def _logits(self, student: Student, images: Tensor) -> Tensor:
        """Return logits by the student's own layers, which can be differentiated twice."""
        if self._half is None:
            return student(images)
        tensors = {name: self._rounded(value) for name, value in _tensors(student)}
        return functional_call(student, tensors, (self._rounded(images),)).to(images.dtype)

    def _rounded(self, value: Tensor, last: bool = False) -> Tensor:
        """Return a tensor in the dtype of the computation, channels last if it is to be."""
        if self._half is None or not value.is_floating_point():
            return value
        images = last and value.ndim == 4
        memory_format = torch.channels_last if images else torch.preserve_format
        return value.to(dtype=self._half, memory_format=memory_format)


def _tensors(student: Student) -> list[tuple[str, Tensor]]:
    return [*student.named_parameters(), *student.named_buffers()]
