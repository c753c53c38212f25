"""Naive twins: each formula written out with loops, in float64, from its definition."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def modulated_convolution_per_image(x, weight, styles, *, demodulate):
    """Scale a copy of the weights for each image, as the StyleGAN2 paper writes it."""
    images = []
    for image, style in zip(x, styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            norm = (scaled.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            scaled = scaled / norm
        images.append(F.conv2d(image[None], scaled, padding=weight.shape[-1] // 2))
    return torch.cat(images)


def alias_free_convolution_per_image(x, weight, styles, *, input_gain, demodulate):
    """Scale a copy of the weights for each image; demodulation is to norm 1, without an epsilon."""
    images = []
    for image, style in zip(x, styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            scaled = scaled / scaled.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        wide = F.pad(image[None], [weight.shape[-1] - 1] * 4)
        images.append(F.conv2d(wide, scaled * input_gain))
    return torch.cat(images)


def filtered_lrelu_loops(x, bias, up_taps, down_taps, *, up, down, padding, gain, slope, clamp):
    """Raise the rate, activate and lower the rate by the definition, one value at a time."""
    left, right, top, bottom = padding

    def convolved(rows, columns, value, taps, stride, offset):
        y = torch.zeros(*x.shape[:2], rows, columns, dtype=x.dtype)
        k = len(taps)
        for i in range(rows):
            for j in range(columns):
                for a in range(k):
                    for b in range(k):
                        at = (i * stride + offset[0] - a, j * stride + offset[1] - b)
                        y[:, :, i, j] += taps[a] * taps[b] * value(*at)
        return y

    def stuffed(i, j):
        inside = 0 <= i < x.shape[2] * up and 0 <= j < x.shape[3] * up
        if not inside or i % up or j % up:
            return torch.zeros(x.shape[:2], dtype=x.dtype)
        return x[:, :, i // up, j // up] + bias

    k, m = len(up_taps), len(down_taps)
    rows = x.shape[2] * up + top + bottom - k + 1
    columns = x.shape[3] * up + left + right - k + 1
    raised = up**2 * convolved(rows, columns, stuffed, up_taps, 1, (k - 1 - top, k - 1 - left))
    active = gain * torch.where(raised > 0, raised, slope * raised)
    active = torch.minimum(torch.maximum(active, active * 0 - clamp), active * 0 + clamp)
    rows, columns = (rows - m) // down + 1, (columns - m) // down + 1

    def taken(i, j):
        return active[:, :, i, j]

    return convolved(rows, columns, taken, down_taps, down, (m - 1, m - 1))


def upfirdn_loops(x, kernel, *, up, down, padding, gain):
    """Resample one pixel at a time."""
    left, right, top, bottom = padding
    n, c, h, w = x.shape
    k = len(kernel)
    wide = torch.zeros(n, c, h * up + top + bottom, w * up + left + right, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            wide[:, :, i * up + top, j * up + left] = x[:, :, i, j]
    rows, columns = (wide.shape[2] - k) // down + 1, (wide.shape[3] - k) // down + 1
    y = torch.zeros(n, c, rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            for a in range(k):
                for b in range(k):
                    taken = wide[:, :, i * down + k - 1 - a, j * down + k - 1 - b]
                    y[:, :, i, j] += gain * kernel[a, b] * taken
    return y


def enlarged_part(image, factor, part):
    """One part of an image [C, H, W], enlarged to its size: bilinear between pixel centres."""
    _, height, width = image.shape
    h, w = height // factor, width // factor
    top, left = part // factor * h, part % factor * w

    def weights(i, count):
        at = min(max((i + 0.5) / factor - 0.5, 0), count - 1)
        first = int(at)
        return [(first, 1 - (at - first)), (min(first + 1, count - 1), at - first)]

    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            row.append(
                sum(
                    a * b * image[:, top + y, left + x]
                    for y, a in weights(i, h)
                    for x, b in weights(j, w)
                )
            )
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def distribution_distance(real, real_labels, synthetic, synthetic_labels):
    """DM from its definition: one class at a time, one feature at a time."""
    total = 0.0
    for c in sorted(set(synthetic_labels.tolist())):
        mine = [row for row, y in zip(synthetic, synthetic_labels, strict=True) if y == c]
        theirs = [row for row, y in zip(real, real_labels, strict=True) if y == c]
        for feature in range(real.shape[1]):
            a = sum(row[feature] for row in mine) / len(mine)
            b = sum(row[feature] for row in theirs) / len(theirs)
            total = total + (a - b) ** 2
    return total


def gradient_distances(real, synthetic):
    """DC's cosine, IDC's squares and L1 from their definitions: one output channel at a time."""
    cosine = squared = l1 = 0.0
    for r, s in zip(real, synthetic, strict=True):
        channels = [(r, s)] if r.ndim == 1 else zip(r, s, strict=True)
        for a, b in channels:
            a, b = a.reshape(-1), b.reshape(-1)
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            norms = sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5
            cosine = cosine + 1 - dot / (norms + 1e-6)
            squared = squared + sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            l1 = l1 + sum(abs(x - y) for x, y in zip(a, b, strict=True))
    return {"cosine": cosine, "squared": squared, "l1": l1}


def trajectory_distance(student, start, target, batches, lr):
    """MTT from its definition: one parameter at a time, with the whole graph."""
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    for images, labels in batches:
        logits = torch.func.functional_call(student, weights, (images,))
        loss = -sum(
            row[y] - row.exp().sum().log() for row, y in zip(logits, labels, strict=True)
        ) / len(labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {
            name: value - lr * slope
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
    missed = sum(((weights[name] - target[name]) ** 2).sum() for name in start)
    return missed / sum(((start[name] - target[name]) ** 2).sum() for name in start)


def mean_margins(logits, labels):
    """AUM from its definition: one image and one epoch at a time, logits [T, N, K]."""
    means = []
    for i, y in enumerate(labels.tolist()):
        margins = []
        for epoch in logits:
            others = [float(z) for k, z in enumerate(epoch[i]) if k != y]
            margins.append(float(epoch[i, y]) - max(others))
        means.append(sum(margins) / len(margins))
    return means


def dd_ranking(full, hard, own, random, own_other, random_other):
    """HLR, IOR, LRS and ARS of shares, as DD-Ranking defines them, student by student.

    Args:
        full: accuracies on the whole set, as shares, like all others.
        hard: of the set with hard labels.
        own: of the set with the labels that it is used with.
        random: of as many random real images, labelled alike.
        own_other: of the set under the other augmentation.
        random_other: of the random images under the other augmentation.
    """
    hlr = sum(full) / len(full) - sum(hard) / len(hard)
    ior = sum(own) / len(own) - sum(random) / len(random)
    other = sum(own_other) / len(own_other) - sum(random_other) / len(random_other)
    # (e^a - e^-1) / (e - e^-1) = (e^(a+1) - 1) / (e^2 - 1)
    lrs, ars = (
        math.expm1(1 + value) / math.expm1(2) for value in (ior / 2 - hlr / 2, ior / 2 + other / 2)
    )
    return hlr, ior, lrs, ars
