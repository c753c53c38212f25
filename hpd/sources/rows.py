"""Rows of parameters: those of some classes, which one of several processes optimises."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(labels: Tensor, classes: Tensor) -> Tensor:
    """Return the indices of the labels [N] that are among `classes`, ascending.

    >>> rows_of(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 0]))
    tensor([0, 1, 3])
    """
    return torch.isin(labels, classes.to(labels)).nonzero().flatten()


def as_leaf(values: Tensor) -> Tensor:
    """Return a copy that is optimised in the place of what it was made from."""
    return values.detach().clone().requires_grad_()
