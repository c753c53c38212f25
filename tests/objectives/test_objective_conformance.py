"""What every objective promises, run over the registry."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd.engine import OptimizerSettings, optimise
from hpd.engine.selection import LastSettings
from hpd.objectives import OBJECTIVES
from hpd.sources import SOURCES
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
STEP = Step(0, 3)


@pytest.fixture(params=OBJECTIVES)
def kind(request):
    return request.param


@pytest.fixture
def make(kind, images, streams, objective_options):
    def build(**options):
        given = {"kind": kind, **objective_options[kind], **options}
        return OBJECTIVES.parse(given).build(images, CPU, streams)

    return build


def test_the_gradient_is_that_of_the_loss(kind, make, float64, rng):
    """Central differences along random directions, in float64, for every augmentation."""
    images = torch.rand(6, 1, 8, 8, generator=rng)
    for augment in ([], ["color"], ["crop"], ["cutout"], ["flip"], ["scale"], ["rotate"]):
        # experts and teachers are of one student
        fresh = kind not in ("trajectory", "recovery")
        options = {"student": SMALL_STUDENT | {"norm": "group"}} if fresh else {}

        def at(images):
            # a fresh one: what an objective learns on the way would be part of the difference
            return make(augment=augment, **options)(images, LABELS, STEP)  # noqa: B023

        direction = torch.randn(images.shape, generator=rng)
        grad = at(images).image_grad
        # a kink of ReLU inside the step would spoil the difference, so it is a tiny one
        h = 1e-7
        ahead = at(images + h * direction).loss
        behind = at(images - h * direction).loss
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


def test_the_real_set_itself_has_no_distance(kind, make, images):
    """Real and synthetic side go through the same normalisation, augmentation and student."""
    if kind == "trajectory":
        pytest.skip("an expert trains on the real set in another order than the student")
    if kind == "recovery":
        pytest.skip("the cross entropy of a teacher has no zero")
    if kind == "regression":
        pytest.skip("a linear map of a few features does not reach every label")
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


@pytest.mark.parametrize("source_kind", list(SOURCES))
def test_it_works_with_every_source(kind, source_kind, make, images, streams, source_settings):
    """Two steps of every stage of every source, through the loop."""
    settings = source_settings(source_kind, images_per_class=2, steps=2)
    source = SOURCES.parse(settings).build(images, CPU, streams)
    heard = Heard()
    objective = make()
    selector = LastSettings().build(images, CPU, streams, objective)
    outcome = optimise(source, objective, selector, OptimizerSettings(), heard, select_every=10)
    assert len(heard.losses) == 2 * len(source.stages)
    assert outcome.images.isfinite().all()
    assert not torch.equal(outcome.images, outcome.initial_images)


class Heard:
    """An observer that keeps the losses."""

    def __init__(self):
        self.losses = []

    def on_step(self, report):
        self.losses.append(report.loss)

    def on_stage(self, report):
        pass


def test_a_restored_objective_goes_on_as_if_nothing_had_happened(
    kind, images, streams, make, synthetic
):
    """Weights on the way and learnt rates: what the step alone does not decide."""
    learns = {
        "gradient": {"network": {"momentum": 0.5, "epochs": 2}},
        "regression": {"pool": {"networks": 2, "updates": 3}},
    }
    options = learns.get(kind, {})
    steps = [Step(0, i) for i in range(4)]
    straight = make(**options)
    wanted = [straight(synthetic, LABELS, step) for step in steps]
    for stop in (1, 2, 3):
        first, second = make(**options), make(**options)
        for step in steps[:stop]:
            first(synthetic, LABELS, step)
        second.load_state(first.state())
        for step, want in zip(steps[stop:], wanted[stop:], strict=True):
            got = second(synthetic, LABELS, step)
            assert got.loss == want.loss
            assert torch.equal(got.image_grad, want.image_grad)


def test_a_state_is_a_clone(make, synthetic):
    objective = make()
    objective(synthetic, LABELS, Step(0, 0))
    state = objective.state()
    kept = {name: value.clone() for name, value in state.items()}
    objective(1 - synthetic, LABELS, Step(0, 1))
    for name, value in state.items():
        assert torch.equal(value, kept[name]), name


def test_provenance_is_json(make):
    json.dumps(make().provenance)
