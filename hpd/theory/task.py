"""A multi-index task: a label that depends on a few directions of its input alone.

Letters of this package: n examples in d dimensions, of which r matter; m distilled points; L units
of a two-layer network. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MultiIndexTask:
    """``y = g(U x)`` with x ~ N(0, I_d) and z = U x.

    ``g(z) = sum_k He2(z_k) / sqrt(2 r) + 0.5 z_1 z_2 + 0.5 He3(z_1) / sqrt(6)``, the second term
    from r = 2 on. He2 and He3 are Hermite polynomials, so mean and linear part of y are zero, and
    its variance is 1.5 (1.25 for r = 1).

    Args:
        subspace: U [r, d], orthonormal rows.
    """

    subspace: Tensor

    @classmethod
    def draw(cls, rank: int, dimension: int, rng: torch.Generator) -> MultiIndexTask:
        """Return a task on a random subspace of dimension `rank`."""
        normal = torch.randn(dimension, rank, generator=rng, dtype=torch.float64)
        return cls(torch.linalg.qr(normal)[0].t().contiguous())

    @property
    def variance(self) -> float:
        """Variance of y."""
        return 1.5 if len(self.subspace) > 1 else 1.25

    def labels(self, inputs: Tensor) -> Tensor:
        """Return y [n] of inputs [n, d]."""
        z = inputs @ self.subspace.t()
        y = (z.square() - 1).sum(dim=1) / math.sqrt(2 * z.shape[1])
        y += 0.5 * (z[:, 0] ** 3 - 3 * z[:, 0]) / math.sqrt(6)
        if z.shape[1] > 1:
            y += 0.5 * z[:, 0] * z[:, 1]
        return y

    def examples(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs [count, d] and their labels [count]."""
        inputs = torch.randn(count, self.subspace.shape[1], generator=rng, dtype=torch.float64)
        return inputs, self.labels(inputs)


def alignment(points: Tensor, subspace: Tensor) -> float:
    """Return which share of points lies in a subspace, in [0, 1]; by chance r / d.

    ``mean_m ||U x_m||^2 / ||x_m||^2``; a point that is zero counts as 0.

    Args:
        points: [m, d].
        subspace: U [r, d], orthonormal rows.

    >>> alignment(torch.tensor([[1.0, 1.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    0.75
    """
    inside = (points @ subspace.t()).square().sum(dim=1)
    whole = points.square().sum(dim=1)
    return float((inside / torch.where(whole > 0, whole, torch.ones_like(whole))).mean())
