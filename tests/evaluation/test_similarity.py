"""Diversity and memorisation: copies are found, and LPIPS is asked for the right pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_sets import as_set

from hpd.data.nearest import nearest_images
from hpd.evaluation.similarity import similarity


def test_a_copy_has_distance_zero_and_is_named(images):
    found = similarity(as_set(images, torch.tensor([0, 12, 35])), images)
    assert found["nearest_real"]["indices"] == [0, 12, 35]
    assert found["nearest_real"]["rms"] == [0, 0, 0]
    assert found["nearest_real"]["usual_rms"] > 0.05
    assert "lpips" not in found


def test_the_nearest_is_that_of_a_loop(images, rng):
    queries = torch.rand(4, 1, 8, 8, generator=rng)
    which, gaps = nearest_images(queries, images, but=torch.tensor([0, 1, 2, 3]))
    for i, query in enumerate(queries):
        rms = [
            float(((query - real / 255) ** 2).mean() ** 0.5) if j != i else float("inf")
            for j, real in enumerate(images.images.float())
        ]
        assert int(which[i]) == min(range(len(rms)), key=rms.__getitem__)
        assert float(gaps[i]) == pytest.approx(min(rms), abs=1e-6)


def test_values_outside_the_range_are_clipped_first(images):
    copy = as_set(images, torch.tensor([0]))
    beyond = replace(copy, images=torch.where(copy.images > 0.5, 7.0, copy.images))
    assert similarity(beyond, images)["nearest_real"]["rms"][0] < 0.6


def test_diversity_is_within_classes(images):
    def brightness(a, b):
        return (a - b).abs().mean(dim=(1, 2, 3))

    # two equal images of one class, two different ones of another, one of the third
    part = as_set(images, torch.tensor([0, 0, 12, 13, 24]))
    found = similarity(part, images, brightness)["lpips"]
    gap = (images.unit(torch.tensor([12])) - images.unit(torch.tensor([13]))).abs().mean()
    assert found["diversity"] == pytest.approx(float(gap) / 2, abs=1e-5)
    assert found["nearest_real"] == 0
    alone = similarity(as_set(images, torch.tensor([0, 12, 24])), images, brightness)["lpips"]
    assert alone["diversity"] is None
