"""The ridge selector: closed forms, its naive twin, and that the score is of the set alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from reference_selection import ridge_errors

from hpd import load_dataset
from hpd.engine import SELECTORS
from hpd.engine.selection.base import some_of
from hpd.engine.selection.ridge import (
    RidgeError,
    squared_error,
    vote_error,
)
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.students import STUDENTS
from hpd.students.ridge import centred_targets, ridge_predictions


def build(train, **options):
    settings = SELECTORS.parse({"kind": "ridge", "student": SMALL_STUDENT, **options})
    return settings.build(train, CPU, Streams(0), None)


@pytest.fixture
def noise(rng):
    return torch.rand(6, 1, 8, 8, generator=rng), torch.tensor([0, 0, 1, 1, 2, 2])


def test_orthogonal_features_are_predicted_in_closed_form():
    """S = I: the kernel is I, and P = R Y / (1 + ridge)."""
    synthetic, real = torch.eye(3).double(), torch.tensor([[2.0, 0, 0], [0, 1, 1]]).double()
    y = centred_targets(torch.tensor([0, 1, 2]), 3)
    got = ridge_predictions(real, synthetic, y, 0.25)
    torch.testing.assert_close(got, real @ y / 1.25)
    # twice the images with half the features: the same function, but for the penalty's share
    doubled = torch.cat([synthetic, synthetic])
    got = ridge_predictions(real, doubled, torch.cat([y, y]), 0.25)
    torch.testing.assert_close(got, real @ y * 2 / 2.25)


def test_one_feature_is_plain_ridge_regression():
    """Of one image with feature s and target y: P = r s y / (s^2 + ridge s^2)."""
    s, r = torch.tensor([[3.0]]).double(), torch.tensor([[1.5], [-3.0]]).double()
    y = torch.tensor([[-0.5, 0.5]]).double()
    torch.testing.assert_close(ridge_predictions(r, s, y, 0.5), r / 3 * y / 1.5)


def test_linear_labels_are_found_again(rng):
    """Targets that are linear in the features are predicted exactly, as the penalty vanishes."""
    weights = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    synthetic, real = torch.randn(2, 20, 4, generator=rng, dtype=torch.float64)
    got = ridge_predictions(real, synthetic, synthetic @ weights, 1e-9)
    torch.testing.assert_close(got, real @ weights, atol=1e-6, rtol=1e-6)


def test_predictions_do_not_depend_on_the_scale_of_features(rng):
    synthetic, real = torch.randn(2, 5, 4, generator=rng, dtype=torch.float64)
    y = centred_targets(torch.tensor([0, 1, 2, 0, 1]), 3)
    want = ridge_predictions(real, synthetic, y, 1e-3)
    for scale in (1e-9, 1e6):
        got = ridge_predictions(scale * real, scale * synthetic, y, 1e-3)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_degenerate_features_give_numbers(rng):
    y = centred_targets(torch.tensor([0, 1, 1]), 2)
    real = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    same = torch.randn(1, 5, generator=rng, dtype=torch.float64).expand(3, 5)
    assert ridge_predictions(real, same, y, 1e-3).isfinite().all()
    assert torch.equal(ridge_predictions(real, torch.zeros_like(same), y, 1e-3), torch.zeros(4, 2))


def test_the_criteria_by_hand():
    labels = torch.tensor([0, 1])
    # of two networks, the second is surer: it wins the vote on the first image, and is wrong
    p = torch.tensor([[[0.1, -0.1], [-0.5, 0.5]], [[-0.5, 0.5], [-0.1, 0.1]]]).double()
    squares = (2 * 0.4**2 + 0 + 2 * 1.0**2 + 2 * 0.4**2) / 4
    assert squared_error(p, labels) == pytest.approx(squares)
    assert vote_error(p, labels) == pytest.approx((1 + squares / (1 + squares)) / 2)
    assert squared_error(torch.zeros(1, 2, 2), labels) == pytest.approx(1 - 1 / 2)


def test_a_tie_of_votes_goes_to_the_lower_squared_error_and_nothing_else_does(rng):
    labels = torch.randint(3, (50,), generator=rng)
    right = centred_targets(labels, 3)[None]
    faint = 0.1 * right
    wild = 1e3 * right  # right as well, at a squared error that dwarfs one image
    one_off = right.clone()
    one_off[0, 0] = -one_off[0, 0]
    scores = [vote_error(p, labels) for p in (right, faint, wild, one_off)]
    assert scores == sorted(scores)
    assert [math.floor(s * 50) for s in scores] == [0, 0, 0, 1]
    assert scores[0] == 0


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize("count", [3, 36])
def test_the_errors_equal_their_twins(ridge, count, images, rng):
    """With fewer images than features, and with more."""
    synthetic = torch.rand(count, 1, 8, 8, generator=rng)
    labels = torch.arange(3).repeat(count // 3)
    students = [STUDENTS.parse(SMALL_STUDENT).build((1, 8, 8), 3, rng) for _ in range(2)]
    with torch.no_grad():
        features = [
            (s.embed(images.normalised()), s.embed(images.normalisation.apply(synthetic)))
            for s in students
        ]
    wrong, squared = ridge_errors(features, (images.labels, labels), 3, ridge=ridge)
    got = {
        criterion: RidgeError(students, images, CPU, ridge=ridge, criterion=criterion)(
            synthetic, labels
        )
        for criterion in ("vote", "squared")
    }
    assert got["squared"] == pytest.approx(squared, rel=1e-5)
    assert got["vote"] == pytest.approx((wrong + squared / (1 + squared)) / 36, rel=1e-5)


@pytest.mark.parametrize("criterion", ["vote", "squared"])
def test_neither_order_nor_batches_matter(criterion, images, noise, rng, monkeypatch):
    x, y = noise
    score = build(images, criterion=criterion)
    want = score(x, y)
    order = torch.randperm(6, generator=rng)
    assert score(x[order], y[order]) == pytest.approx(want, rel=1e-6)
    monkeypatch.setattr("hpd.engine.selection.ridge._BATCH", 5)
    assert build(images, criterion=criterion)(x, y) == pytest.approx(want, rel=1e-6)


def test_scores_are_the_same_again_and_differ_by_seed(images, noise):
    score = build(images, criterion="squared")
    first = score(*noise)
    score(1 - noise[0], noise[1])
    assert score(*noise) == first == build(images, criterion="squared")(*noise)
    settings = SELECTORS.parse({"kind": "ridge", "student": SMALL_STUDENT, "criterion": "squared"})
    assert settings.build(images, CPU, Streams(1), None)(*noise) != first


def test_networks_differ_and_are_averaged(images, noise):
    """Of one criterion that is a mean, the score of two networks is that of each, averaged."""
    score = build(images, networks=2, criterion="squared")
    both, real = score(*noise), list(zip(score._students, score._real, strict=True))
    alone = []
    for student, features in real:
        score._students, score._real = [student], [features]
        alone.append(score(*noise))
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2)


def test_copies_of_images_change_a_score_by_the_penalty_alone(images, noise):
    x, y = noise
    score = build(images, criterion="squared")
    twice = score(torch.cat([x, x]), torch.cat([y, y]))
    assert math.isfinite(twice)
    assert twice == pytest.approx(score(x, y), rel=0.1)
    assert math.isfinite(score(x[:1].expand(6, 1, 8, 8), y))


@pytest.mark.parametrize("criterion", ["vote", "squared"])
def test_images_that_are_not_finite_have_no_score(criterion, images, noise):
    """The loop says where they are from; no error of the algebra comes before."""
    x, y = noise[0].clone(), noise[1]
    x[2] = math.nan
    assert math.isnan(build(images, criterion=criterion)(x, y))


def test_as_many_real_images_of_each_class_are_drawn(images):
    few = some_of(images, 5, Streams(0).generator("x"))
    assert few.labels.bincount().tolist() == [5, 5, 5]
    lopsided = images.at(torch.arange(10, len(images)))
    assert some_of(lopsided, 5, Streams(0).generator("x")).labels.bincount().tolist() == [2, 5, 5]
    for asked, want in ((15, 15), (17, 15), (1, 3), (2000, 36)):
        assert len(build(images, images=asked)._labels) == want


@pytest.mark.parametrize("student", list(STUDENTS))
def test_every_student_embeds_grey_and_colour(student, rng):
    """At two sizes, and with classes of different size."""
    small = {"vit": {"width": 8, "heads": 2, "mlp_width": 8, "depth": 1}}
    narrow = {} if student in ("vit", "resnet20") else {"width": 4}
    for shape in ((1, 28, 28), (3, 32, 32)):
        settings = STUDENTS.parse({"kind": student, **narrow, **small.get(student, {})})
        real = load_dataset("digits").train
        pixels = torch.randint(256, (20, *shape), generator=rng).to(torch.uint8)
        labels = torch.tensor([0] * 3 + [1] * 17)
        real = replace(real, rows=pixels, index=None, labels=labels, classes=("a", "b"))
        score = build(real, student=settings, networks=2)
        assert 0 <= score(torch.rand(2, *shape, generator=rng), torch.tensor([0, 1])) < 1.1


@pytest.mark.parametrize("criterion", ["vote", "squared"])
def test_real_digits_beat_few_which_beat_noise(criterion, rng):
    train = load_dataset("digits").train
    score = build(train, student={"kind": "convnet", "width": 16}, criterion=criterion)
    many, few = (train.draw_per_class(count, rng) for count in (50, 1))
    noise = torch.rand(10, 1, 16, 16, generator=rng)
    scores = [score(train.unit(part), train.labels[part]) for part in (many, few)]
    scores.append(score(noise, torch.arange(10)))
    assert scores == sorted(scores)
    assert scores[0] < scores[1] - 0.05 < scores[2] - 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"criterion": "votes"}, "criterion in selector 'ridge'.*'vote' or 'squared'"),
        ({"ridge": 0.0}, "'?ridge in selector 'ridge' is not valid: got 0.0"),
        ({"networks": 0}, "networks in selector 'ridge' is not valid: got 0"),
        ({"images": 0}, "images in selector 'ridge' is not valid: got 0"),
        ({"image": 5}, "unknown key 'image' in selector 'ridge'.*images"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        SELECTORS.parse({"kind": "ridge", **options})
    assert "\n" not in str(caught.value)
