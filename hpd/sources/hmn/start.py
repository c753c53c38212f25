"""The start of hierarchical memories from real images: memories and networks that render them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpd.data import ImageSet

_BATCH = 128
_LR_MEMORIES, _LR_NETWORKS = 0.03, 0.005


def draw_targets(train: ImageSet, per_class: int, rng: torch.Generator) -> Tensor:
    """Return indices of random real images [K * per_class], ordered by class.

    A class of fewer images comes round again, in the same order.
    """
    orders = [train.draw(c, per_class, rng) for c in range(train.num_classes)]
    return torch.cat([own.repeat(-(-per_class // len(own)))[:per_class] for own in orders])


def fit_to_real(
    decode: Callable[[Tensor], Tensor],
    memories: Sequence[Tensor],
    networks: Sequence[Tensor],
    targets: Callable[[Tensor], Tensor],
    *,
    count: int,
    steps: int,
    rng: torch.Generator,
) -> None:
    """Fit memories and networks in place to real images: each image to one of its own.

    Minimises the mean squared error of random batches by Adam (Kingma and Ba, ICLR 2015), with
    rates that fall to zero along a cosine.

    Args:
        decode: maps indices [n] to images [n, C, H, W].
        memories: leaf tensors.
        networks: leaf tensors.
        targets: maps indices [n] to the images they are fitted to.
        count: number of images.
        steps: of the optimiser.
        rng: of the batches.
    """
    groups = [
        {"params": list(tensors), "lr": lr}
        for tensors, lr in ((memories, _LR_MEMORIES), (networks, _LR_NETWORKS))
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < min(_BATCH, count):
            order = torch.randperm(count, generator=rng)
        chosen, order = order[:_BATCH], order[_BATCH:]
        with torch.enable_grad():
            error = (decode(chosen) - targets(chosen)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        falling.step()
    optimizer.zero_grad()
