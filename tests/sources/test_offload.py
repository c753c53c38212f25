"""What is optimised lies on the host: the same run, and nothing of it on the device."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from pretended_device import pretending

from hpd.engine.optimizer import OptimizerSettings
from hpd.machine.host import told
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.rows import picked
from hpd.typing import Step


def steps_of(images, generator_folder, **options):
    """Take two steps at each level, and yield the source after each."""
    given = {
        "kind": "gan", "generator": generator_folder, "init": "sample", "images_per_class": 3,
        "batch_images": 2, "chunk_images": 4, **options,
    }  # fmt: skip
    source = SOURCES.parse(given).build(images, CPU, Streams(1))
    wanted = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
    objective = OBJECTIVES.parse(wanted).build(images, CPU, Streams(0))
    settings = OptimizerSettings()
    for stage in range(len(source.stages)):
        groups = source.enter(stage)
        optimizer = settings.build(groups)
        for index in range(2):
            step = Step(stage, index)
            chosen = source.batch(step)
            rendered, pullback = source.render(chosen)
            optimizer.zero_grad()
            pullback(objective(rendered, source.labels[chosen], step).image_grad)
            optimizer.step()
            yield source, rendered


@pytest.mark.parametrize("options", [{}, {"features": "random", "levels": [1, 3]}])
def test_a_run_is_the_same_to_the_bit(images, generator_folder, options):
    here = steps_of(images, generator_folder, **options)
    away = steps_of(images, generator_folder, offload=True, **options)
    count = 0
    for (source, rendered), (other, theirs) in zip(here, away, strict=True):
        assert torch.equal(rendered, theirs)
        state, same = source.state(), other.state()
        assert list(state) == list(same)
        assert all(torch.equal(state[name], same[name]) for name in state)
        count += 1
    assert count >= 4
    kept = torch.tensor([2])
    for one in (source, other):
        one.narrow(kept)
    assert torch.equal(source.ws, other.ws)
    other.widen(same, torch.arange(3).repeat_interleave(3))
    assert torch.equal(other.ws, same["ws"])


@pytest.mark.parametrize("offload", [True, False])
def test_nothing_of_it_lies_on_the_device_but_what_a_step_needs(
    images, generator_folder, offload, monkeypatch
):
    with pretending(monkeypatch) as meter:
        for source, rendered in steps_of(images, generator_folder, offload=offload):
            assert meter.is_there(rendered)
            for tensor in (source.ws, *source.features):
                assert meter.is_there(tensor) is not offload
                if tensor.grad is not None:
                    assert meter.is_there(tensor.grad) is not offload


def test_rows_go_out_and_their_gradient_comes_back(rng):
    leaf = torch.randn(5, 3, generator=rng).requires_grad_()
    indices = torch.tensor([4, 0, 4])
    weights = torch.randn(3, 3, generator=rng)
    (picked(leaf, indices, CPU) * weights).sum().backward()
    wanted = torch.zeros(5, 3).index_put((indices,), weights, accumulate=True)
    torch.testing.assert_close(leaf.grad, wanted, rtol=0, atol=0)
    assert not picked(leaf.detach(), indices, CPU).requires_grad


def test_numbers_of_several_devices_are_told_in_their_order():
    numbers = [torch.tensor(1.0), 2.0, torch.tensor(3.0, dtype=torch.float64)]
    assert told([*numbers, numbers[0]]) == [1.0, 2.0, 3.0, 1.0]
