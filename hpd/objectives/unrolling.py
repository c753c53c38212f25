"""A student's steps of SGD as a function of the images, differentiated in three ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from hpd.augment import Augmentation
from hpd.students import Student
from hpd.students.parameters import layout_of, unflatten

Method = Literal["constant_memory", "unrolled", "checkpointed"]


@dataclass(frozen=True)
class Batch:
    """What one student step trains on.

    Args:
        images: all synthetic images, normalised [N, C, H, W].
        labels: [N], or probabilities [N, K].
        chosen: indices of the batch.
        augment: applied to the batch; None for nothing.
    """

    images: Tensor
    labels: Tensor
    chosen: Tensor
    augment: Augmentation | None

    def draw(self, images: Tensor) -> Tensor:
        """Return the augmented batch out of `images`, which stand for `self.images`."""
        part = images[self.chosen]
        return part if self.augment is None else self.augment(part)


class UnrolledStudent:
    """A student whose parameters are one vector.

    Args:
        make: returns the module; called once, on the meta device.
    """

    def __init__(self, make: Callable[[], Student]) -> None:
        with torch.device("meta"):
            self._template = make().eval().requires_grad_(False)
        self._layout = layout_of(self._template)

    def gradient(
        self, theta: Tensor, batch: Batch, images: Tensor, labels: Tensor, *, create_graph: bool
    ) -> Tensor:
        """Return the gradient [P] of the batch's mean cross entropy by the parameters.

        Args:
            theta: parameters [P], requiring grad.
            batch: which images, and how they are augmented.
            images: all of them, normalised.
            labels: of all of them.
            create_graph: whether the gradient is to be differentiated.
        """
        named = unflatten(theta, self._layout)
        logits = functional_call(self._template, named, (batch.draw(images),))
        loss = F.cross_entropy(logits, labels[batch.chosen])
        (grad,) = torch.autograd.grad(loss, theta, create_graph=create_graph)
        return grad

    def step(
        self, theta: Tensor, images: Tensor, labels: Tensor, lr: Tensor, batch: Batch
    ) -> Tensor:
        """Return the parameters [P] after one step of SGD, differentiable by all arguments."""
        return theta - lr * self.gradient(theta, batch, images, labels, create_graph=True)


def unrolled(
    student: UnrolledStudent, start: Tensor, batches: Sequence[Batch], lr: Tensor
) -> Tensor:
    """Return the parameters after all steps, with the whole graph behind them."""
    theta = start.detach().requires_grad_()
    for batch in batches:
        theta = student.step(theta, batch.images, batch.labels, lr, batch)
    return theta


def checkpointed(
    student: UnrolledStudent, start: Tensor, batches: Sequence[Batch], lr: Tensor
) -> Tensor:
    """Return the same with the same gradient, each step's graph made again when it is needed."""
    theta = start.detach().requires_grad_()
    for batch in batches:
        # reentrant checkpointing breaks the double backward inside a step
        theta = checkpoint(
            student.step, theta, batch.images, batch.labels, lr, batch,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return theta


def constant_memory(
    student: UnrolledStudent, start: Tensor, batches: Sequence[Batch], lr: Tensor
) -> Tensor:
    """Return the same with an approximate gradient, in the memory of a single step.

    ``d theta_S = - lr * sum_i d g_i - d lr * sum_i g_i`` with each ``g_i`` a function of its batch
    alone, its parameters ``theta_i`` taken as constants.
    """
    first = batches[0]
    return _ConstantMemory.apply(student, start, batches, first.images, first.labels, lr)


class _ConstantMemory(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: UnrolledStudent, start: Tensor, batches: Sequence[Batch],
        images: Tensor, labels: Tensor, lr: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.student, ctx.batches = student, batches
        ctx.save_for_backward(start, images, labels, lr)
        theta = start.clone()
        for batch in batches:
            theta -= lr * _first_order(student, theta, batch, images, labels)
        return theta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *end_grads: Tensor) -> Any:
        """Walk the same way again, and pull the end's gradient back through each step alone."""
        start, images, labels, lr = ctx.saved_tensors
        (end_grad,) = end_grads
        theta, lr_grad = start.clone(), torch.zeros_like(lr)
        # classes have no gradient, probabilities have one if it is asked for
        wanted = (images, labels) if ctx.needs_input_grad[4] else (images,)
        found = [torch.zeros_like(values) for values in wanted]
        for batch in ctx.batches:
            with torch.enable_grad():
                leaves = [values.detach().requires_grad_() for values in wanted]
                told = leaves[1] if len(leaves) > 1 else labels
                here = theta.detach().requires_grad_()
                g = ctx.student.gradient(here, batch, leaves[0], told, create_graph=True)
                grads = torch.autograd.grad(g, leaves, end_grad)
            for total, grad in zip(found, grads, strict=True):
                total -= lr * grad
            g = g.detach()
            lr_grad -= torch.dot(end_grad, g)
            theta -= lr * g
        image_grad, label_grad = [*found, None][:2]
        return None, None, None, image_grad, label_grad, lr_grad


def _first_order(
    student: UnrolledStudent, theta: Tensor, batch: Batch, images: Tensor, labels: Tensor
) -> Tensor:
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        return student.gradient(leaf, batch, images.detach(), labels.detach(), create_graph=False)


METHODS: Mapping[Method, Callable[[UnrolledStudent, Tensor, Sequence[Batch], Tensor], Tensor]] = {
    "constant_memory": constant_memory,
    "unrolled": unrolled,
    "checkpointed": checkpointed,
}
