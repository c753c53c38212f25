"""The scores of DD-Ranking: closed forms, an independent twin, and what is in between."""

from __future__ import annotations

import math
import random

import pytest
import reference

from hpd.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)


def test_perfect_and_worthless_sets():
    # the whole set's accuracy from a set of which random images give nothing
    assert hard_label_recovery(100, 100) == 0
    assert improvement_over_random(100, 0) == 100
    assert label_robust_score(-100, 100) == pytest.approx(100)
    assert label_robust_score(100, -100) == 0
    assert augmentation_robust_score(-100, -100) == 0
    assert augmentation_robust_score(100, 100) == pytest.approx(100)


def test_what_is_as_good_as_random_images_has_the_score_of_nothing():
    """a = 0: (1 - 1/e) / (e - 1/e) = 1 / (e + 1)."""
    assert label_robust_score(0, 0) == pytest.approx(100 / (math.e + 1))
    assert augmentation_robust_score(0, 0) == pytest.approx(100 / (math.e + 1))


def test_the_weights_move_from_one_part_to_the_other():
    assert label_robust_score(30, 99, weight=0) == label_robust_score(30, -99, weight=0)
    assert label_robust_score(30, 20, weight=1) == label_robust_score(-30, 20, weight=1)
    assert augmentation_robust_score(10, 99, weight=1) == augmentation_robust_score(10, 0, weight=1)


def test_scores_are_those_of_the_twin():
    rng = random.Random(0)
    for _ in range(200):
        sets = [[rng.random() for _ in range(5)] for _ in range(6)]
        want = reference.dd_ranking(*sets)
        full, hard, own, beside, own_other, beside_other = (100 * sum(s) / 5 for s in sets)
        hlr, ior = hard_label_recovery(full, hard), improvement_over_random(own, beside)
        other = improvement_over_random(own_other, beside_other)
        got = (hlr, ior, label_robust_score(hlr, ior), augmentation_robust_score(ior, other))
        assert [value / 100 for value in got] == pytest.approx(want, abs=1e-12)


# What one run of ddranking 0.2.0 saved for each evaluation: (weight, accuracies in percent, score).
# Its code exponentiates points, not shares as its page says: at a hundred times the points these
# functions come to a hundred times its numbers.
LABELS = [
    (0.5, (25.4, 23.4, 23.4, 18.0), 2.172422891574845),
    (0.5, (25.8, 24.0, 24.0, 12.6), 51.5411908755605),
    (0.5, (24.0, 24.0, 24.0, 13.6), 76.96740073632496),
    (0.8, (43.6, 25.0, 25.0, 13.6), 94.04284898557208),
    (0.8, (46.0, 23.0, 23.0, 13.2), 10.707035715370365),
    (0.5, (25.8, 25.4, 24.4, 20.4), 2.4173597057133427),
    (0.5, (25.4, 22.4, 22.8, 14.8), 5.026634836414654),
    (0.25, (25.8, 25.4, 21.6, 16.2), 1.059295927521989),
    (0.25, (25.4, 22.4, 21.4, 12.4), 0.26894142136999494),
]
AUGMENTATION = [
    (0.5, (25.8, 21.0, 23.6, 17.2), 114.89884857402348),
    (0.5, (22.8, 14.6, 24.0, 13.0), 6281.653629178986),
    (0.7, (23.2, 19.0, 25.0, 17.4), 78.52540723569643),
    (0.7, (22.4, 13.6, 24.8, 12.0), 9371.203005279436),
]


@pytest.mark.parametrize(("weight", "accuracies", "score"), LABELS)
def test_label_robust_scores_are_those_of_ddranking(weight, accuracies, score):
    full, hard, own, beside = (100 * value for value in accuracies)
    hlr, ior = hard_label_recovery(full, hard), improvement_over_random(own, beside)
    assert label_robust_score(hlr, ior, weight) / 100 == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(("weight", "accuracies", "score"), AUGMENTATION)
def test_augmentation_robust_scores_are_those_of_ddranking(weight, accuracies, score):
    augmented, beside, plain, beside_plain = (100 * value for value in accuracies)
    ours = augmentation_robust_score(
        improvement_over_random(augmented, beside),
        improvement_over_random(plain, beside_plain),
        weight,
    )
    assert ours / 100 == pytest.approx(score, rel=1e-9)
