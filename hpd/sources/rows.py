"""Rows of parameters: those of some classes, or of some images, and the way back to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpd.machine.host import fetch, on_host, send


def rows_of(labels: Tensor, classes: Tensor) -> Tensor:
    """Return the indices of the labels [N] that are among `classes`, ascending.

    >>> rows_of(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 0]))
    tensor([0, 1, 3])
    """
    return torch.isin(labels, classes.to(labels)).nonzero().flatten()


def as_leaf(values: Tensor) -> Tensor:
    """Return a copy that is optimised in the place of what it was made from; it lies in order."""
    return values.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def picked(leaf: Tensor, indices: Tensor, device: torch.device | None = None) -> Tensor:
    """Return rows of a leaf; their gradient is added to those rows of its `.grad`.

    As ``leaf[indices]``, whose gradient is a tensor of the size of the leaf each time: of many
    images that are decoded chunk by chunk, as many of them as chunks. `torch.autograd.grad` does
    not find the leaf through this.

    Args:
        leaf: parameters with a row for each image.
        indices: which rows [n]. Of a row that is picked several times before one step of an
            optimiser the gradients are summed as they come.
        device: where the rows are sent, of a leaf that lies on the host, to which their gradient
            comes back; None: the leaf lies where it is used.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> picked(x, torch.tensor([2, 0])).mul(torch.tensor([5.0, 7.0])).sum().backward()
    >>> x.grad
    tensor([7., 0., 5.])
    """
    if not (leaf.requires_grad and leaf.is_leaf and torch.is_grad_enabled()):
        return _rows(leaf, indices, device)
    rows: Tensor = _Picked.apply(leaf, indices, device)
    return rows


def _rows(leaf: Tensor, indices: Tensor, device: torch.device | None) -> Tensor:
    return leaf[indices] if device is None else send(leaf.detach()[on_host(indices)], device)


class _Picked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, indices: Tensor, device: torch.device | None) -> Tensor:
        ctx.leaf, ctx.indices, ctx.away = leaf, indices, device is not None
        return _rows(leaf, indices, device)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        leaf: Tensor = ctx.leaf
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        indices = on_host(ctx.indices) if ctx.away else ctx.indices
        leaf.grad.index_put_((indices,), fetch(grad) if ctx.away else grad, accumulate=True)
        return None, None, None
