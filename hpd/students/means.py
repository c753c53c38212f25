"""Means by class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean of the rows of each class.

    Args:
        values: [N, E].
        labels: [N], int64.
        num_classes: K.

    Returns:
        [K, E]; zero for a class without rows.

    >>> import torch
    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
    tensor([[2.],
            [5.]])
    """
    member = F.one_hot(labels, num_classes).to(values.dtype)
    counts = member.sum(dim=0).clamp(min=1)
    return member.t() @ values / counts[:, None]
