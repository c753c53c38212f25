"""Which state is the best, and when a training is enough: on curves made by hand."""

from __future__ import annotations

import pytest

from hpd.generator_runs.stopping import Point, best_of, is_enough, saves_without_gain


def curve(*distances):
    return [Point(10 * i, float(d)) for i, d in enumerate(distances, 1)]


@pytest.mark.parametrize(
    ("distances", "since"),
    [
        ([], 0),
        ([5], 0),
        ([5, 5], 1),
        ([5, 4.9], 0),
        ([5, 4.96], 1),  # less than a hundredth
        ([5, 4.96, 4.92], 0),  # but both together are more
        ([5, 3, 4, 3.5, 3.1], 3),
    ],
)
def test_saves_since_the_last_gain(distances, since):
    assert saves_without_gain(curve(*distances), 0.01) == since


def test_it_is_enough_after_as_many_saves_as_patience_says():
    falling, flat = [9, 8, 7], [7, 7.2, 7.1]
    assert not is_enough(curve(*falling), patience=3, least_gain=0.01)
    assert not is_enough(curve(*falling, *flat[:2]), patience=3, least_gain=0.01)
    assert is_enough(curve(*falling, *flat), patience=3, least_gain=0.01)
    assert not is_enough(curve(*falling, *flat), patience=0, least_gain=0.01)


def test_saves_of_a_generator_that_stands_do_not_count():
    points = curve(7, 7, 7, 7.5)
    assert is_enough(points, patience=2, least_gain=0.01)
    assert not is_enough(points, patience=2, least_gain=0.01, after_images=30)


def test_the_best_is_the_first_of_the_least():
    assert best_of(curve(3, 1, 2, 1)) == Point(20, 1.0)
