"""How students answer to real images: to first order only, so as fast as the device allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from hpd.errors import ConfigError
from hpd.machine.host import computes_on_host
from hpd.students.base import Student
from hpd.students.footprint import Footprint
from hpd.students.half import with_half_norms
from hpd.students.stacked.stack import StudentStack, stackable

_Tensors = dict[str, Tensor]
# activations of this many images stay in the cache of a CPU
_PART_ON_CPU = 64
# and of large images, so many that their maps take no more than a few hundred MB: no slower
_PIXELS_ON_CPU = 1 << 17


class Response:
    """Gradients and embeddings of fresh students of one architecture, without a graph.

    Students answer in eval mode. Real images need no second derivative, so they may go through a
    compiled student, which a graph that is differentiated twice may not. On a CPU the field's
    ConvNets answer through a `StudentStack` of one, which beats compiling them; in bfloat16 all
    students go channels last there, with instance norms of their own (`HalfNorm`).

    Args:
        make: returns the module; called once, on the meta device.
        compiled: compile the student with `torch.compile`. The first answer takes about half a
            minute, those after it two thirds of the time or less. Needs a C++ compiler.
        dtype: what is computed in. bfloat16 pays on a GPU and on a CPU with AMX or
            AVX512-BF16, and is many times slower elsewhere; see `student_dtype`. Results are
            float32 either way, and so are sums over images.
        stacked: take the stack where there can be one; else the layers of torch.
    """

    def __init__(
        self,
        make: Callable[[], Student],
        *,
        compiled: bool = False,
        dtype: torch.dtype = torch.float32,
        stacked: bool = True,
    ) -> None:
        with torch.device("meta"):
            template = make().eval().requires_grad_(False)
        self._template = template
        self._room: dict[tuple[tuple[int, ...], torch.device, int], int] = {}
        self._compiled = compiled
        torchs_own = compiled or dtype == torch.bfloat16 or not stacked
        self._stackable = stackable(template) and not torchs_own
        self._stack: StudentStack | None = None
        self.dtype = dtype
        """What is computed in."""
        # None leaves the student's own dtype, which may be float64
        self._half = torch.bfloat16 if dtype == torch.bfloat16 else None
        # what goes through once may have layers that are differentiated once; in batches of
        # batches, which no CPU takes, they are torch's
        once = template
        if self._half is not None and not compiled:
            with torch.device("meta"):
                once = with_half_norms(make().eval().requires_grad_(False))
        # the template's weights are never used: each call brings those of a student
        self._loss: Callable[..., Tensor] = _Loss(once)
        self._embed: Callable[..., Tensor] = Embedding(once)
        if compiled:
            self._loss, self._embed = torch.compile(self._loss), torch.compile(self._embed)
        self._loss_of_batches = self._loss if once is template else _Loss(template)

    def weight_gradient(
        self, student: Student, images: Tensor, labels: Tensor, names: Sequence[str]
    ) -> list[Tensor]:
        """Return the gradient of the mean cross entropy by some of a student's parameters.

        Args:
            student: of this architecture, in eval mode.
            images: normalised [N, C, H, W].
            labels: [N].
            names: of the parameters.

        Returns:
            a tensor of each parameter's shape and dtype.

        Raises:
            ConfigError: if the student is to be compiled and cannot be.
        """
        given = dict(student.named_parameters())
        total = [torch.zeros_like(given[name]) for name in names]
        gradient = self._summed_gradient(student, names)
        size = self._part_size(images)
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            for sum_, part in zip(total, gradient(x, y), strict=True):
                sum_ += part
        return [sum_ / len(images) for sum_ in total]

    def embed(self, student: Student, images: Tensor) -> Tensor:
        """Embed normalised images [N, C, H, W]: [N, E], of the dtype of the images."""
        answer = self._embedding(student)
        with torch.no_grad():
            parts = [
                answer(part).to(images.dtype) for part in images.split(self._part_size(images))
            ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def weight_gradients(
        self, student: Student, images: Tensor, labels: Tensor, names: Sequence[str]
    ) -> list[Tensor]:
        """Return `weight_gradient` of several batches of one size, each by itself, at once.

        Args:
            student: as there.
            images: normalised [B, n, C, H, W].
            labels: [B, n].
            names: of the parameters.

        Returns:
            a tensor [B, ...] of each parameter.
        """
        tensors = self._tensors(student)
        chosen = tuple(tensors.pop(name) for name in names)

        def loss(weights: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
            given = tensors | dict(zip(names, weights, strict=True))
            return self._loss_of_batches(given, x, y) / len(y)

        found = gradients_of_batches(loss, chosen, self._cast(images), labels)
        return [one.to(images.dtype) for one in found]

    def at_once(self, image_shape: Sequence[int], device: torch.device, copies: int = 1) -> int:
        """Return how many images (C, H, W) an accelerator takes at once; see `Footprint`.

        Its memory is looked at once: so a step is parted as the one before it.
        """
        asked = (tuple(image_shape), device, copies)
        if asked not in self._room:
            found = Footprint.of(self._template, asked[0])
            self._room[asked] = found.images_at_once(device, copies)
        return self._room[asked]

    def _part_size(self, images: Tensor) -> int:
        if not computes_on_host(images.device):
            return self.at_once(images.shape[1:], images.device)
        return max(1, min(_PART_ON_CPU, _PIXELS_ON_CPU // math.prod(images.shape[2:])))

    def _summed_gradient(
        self, student: Student, names: Sequence[str]
    ) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
        """Return what gives the gradient of the summed cross entropy of images and labels."""
        stack = self._stack_of(student)
        if stack is not None:
            classes = student.head.out_features

            def stacked(images: Tensor, labels: Tensor) -> Sequence[Tensor]:
                targets = F.one_hot(labels, classes).to(images.dtype)
                stack.differentiate(images[None], targets[None])
                found = stack.gradient_of(0)
                return [found[name] * len(images) for name in names]

            return stacked
        tensors = self._tensors(student)
        chosen = [tensors[name].requires_grad_() for name in names]

        def eager(images: Tensor, labels: Tensor) -> Sequence[Tensor]:
            return torch.autograd.grad(self._loss(tensors, self._cast(images), labels), chosen)

        return lambda images, labels: self._run(eager, images, labels)

    def _embedding(self, student: Student) -> Callable[[Tensor], Tensor]:
        stack = self._stack_of(student)
        if stack is not None:
            return lambda images: stack.embed(images[None])[0]
        if self._half is None and not self._compiled:
            return student.embed
        tensors = self._tensors(student)
        return lambda images: self._run(self._embed, tensors, self._cast(images))

    def _stack_of(self, student: Student) -> StudentStack | None:
        """Return the stack with the weights of this student, or None if it cannot be one."""
        weight = student.head.weight
        if not self._stackable or not computes_on_host(weight.device):
            return None
        if self._stack is None or self._stack.values.dtype != weight.dtype:
            self._stack = StudentStack([student])
        else:
            self._stack.load([student])
        return self._stack

    def _tensors(self, student: Student) -> _Tensors:
        """Return parameters and buffers as they are computed with, without gradient."""
        named = [*student.named_parameters(), *student.named_buffers()]
        return {name: self._cast(value) for name, value in named}

    def _cast(self, value: Tensor) -> Tensor:
        """Return the tensor in the dtype and memory format of the computation."""
        if not value.is_floating_point():
            return value.detach()
        # an alias, so that asking for gradients leaves the student's own tensor alone
        last = self._compiled or (self._half is not None and computes_on_host(value.device))
        images = last and value.ndim == 4
        memory_format = torch.channels_last if images else torch.preserve_format
        return value.to(dtype=self._half, memory_format=memory_format).detach()

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._compiled:
            return function(*arguments)
        try:
            return function(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ConfigError(
                "the student cannot be compiled here",
                got=lines[0] if lines else type(error).__name__,
                fix="Set objective.compile=false, or install a C++ compiler.",
            ) from error


class _Loss:
    """The summed cross entropy of a student with given weights."""

    def __init__(self, template: Student) -> None:
        self._template = template

    def __call__(self, tensors: _Tensors, images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(self._template, tensors, (images,))
        # the sum over many images needs more digits than bfloat16 has
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        return F.cross_entropy(logits, labels, reduction="sum")


class Embedding:
    """The embedding of a student with given weights.

    Args:
        template: the student; its own weights are not used.
    """

    def __init__(self, template: Student) -> None:
        self._template = _EmbedOnly(template)

    def __call__(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Embed images [N, C, H, W] by weights and buffers: [N, E]."""
        named = {f"student.{name}": value for name, value in tensors.items()}
        return functional_call(self._template, named, (images,))


class _EmbedOnly(torch.nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student.embed(images)


def gradients_of_batches(
    loss: Callable[..., Tensor], weights: tuple[Tensor, ...], images: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradient of a loss by weights for each of several batches, in one pass.

    Where the images have a graph, so has what is returned.

    Args:
        loss: of weights, images [n, C, H, W] and labels [n].
        weights: the same for all batches.
        images: [B, n, C, H, W].
        labels: [B, n], or probabilities [B, n, K].

    Returns:
        a tensor [B, ...] of each weight.
    """
    return vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
