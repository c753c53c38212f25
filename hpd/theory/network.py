"""A two-layer network that learns its first layer in one step and its second in closed form.

Source of this way of training: Damian, Lee and Soltanolkotabi, Neural Networks Can Learn
Representations with Gradient Descent, COLT 2022, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# examples whose activations are in memory at a time
_CHUNK = 10_000
_BIAS_RANGE = 2.0


@dataclass(frozen=True)
class Start:
    """Where ``f(x) = sum_j a_j relu(w_j . x + b_j)`` starts: symmetric, so that f = 0.

    Args:
        weights: w [L, d]; the second half of the rows repeats the first.
        signs: a [L], 1 in the first half and -1 in the second.
        biases: b [L], uniform in [-2, 2], as the units see inputs of variance 1 along unit rows.
            They are there once the first layer is learned; before that b = 0.
    """

    weights: Tensor
    signs: Tensor
    biases: Tensor

    @classmethod
    def draw(cls, width: int, dimension: int, rng: torch.Generator) -> Start:
        """Return a start of `width` units, an even number."""
        half = torch.randn(width // 2, dimension, generator=rng, dtype=torch.float64)
        half /= dimension**0.5
        ones = torch.ones(len(half), dtype=torch.float64)
        biases = torch.rand(width, generator=rng, dtype=torch.float64)
        return cls(
            torch.cat([half, half]), torch.cat([ones, -ones]), _BIAS_RANGE * (2 * biases - 1)
        )


def signal(start: Start, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return what examples say to each unit: ``G_j = mean_i y_i x_i 1{w_j . x_i > 0}``.

    At the start, where f = 0, the gradient of ``mean_i (f(x_i) - y_i)^2 / 2`` by w_j is
    ``-a_j G_j``.

    Args:
        start: of the network.
        inputs: [n, d].
        labels: [n].

    Returns:
        G [L, d].
    """
    total = torch.zeros_like(start.weights)
    for x, y in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True):
        active = (x @ start.weights.t() > 0).to(x.dtype)
        total += (active * y[:, None]).t() @ x
    return total / len(inputs)


def learned_rows(start: Start, signals: Tensor) -> Tensor:
    """Return the first layer after one step: rows ``a_j G_j`` scaled to norm 1; zero ones stay.

    Args:
        start: of the network.
        signals: G [L, d].
    """
    rows = start.signs[:, None] * signals
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))


def features(rows: Tensor, biases: Tensor, inputs: Tensor) -> Tensor:
    """Return what the second layer sees, [n, L + 1]: ``relu(w_j . x + b_j)``, and a constant 1."""
    hidden = (inputs @ rows.t() + biases).relu_()
    return torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)


@dataclass(frozen=True)
class Moments:
    """All that a least-squares fit of the second layer needs to know of examples.

    Args:
        gram: ``P^T P / n`` of features P [n, F], [F, F].
        cross: ``P^T y / n`` [F].
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, seen: Tensor, labels: Tensor) -> Moments:
        """Measure features [n, F] and labels [n]."""
        return cls(seen.t() @ seen / len(seen), seen.t() @ labels / len(seen))

    def fit(self, ridge: float) -> Tensor:
        """Return the second layer [F] of least ``mean (P a - y)^2 + ridge ||a||^2``."""
        return torch.linalg.solve(_raised(self.gram, ridge), self.cross)


def ridge_map(seen: Tensor, ridge: float) -> Tensor:
    """Return the matrix [F, n] that takes any labels [n] of features [n, F] to their fit.

    ``A = (P^T P / n + ridge I)^-1 P^T / n``, so the fit, and all it predicts, is linear in the
    labels.
    """
    gram = seen.t() @ seen / len(seen)
    return torch.linalg.solve(_raised(gram, ridge), seen.t() / len(seen))


def _raised(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
