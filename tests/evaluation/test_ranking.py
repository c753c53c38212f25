"""Rank correlation against its definition, and the picture of levels."""

from __future__ import annotations

import io
import math

import pytest
import torch
from PIL import Image

from hpd.evaluation.drawn.ranking import LevelResult, levels_png, rank_correlation


def test_without_ties_it_is_the_formula_of_differences(rng):
    """1 - 6 sum d^2 / (n (n^2 - 1)), d the differences of ranks."""
    for _ in range(20):
        a, b = torch.randperm(9, generator=rng), torch.randperm(9, generator=rng)
        want = 1 - 6 * int((a - b).square().sum()) / (9 * 80)
        scaled = (a.double() * 0.1 - 3).exp().tolist()  # any rising function keeps the ranks
        assert rank_correlation(scaled, b.tolist()) == pytest.approx(want)


def test_equal_values_share_their_rank():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    got = rank_correlation([1, 5, 5, 9], [1, 2, 3, 4])
    assert got == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([2, 2, 2], [1, 2, 3]))


def test_the_picture_shows_every_level():
    few = [LevelResult(f"{i} b{i}", 60.0 + i, 1.0, 5.0 - i) for i in range(3)]
    pictures = [Image.open(io.BytesIO(levels_png(levels))) for levels in (few, few[:2])]
    assert all(picture.size == (840, 480) for picture in pictures)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert levels_png(few) == levels_png(few)
