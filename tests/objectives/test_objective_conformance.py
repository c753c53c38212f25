"""What every objective promises, run over the registry."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd.objectives import OBJECTIVES
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
STEP = Step(0, 3)


@pytest.fixture(params=OBJECTIVES)
def make(request, images, streams):
    def build(**options):
        given = {"kind": request.param, "student": SMALL_STUDENT, "real_batch": 8, **options}
        return OBJECTIVES.parse(given).build(images, CPU, streams)

    return build


@pytest.fixture
def synthetic(rng):
    return torch.rand(6, 1, 8, 8, generator=rng)


def test_the_gradient_is_that_of_the_loss(make, float64, rng):
    """Central differences along random directions, in float64, for every augmentation."""
    images = torch.rand(6, 1, 8, 8, generator=rng)
    for augment in ([], ["color"], ["crop"], ["cutout"], ["flip"], ["scale"], ["rotate"]):
        objective = make(augment=augment, student=SMALL_STUDENT | {"norm": "group"})
        direction = torch.randn(images.shape, generator=rng)
        grad = objective(images, LABELS, STEP).image_grad
        # a kink of ReLU inside the step would spoil the difference, so it is a tiny one
        h = 1e-7
        ahead = objective(images + h * direction, LABELS, STEP).loss
        behind = objective(images - h * direction, LABELS, STEP).loss
        slope = float((grad * direction).sum())
        assert abs((ahead - behind) / (2 * h) - slope) <= 1e-4 * abs(slope) + 1e-6, augment


def test_a_step_is_repeatable_and_steps_differ(make, synthetic):
    first, again = (make()(synthetic, LABELS, STEP) for _ in range(2))
    assert first.loss == again.loss
    assert torch.equal(first.image_grad, again.image_grad)
    for other in (Step(0, 4), Step(1, 3)):
        assert make()(synthetic, LABELS, other).loss != first.loss


def test_order_changes_nothing(make, synthetic, rng):
    order = torch.randperm(6, generator=rng)
    straight = make()(synthetic, LABELS, STEP)
    turned = make()(synthetic[order], LABELS[order], STEP)
    assert turned.loss == pytest.approx(straight.loss, rel=1e-5)
    torch.testing.assert_close(turned.image_grad, straight.image_grad[order], rtol=1e-3, atol=1e-5)


def test_the_images_are_left_alone(make, synthetic):
    kept = synthetic.clone()
    matched = make()(synthetic, LABELS, STEP)
    assert torch.equal(synthetic, kept)
    assert not synthetic.requires_grad
    assert not matched.image_grad.requires_grad
    assert matched.image_grad.shape == synthetic.shape


def test_the_real_set_itself_has_no_distance(make, images):
    """Real and synthetic side go through the same normalisation, augmentation and student."""
    objective = make(real_batch=12)
    got = objective(images.unit(), images.labels, STEP)
    noise = objective(1 - images.unit(), images.labels, STEP)
    assert got.loss <= 1e-4 * noise.loss


def test_it_can_be_minimised(make, synthetic):
    """A hundred steps of plain descent on one fixed step halve the loss."""
    objective = make(augment=[])
    start = objective(synthetic, LABELS, STEP).loss
    pixels, momentum = synthetic.clone(), torch.zeros_like(synthetic)
    for _ in range(100):
        grad = objective(pixels, LABELS, STEP).image_grad
        momentum = 0.9 * momentum + grad / (grad.norm() + 1e-12)
        pixels -= 0.02 * momentum
    assert objective(pixels, LABELS, STEP).loss < 0.5 * start


def test_it_works_on_some_of_the_classes(make, synthetic):
    matched = make()(synthetic[:3], LABELS[:3], STEP)
    assert matched.image_grad.abs().flatten(1).amax(dim=1).gt(0).all()
