"""Kernel ridge regression on features of a student, as selectors and objectives use it."""

from __future__ import annotations

import torch
from torch import Tensor

from hpd.machine.host import one_hot


def centred_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot labels less 1/K, float64 [N, K]: what a regression is to give.

    Centred, a penalty draws predictions to "any class". Which class is the highest is the same
    without: the centre takes the same from the predictions of all classes.

    >>> centred_targets(torch.tensor([1]), 2)
    tensor([[-0.5000,  0.5000]], dtype=torch.float64)
    """
    return one_hot(labels, num_classes).double() - 1 / num_classes


def ridge_predictions(real: Tensor, synthetic: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return kernel ridge regression's predictions for real images.

    ``P = R S^T (S S^T + ridge tr(S S^T)/N I)^-1 Y``: the prediction does not depend on the scale
    of the features, and images that are there twice do no harm. Gradients flow to all tensors.

    Args:
        real: features R of M images [M, E].
        synthetic: features S of N images [N, E].
        targets: Y, [N, K].
        ridge: weight of the penalty, above 0.

    Returns:
        [M, K]; zero if all of S is, nan if there is a nan in it.

    Source: Nguyen, Chen and Lee, Dataset Meta-Learning from Kernel Ridge-Regression, ICLR 2021;
    with the features of random networks, Loo et al., NeurIPS 2022.
    """
    kernel = synthetic @ synthetic.t()
    scale = kernel.trace() / len(kernel)
    # features that are all zero predict zero, with any penalty
    penalty = ridge * torch.where(scale == 0, torch.ones_like(scale), scale)
    penalised = kernel + penalty * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    # _ex does not raise: what is not finite stays so, and the loop says where it is from
    factor, _ = torch.linalg.cholesky_ex(penalised)
    return real @ (synthetic.t() @ torch.cholesky_solve(targets, factor))
