"""Matching through several architectures in turn."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import Hears

from hpd.engine import OptimizerSettings, optimise
from hpd.engine.selection import LastSettings
from hpd.objectives import OBJECTIVES
from hpd.sources import SOURCES
from hpd.students import STUDENTS
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
OTHER = {"kind": "convnet", "width": 3, "depth": 1}
THIRD = {"kind": "vit", "width": 8, "depth": 1, "patch": 4}
# each with networks that are fresh at every second step, or kept, or trained
WAYS = {
    "distribution": {},
    "gradient": {"network": {"steps": 2, "epochs": 1, "momentum": 0.9}},
    "regression": {"pool": {"networks": 3, "updates": 3}},
}


@pytest.fixture
def make(images, streams):
    def build(kind, **options):
        given = {"kind": kind, "student": SMALL_STUDENT, "real_batch": 12, **options}
        return OBJECTIVES.parse(given).build(images, CPU, streams)

    return build


@pytest.mark.parametrize("kind", ["distribution", "regression"])
def test_each_step_is_that_of_its_architecture_alone(kind, make, synthetic):
    own = {"pool": None} if kind == "regression" else {}
    crossed = make(kind, cross=[OTHER, THIRD], **own)
    alone = [make(kind, student=student, **own) for student in (SMALL_STUDENT, OTHER, THIRD)]
    for index in range(6):
        got = crossed(synthetic, LABELS, Step(0, index))
        want = alone[index % 3](synthetic, LABELS, Step(0, index))
        assert got.loss == want.loss
        assert torch.equal(got.image_grad, want.image_grad)


def test_a_network_is_kept_for_its_steps_and_the_next_is_of_the_next_kind(make, synthetic):
    crossed = make("gradient", cross=[OTHER], **WAYS["gradient"])
    alone = [make("gradient", student=s, **WAYS["gradient"]) for s in (SMALL_STUDENT, OTHER)]
    for index in range(8):
        step = Step(0, index)
        got = crossed(synthetic, LABELS, step).loss
        wanted = [objective(synthetic, LABELS, step).loss for objective in alone]
        assert got == wanted[index // 2 % 2] != wanted[1 - index // 2 % 2]


def test_a_pool_holds_every_architecture(make, synthetic, rng):
    objective = make("regression", cross=[OTHER], pool={"networks": 4, "updates": 2})
    for index in range(30):
        objective(synthetic, LABELS, Step(0, index))
    sizes = [len(place.weights) for place in objective._pool._places]
    wanted = [
        sum(value.numel() for value in STUDENTS.parse(kind).build((1, 8, 8), 3, rng).parameters())
        for kind in (SMALL_STUDENT, OTHER)
    ]
    assert sizes == wanted * 2
    assert all(place.made > 0 for place in objective._pool._places)


@pytest.mark.parametrize("kind", WAYS)
def test_they_go_on_to_the_bit(kind, make, synthetic):
    options = {"cross": [OTHER, THIRD], **WAYS[kind]}
    steps = [Step(0, index) for index in range(7)]
    whole = make(kind, **options)
    wanted = [whole(synthetic, LABELS, step) for step in steps]
    for stop in (1, 3, 4, 6):
        first, second = make(kind, **options), make(kind, **options)
        for step in steps[:stop]:
            first(synthetic, LABELS, step)
        second.load_state(first.state())
        for step, want in zip(steps[stop:], wanted[stop:], strict=True):
            got = second(synthetic, LABELS, step)
            assert got.loss == want.loss
            assert torch.equal(got.image_grad, want.image_grad)


@pytest.mark.parametrize("kind", WAYS)
def test_they_work_through_the_loop(kind, make, images, streams, source_settings):
    source = SOURCES.parse(source_settings("pixel", steps=5)).build(images, CPU, streams)
    objective = make(kind, cross=[OTHER], **WAYS[kind])
    selector = LastSettings().build(images, CPU, streams, objective)

    outcome = optimise(
        source, objective, selector, OptimizerSettings(), Hears(), select_every=10, curve_every=2
    )
    assert outcome.images.isfinite().all()
    assert not torch.equal(outcome.images, outcome.initial_images)
