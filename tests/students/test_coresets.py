"""Herding and k-centre against their definitions, one image at a time."""

from __future__ import annotations

import torch

from hpd.students.coresets import herding, k_centre


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def herding_loops(rows, count):
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    chosen = []
    for _ in range(count):
        gaps = {}
        for i in range(len(rows)):
            if i not in chosen:
                picked = [rows[j] for j in [*chosen, i]]
                average = [sum(column) / len(picked) for column in zip(*picked, strict=True)]
                gaps[i] = distance(mean, average)
        chosen.append(min(gaps, key=gaps.get))
    return chosen


def k_centre_loops(rows, count):
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    chosen = [min(range(len(rows)), key=lambda i: distance(rows[i], mean))]
    while len(chosen) < count:
        left = [i for i in range(len(rows)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance(rows[i], rows[j]) for j in chosen)))
    return chosen


def test_equal_their_definitions(rng, float64):
    for count in (1, 4, 12):
        features = torch.randn(12, 3, generator=rng)
        assert herding(features, count).tolist() == herding_loops(features.tolist(), count)
        assert k_centre(features, count).tolist() == k_centre_loops(features.tolist(), count)


def test_equal_images_are_picked_once_each():
    features = torch.ones(5, 2)
    assert sorted(herding(features, 5).tolist()) == list(range(5))
    assert sorted(k_centre(features, 5).tolist()) == list(range(5))
