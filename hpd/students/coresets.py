"""Which real images stand best for all of them: the selections that distillation must beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Selection = Callable[[Tensor, int], Tensor]
"""Takes the features [N, F] of one class and a count, and gives so many indices, best first."""


def herding(features: Tensor, count: int, towards: Tensor | None = None) -> Tensor:
    """Pick images one by one so that the mean of those picked stays closest to a mean.

    ``i_k = argmin_i || mean - (f_i + sum_{j<k} f_{i_j}) / k ||`` over images not yet picked.

    Args:
        features: [N, F].
        count: at most N.
        towards: the mean [F]; None: that of all the features.

    Returns:
        indices [count], int64, in the order of picking.

    Source: Welling, Herding Dynamical Weights to Learn, ICML 2009, as Rebuffi et al., iCaRL, CVPR
    2017, use it.

    >>> herding(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
    tensor([2, 1])
    """
    mean = features.mean(dim=0) if towards is None else towards
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, count + 1):
        gaps = (mean - (features + total) / k).square().sum(dim=1)
        pick = int(gaps.where(free, torch.inf).argmin())
        free[pick] = False
        total = total + features[pick]
        chosen.append(pick)
    return torch.tensor(chosen, dtype=torch.int64)


def k_centre(features: Tensor, count: int) -> Tensor:
    """Pick images one by one, each the farthest from all picked before; the first is central.

    Args:
        features: [N, F].
        count: at most N.

    Returns:
        indices [count], int64, in the order of picking.

    Source: Sener and Savarese, Active Learning for Convolutional Neural Networks, ICLR 2018,
    algorithm 1.

    >>> k_centre(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
    tensor([2, 3, 0])
    """
    pick = int((features - features.mean(dim=0)).square().sum(dim=1).argmin())
    chosen, nearest = [pick], torch.full((len(features),), torch.inf, device=features.device)
    while len(chosen) < count:
        gaps = (features - features[pick]).square().sum(dim=1)
        nearest = torch.minimum(nearest, gaps)
        # one that is picked is never the farthest, even among equal ones
        nearest[pick] = -1
        pick = int(nearest.argmax())
        chosen.append(pick)
    return torch.tensor(chosen, dtype=torch.int64)


SELECTIONS: dict[str, Selection] = {"herding": herding, "k_centre": k_centre}
