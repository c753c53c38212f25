"""Naive twins of recovery and of its add-on: loops over images, channels and pairs, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def recovery_value(student, images, labels, *, r_bn, r_mean, r_var, first):
    """CE + r_bn sum_l m_l (r_mean |mean - running| + r_var |var - running|), layer by layer.

    The student is a ConvNet with batch norm; its layers are applied one by one, in eval mode.
    """
    x, apart = images, []
    for layer in student.blocks:
        if isinstance(layer, nn.BatchNorm2d):
            means, spreads = 0.0, 0.0
            for channel in range(x.shape[1]):
                values = x[:, channel].reshape(-1)
                mean = sum(values) / len(values)
                variance = sum((v - mean) ** 2 for v in values) / len(values)
                means = means + (mean - layer.running_mean[channel]) ** 2
                spreads = spreads + (variance - layer.running_var[channel]) ** 2
            apart.append(r_mean * means**0.5 + r_var * spreads**0.5)
            shape = (1, -1, 1, 1)
            scale = layer.weight / (layer.running_var + layer.eps) ** 0.5
            x = (x - layer.running_mean.view(shape)) * scale.view(shape) + layer.bias.view(shape)
        elif isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.ReLU):
            x = torch.where(x > 0, x, torch.zeros_like(x))
        else:
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    logits = x.flatten(1) @ student.head.weight.t() + student.head.bias
    crosses = [row.exp().sum().log() - row[y] for row, y in zip(logits, labels, strict=True)]
    apart[0] = first * apart[0]
    return sum(crosses) / len(labels) + r_bn * sum(apart)


def _pairs(synthetic, labels, real, real_labels, tau):
    """For each synthetic image its similarities to real ones, and which of these are positive."""

    def scaled(row):
        return row / sum(v * v for v in row) ** 0.5

    for z, y in zip(synthetic, labels.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(scaled(z), scaled(t), strict=True)) / tau for t in real]
        yield scores, [c == y for c in real_labels.tolist()]


def info_nce_value(synthetic, labels, real, real_labels, tau):
    """InfoNCE with several positives: one pair at a time."""
    total = 0.0
    for scores, positive in _pairs(synthetic, labels, real, real_labels, tau):
        everything = sum(torch.exp(s) for s in scores)
        own = [
            torch.log(torch.exp(s) / everything) for s, p in zip(scores, positive, strict=True) if p
        ]
        total = total - sum(own) / len(own)
    return total / len(synthetic)


def contrastive_value(synthetic, labels, real, real_labels, tau, cardinality):
    """CRD: one pair at a time."""
    total = 0.0
    for scores, positive in _pairs(synthetic, labels, real, real_labels, tau):
        others = positive.count(False)
        h = [torch.exp(s) / (torch.exp(s) + others / cardinality) for s in scores]
        own = [torch.log(value) for value, p in zip(h, positive, strict=True) if p]
        rest = [torch.log(1 - value) for value, p in zip(h, positive, strict=True) if not p]
        total = total - sum(own) / len(own) - sum(rest)
    return total / len(synthetic)
