"""Distribution matching by halves: without bias where a step sees a part of the images."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd.errors import ShapeError
from hpd.objectives import OBJECTIVES
from hpd.objectives.distribution import distribution_halves, distribution_loss
from hpd.sources import SOURCES
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def make(images, streams):
    def build(**options):
        given = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8, **options}
        return OBJECTIVES.parse(given).build(images, CPU, streams)

    return build


def test_the_mean_over_all_draws_is_the_distance_of_all(rng):
    """Over every pair of disjoint halves of four images out of six; a square is more."""
    real, made = (torch.randn(6, 5, generator=rng).double() for _ in range(2))
    want = distribution_loss(real.mean(0, keepdim=True), made.mean(0, keepdim=True))

    def halves(values):
        for four in itertools.permutations(range(len(values)), 4):
            yield tuple(values[list(part)].mean(0, keepdim=True) for part in (four[:2], four[2:]))

    # a mean over pairs is bilinear: those of the real and of the synthetic side apart
    pairs = [list(halves(values)) for values in (real, made)]
    (r, s), (a, b) = (map(torch.stack, zip(*own, strict=True)) for own in pairs)
    square = (a * b).sum(dim=(1, 2)).mean() + (r * s).sum(dim=(1, 2)).mean()
    cross = (r.mean(0) * b.mean(0)).sum() + (s.mean(0) * a.mean(0)).sum()
    unbiased = square - cross
    # of finite sets, halves without repetition: the product of halves is less than the square of
    # the mean by the variance, as each image is drawn once
    n = 6
    spread = sum(v.var(dim=0, unbiased=True).sum() / n for v in (real, made))
    torch.testing.assert_close(unbiased, want - spread, rtol=1e-9, atol=1e-9)
    plain = torch.stack([distribution_loss(r[:1].mean(0), own) for own in a]).mean()
    assert plain > unbiased


def test_independent_draws_give_the_distance_of_the_expectations(rng):
    """Two values each, drawn independently: the mean over all sixteen draws, in closed form."""
    values = [torch.randn(2, 1, 3, generator=rng).double() for _ in range(2)]
    real, made = values
    every = [
        distribution_halves(r, s, a, b) for r in real for s in real for a in made for b in made
    ]
    want = distribution_loss(real.mean(0), made.mean(0))
    torch.testing.assert_close(torch.stack(every).mean(), want, rtol=1e-12, atol=1e-12)
    biased = [distribution_loss(r, a) for r in real for a in made]
    assert torch.stack(biased).mean() > want


def test_the_loss_is_that_of_the_halves(make, synthetic):
    objective, step = make(halves=True, augment=[]), Step(0, 2)
    real, student = objective._real, objective._real.student(step)
    want = 0.0
    for c in range(3):
        r = student.embed(real.batch(c, step))
        s = student.embed(real.normalise(synthetic[c == LABELS]))
        want += float(((r[:4].mean(0) - s[0]) * (r[4:].mean(0) - s[1])).sum().detach())
    assert objective(synthetic, LABELS, step).loss == pytest.approx(want, rel=1e-4)


def test_the_gradient_is_that_of_the_loss(float64, make, rng):
    images, direction = (torch.rand(6, 1, 8, 8, generator=rng) for _ in range(2))
    objective, step, h = (
        make(halves=True, student=SMALL_STUDENT | {"norm": "group"}),
        Step(0, 0),
        1e-7,
    )
    slope = float((objective(images, LABELS, step).image_grad * direction).sum())
    ahead, behind = (objective(images + s * h * direction, LABELS, step).loss for s in (1, -1))
    assert (ahead - behind) / (2 * h) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_one_image_of_a_class_has_no_halves(make, synthetic):
    with pytest.raises(ShapeError, match=r"two synthetic images of each class.*objective.halves"):
        make(halves=True)(synthetic[::2], LABELS[::2], Step(0, 0))
    with pytest.raises(ShapeError, match="two real images"):
        make(halves=True, real_batch=1)(synthetic, LABELS, Step(0, 0))


def test_a_source_of_batches_is_matched_by_halves(make, images, streams, source_settings):
    source = SOURCES.parse(source_settings("hmn", steps=2)).build(images, CPU, streams)
    source.enter(0)
    chosen = source.batch(Step(0, 0))
    rendered, pullback = source.render(chosen)
    if int(source.labels[chosen].bincount().min()) < 2:
        pytest.skip("this source renders one image of a class in a step")
    matched = make(halves=True)(rendered, source.labels[chosen], Step(0, 0))
    pullback(matched.image_grad)
    assert matched.image_grad.isfinite().all()
