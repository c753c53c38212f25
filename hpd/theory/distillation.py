"""Distilling a multi-index task: points that teach the first layer, labels that teach the second.

A reconstruction of Kinoshita, Nishikawa and Toyoizumi, Dataset Distillation Efficiently Encodes
Low-Dimensional Representations from Gradient-Based Learning of Non-Linear Tasks, arXiv 2603.14830,
2026: the formulas are ours, from what its abstract says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.theory.network import Moments, Start, ridge_map


@dataclass(frozen=True)
class Points:
    """Distilled examples of the first phase.

    Args:
        inputs: x~ [m, d].
        labels: y~ [m], all 1: where signs are mixed, points of like direction cancel.
    """

    inputs: Tensor
    labels: Tensor


def without_linear_part(inputs: Tensor, labels: Tensor) -> Tensor:
    """Return labels [n] less their mean, and then less ``b . x`` with ``b = mean_i y_i x_i``.

    Its sampling noise would drown what the first layer is to learn.
    """
    centred = labels - labels.mean()
    return centred - inputs @ (inputs * centred[:, None]).mean(dim=0)


def distil_points(start: Start, signals: Tensor, count: int, rng: torch.Generator) -> Points:
    """Return points after one step of gradient matching, from normal noise.

    ``x~_m <- c y~_m mean_j 1{w_j . x~_m > 0} G_j``: the gradient by x~_m of the agreement
    ``sum_j G_j . G~_j`` of real and distilled signals, up to a factor, and nothing left of the
    noise. The factor c is the same for all points, and such that the mean of ``||x~_m||^2`` is d.

    Args:
        start: at which the gradients are matched.
        signals: G [L, d] of real examples.
        count: m.
        rng: where the noise comes from.
    """
    width, dimension = signals.shape
    noise = torch.randn(count, dimension, generator=rng, dtype=signals.dtype)
    labels = torch.ones(count, dtype=signals.dtype)
    active = (noise @ start.weights.t() > 0).to(signals.dtype)
    moved = labels[:, None] * (active @ signals) / width
    scale = (dimension / moved.square().sum(dim=1).mean()).sqrt()
    return Points(moved * scale, labels)


def distil_labels(known: Moments, probes: Tensor, ridge: float) -> Tensor:
    """Return labels by which the second layer learns what real examples would teach it.

    With A the ridge map of the probes (see `hpd.theory.network.ridge_map`) and P the features of
    real examples, ``y~ = argmin mean (P A y~ - y)^2 + ridge mean y~^2``, in closed form. Without
    the second term the labels are huge where features are nearly dependent.

    Args:
        known: moments of P and y.
        probes: features [n, F] of inputs that a seed gives, so that nobody stores them.
        ridge: of the fit to the labels, and of the labels.

    Returns:
        y~ [n].
    """
    to_fit = ridge_map(probes, ridge)
    return Moments(to_fit.t() @ known.gram @ to_fit, to_fit.t() @ known.cross).fit(
        ridge / len(probes)
    )
