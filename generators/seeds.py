"""Seeds of samples: one number from which a z is drawn, the same for as long as there is numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SEED_BITS = 32
"""Of a seed that is kept."""
_SEEDS = 2**31


def draw_seeds(count: int, rng: torch.Generator) -> Tensor:
    """Return random seeds [count], int64, in [0, 2^31)."""
    return torch.randint(_SEEDS, (count,), generator=rng)


def z_of_seeds(seeds: Tensor, z_dim: int) -> Tensor:
    """Return z ~ N(0, I) of each seed, [N, z_dim], float32, on the CPU.

    Drawn by numpy's `RandomState`, whose stream is frozen (NEP 19): torch promises no stream from
    one release to the next, and a set of seeds must outlast both.

    Args:
        seeds: [N], int64, in [0, 2^31).
        z_dim: numbers of a z.

    >>> z_of_seeds(torch.tensor([0]), 3)
    tensor([[1.7641, 0.4002, 0.9787]])
    """
    rows = np.empty((len(seeds), z_dim))
    for row, seed in zip(rows, seeds.tolist(), strict=True):
        row[:] = np.random.RandomState(seed).standard_normal(z_dim)
    return torch.from_numpy(rows).float()
