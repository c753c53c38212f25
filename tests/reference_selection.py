"""Naive twins of what selectors compute: written out with loops, in float64, from the formulas."""

from __future__ import annotations

import torch


def class_relevant_distance(student, real, real_labels, synthetic, synthetic_labels, *, weighted):
    """The class-relevant feature distance, one image and one position at a time."""

    def maps_of(image, label):
        maps = student.features(image[None]).detach().requires_grad_()
        logit = student.head(student.pool(maps))[0, label]
        slope = torch.autograd.grad(logit, maps)[0][0]
        maps = maps.detach()[0]
        if not weighted:
            return maps
        activation = torch.zeros(maps.shape[1:], dtype=maps.dtype)
        for f in range(len(maps)):
            activation += slope[f].mean() * maps[f]
        activation = activation.clamp(min=0)
        if activation.max() > 0:
            activation = activation / activation.max()
        return torch.stack([activation * own for own in maps])

    total = 0.0
    for c in sorted(set(real_labels.tolist())):
        mine = [maps_of(x, c) for x, y in zip(synthetic, synthetic_labels, strict=True) if y == c]
        theirs = [maps_of(x, c) for x, y in zip(real, real_labels, strict=True) if y == c]
        gap = sum(mine) / len(mine) - sum(theirs) / len(theirs)
        channels, height, width = gap.shape
        for i in range(height):
            for j in range(width):
                for f in range(channels):
                    total += float(gap[f, i, j]) ** 2 / (height * width)
    return total


def ridge_errors(features, labels, num_classes, *, ridge):
    """Vote and squared error of ridge regressions by the primal equation, image by image.

    ``features`` are pairs (real [M, E], synthetic [N, E]), ``labels`` one such pair. The weights
    are ``(S^T S + c I)^-1 S^T Y``, which comes to the same as the kernel's form.
    """
    real_labels, own_labels = labels
    wrong, squared = 0, 0.0
    sums = torch.zeros(len(real_labels), num_classes, dtype=torch.float64)
    for real, synthetic in features:
        real, synthetic = real.double(), synthetic.double()
        n, width = synthetic.shape
        penalty = ridge * sum(float(row @ row) for row in synthetic) / n
        y = torch.full((n, num_classes), -1 / num_classes, dtype=torch.float64)
        for row, label in zip(y, own_labels, strict=True):
            row[label] += 1
        gram = synthetic.t() @ synthetic + penalty * torch.eye(width, dtype=torch.float64)
        weights = torch.linalg.inv(gram) @ synthetic.t() @ y
        for i, (row, label) in enumerate(zip(real, real_labels, strict=True)):
            for k in range(num_classes):
                value = float(row @ weights[:, k])
                sums[i, k] += value
                squared += (value - (1 if k == label else 0) + 1 / num_classes) ** 2
    for row, label in zip(sums, real_labels, strict=True):
        wrong += int(max(range(num_classes), key=lambda k: row[k]) != label)
    count = len(real_labels)
    return wrong, squared / count / len(features)
