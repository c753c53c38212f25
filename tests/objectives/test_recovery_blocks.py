"""Many images a class: recovered block by block, whoever matches which block."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU
from reference_recovery import recovery_value
from torch.func import functional_call

from hpd.engine import OptimizerSettings, optimise
from hpd.errors import ShapeError
from hpd.objectives import OBJECTIVES, recovery
from hpd.objectives.recovery import blocks_of
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.students.teachers import read_teacher
from hpd.typing import MatchesByBlock, Step

PER_CLASS = 5
LABELS = torch.arange(3).repeat_interleave(PER_CLASS)
STEP = Step(0, 3)
DIRECTED = {"mode": "directed", "rho": 0.3, "steps": 2}
WAYS = {
    "plain": {},
    "two-a-class": {"block_images": 2},
    "one-block": {"block_images": None},
    "directed": {"adjustment": DIRECTED},
    "by-real-images": {"adjustment": DIRECTED | {"view": "real"}},
    "carried-over": {"adjustment": DIRECTED | {"carry_over": True}},
    "random": {"adjustment": {"mode": "random", "rho": 0.3}},
}


@pytest.fixture
def make(images, teacher_folder):
    def build(**options):
        given = {"kind": "recovery", "teacher": teacher_folder, "roll": 1, **options}
        return OBJECTIVES.parse(given).build(images, CPU, Streams(0))

    return build


@pytest.fixture
def many(rng):
    return torch.rand(len(LABELS), 1, 8, 8, generator=rng)


@pytest.fixture
def asked(monkeypatch):
    """How many images the teacher is asked about at once, time after time."""
    counts = []

    def spy(network, weights, arguments):
        counts.append(len(arguments[0]))
        return functional_call(network, weights, arguments)

    monkeypatch.setattr(recovery, "functional_call", spy)
    return counts


class Silent:
    def on_step(self, report):
        pass

    def on_stage(self, report):
        pass


@pytest.mark.parametrize("per_class", [1, 2])
def test_a_set_is_recovered_as_its_blocks_are_one_after_another(
    per_class, make, images, teacher_folder, float64
):
    """As SRe2L does it: all steps of a block, from noise, with an optimiser of its own."""
    steps, lr = 4, 0.1
    noise = {"kind": "pixel", "images_per_class": PER_CLASS, "init": "noise", "steps": steps}
    source = SOURCES.parse(noise | {"lr": lr}).build(images, CPU, Streams(0))
    start = source.pixels.detach().clone()
    objective = make(roll=0, block_images=per_class, variance_weight=2.0)
    adam = OptimizerSettings(rates="absolute", momentum=0.5, beta2=0.9)
    outcome = optimise(
        source, objective, lambda images, labels: None, adam, Silent(), select_every=steps
    )

    teacher = read_teacher(teacher_folder).to(CPU)
    for first in range(0, PER_CLASS, per_class):
        own = [
            PER_CLASS * label + i
            for label in range(3)
            for i in range(first, min(first + per_class, PER_CLASS))
        ]
        pixels = start[own].clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=lr, betas=(0.5, 0.9))
        for _ in range(steps):
            optimizer.zero_grad()
            seen = teacher.normalise(images.normalisation.undo(pixels))
            weights = {"r_bn": 0.01, "r_mean": 1.0, "r_var": 2.0, "first": 10.0}
            recovery_value(teacher.network, seen, LABELS[own], **weights).backward()
            optimizer.step()
        want = images.normalisation.undo(pixels.detach())
        torch.testing.assert_close(outcome.images[own], want, rtol=1e-6, atol=1e-8)


def test_the_teacher_is_asked_about_a_block_at_a_time(make, many, asked):
    make(adjustment=DIRECTED)(many, LABELS, STEP)
    assert asked == [3] * PER_CLASS
    asked.clear()
    make(block_images=2)(many, LABELS, STEP)
    assert asked == [6, 6, 3]
    asked.clear()
    make(block_images=None)(many, LABELS, STEP)
    assert asked == [len(LABELS)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_of_the_blocks_make_up_the_whole(way, count, make, many):
    whole = make(**WAYS[way])(many, LABELS, STEP)
    blocks = blocks_of(LABELS, WAYS[way].get("block_images", 1), 100)
    total, loss = torch.zeros_like(many), 0.0
    for rank in range(count):
        objective = make(**WAYS[way])
        assert isinstance(objective, MatchesByBlock)
        part = objective.match_blocks(many, LABELS, STEP, slice(rank, None, count))
        own = torch.zeros(len(LABELS), dtype=torch.bool)
        for block in blocks[rank::count]:
            own[block] = True
        assert torch.equal(part.image_grad.flatten(1).any(dim=1), own)
        assert bool(part.metrics) == bool(own.any())
        total, loss = total + part.image_grad, loss + part.loss
    assert torch.equal(total, whole.image_grad)
    assert loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_share_asks_the_teacher_about_its_own_blocks_alone(make, many, asked):
    objective = make(adjustment=DIRECTED)
    objective.match_blocks(many, LABELS, STEP, slice(1, None, 2))
    assert asked == [3, 3]
    # and keeps moved weights of no others
    assert sorted(objective._inside._adjustment._found) == [1, 3]


def test_an_objective_of_several_shares_goes_on_from_one_state(make, many):
    """What directs the teacher is known to whoever matches some of the blocks."""
    first = make(adjustment=DIRECTED)
    first.match_blocks(many, LABELS, Step(0, 0), slice(0, None, 2))
    whole = make(adjustment=DIRECTED)
    whole(many, LABELS, Step(0, 0))
    assert first.state().keys() == whole.state().keys() == {"start", "start_labels"}
    for name, value in whole.state().items():
        assert torch.equal(first.state()[name], value)
    again = make(adjustment=DIRECTED)
    again.load_state(first.state())
    want = whole(1 - many, LABELS, Step(0, 1))
    assert torch.equal(again(1 - many, LABELS, Step(0, 1)).image_grad, want.image_grad)


def test_shares_are_checked_as_the_whole_is(make, many):
    with pytest.raises(ShapeError, match="got 5 labels"):
        make().match_blocks(many, LABELS[:5], STEP, slice(0, None, 2))
    with pytest.raises(ShapeError, match=r"expected hpd\.typing\.Step"):
        make().match_blocks(many, LABELS, 3, slice(0, None, 2))
