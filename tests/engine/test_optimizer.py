from __future__ import annotations

import pytest
import torch

from hpd.engine import OptimizerSettings
from hpd.engine.optimizer import (
    hand_on_means,
    optimizer_state,
    rates,
    restore,
    root_mean_square,
)
from hpd.typing import ParameterGroup


def test_relative_rates_are_a_share_of_the_rms(rng):
    """The same lr moves features of any scale by the same share of themselves."""
    for kind in ("adam", "sgd"):
        for scale in (1e-3, 1.0, 1e3):
            x = (torch.randn(1000, generator=rng) * scale).requires_grad_()
            optimizer = OptimizerSettings(kind=kind).build([ParameterGroup("x", [x], 0.02)])
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * root_mean_square(x))
    before = x.detach().clone()
    x.grad = torch.ones_like(x)
    OptimizerSettings().build([ParameterGroup("x", [x], 0.02)]).step()
    moved = (x.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.02 * root_mean_square(before), rel=1e-3)


def test_absolute_rates_are_taken_as_they_are():
    x, y = (torch.full((3,), 5.0).requires_grad_() for _ in range(2))
    groups = [ParameterGroup("x", [x], 0.1), ParameterGroup("y", [y], 10.0)]
    optimizer = OptimizerSettings(kind="sgd", rates="absolute").build(groups)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 10.0]
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_zeros_have_no_scale():
    assert root_mean_square(torch.zeros(3)) == 1.0


@pytest.mark.parametrize(
    "options", [{"kind": "adam"}, {"kind": "sgd"}, {"kind": "sgd", "momentum": 0.0}]
)
def test_a_restored_optimiser_goes_on_to_the_bit(rng, options):
    settings = OptimizerSettings.read(options)

    def steps(optimizer, tensors, count):
        for _ in range(count):
            for tensor in tensors:
                tensor.grad = tensor.detach() ** 2 - 1
            optimizer.step()

    def build(like):
        tensors = [value.detach().clone().requires_grad_() for value in like]
        groups = [ParameterGroup(f"{i}", [t], 0.1 + i) for i, t in enumerate(tensors)]
        return settings.build(groups), tensors

    whole, ours = build([torch.randn(3, 2, generator=rng), torch.randn(4, generator=rng)])
    steps(whole, ours, 3)
    kept, lrs = optimizer_state(whole), rates(whole)
    # built where the tensors have gone to, so its own rates would be others
    again, theirs = build(ours)
    assert rates(again) != lrs
    restore(again, kept, lrs)
    assert rates(again) == lrs
    steps(whole, ours, 2)
    steps(again, theirs, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_cosine_takes_the_rates_to_nothing_and_leaves_them_as_they_were(kind):
    """Every step is that of an optimiser whose rate is the schedule's."""
    settings = OptimizerSettings(kind=kind, rates="absolute", schedule="cosine")
    x, y = (torch.tensor([5.0, -2.0]).requires_grad_() for _ in range(2))
    optimizer = settings.build([ParameterGroup("x", [x], 0.1)])
    twin = OptimizerSettings(kind=kind, rates="absolute").build([ParameterGroup("y", [y], 0.1)])
    factors = [1.0, 0.8535534, 0.5, 0.1464466]
    for index, factor in enumerate(factors):
        twin.param_groups[0]["lr"] = 0.1 * factor
        for value, own in ((x, optimizer), (y, twin)):
            own.zero_grad()
            value.square().sum().backward()
        settings.step(optimizer, index, len(factors))
        twin.step()
        torch.testing.assert_close(x, y)
        assert rates(optimizer) == (0.1,)


@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.5), ("sgd", 0.5), ("sgd", 0.0)])
@pytest.mark.parametrize(("average", "last"), [(0.4, 4), (1.0, 10), (0.01, 1)])
def test_a_stage_hands_on_the_mean_of_its_last_steps(rng, kind, momentum, average, last):
    """By hand, and the same where the state was kept and restored in between."""
    settings = OptimizerSettings(kind=kind, momentum=momentum, average=average, schedule="cosine")
    start = torch.randn(5, generator=rng)

    def course(stops):
        x = start.clone().requires_grad_()
        optimizer, seen = settings.build([ParameterGroup("x", [x], 0.1)]), []
        for index in range(10):
            if index in stops:
                kept, lrs = optimizer_state(optimizer), rates(optimizer)
                optimizer = settings.build([ParameterGroup("x", [x], 0.1)])
                restore(optimizer, kept, lrs)
            x.grad = x.detach() ** 2 - 1
            settings.step(optimizer, index, 10)
            seen.append(x.detach().clone())
        hand_on_means(optimizer)
        return x.detach(), torch.stack(seen)

    handed, seen = course(())
    torch.testing.assert_close(handed, seen[-last:].mean(dim=0))
    for stops in [(3,), (8, 9)]:
        assert torch.equal(course(stops)[0], handed)


def test_without_an_average_the_last_state_stays(rng):
    x = torch.randn(3, generator=rng).requires_grad_()
    optimizer = OptimizerSettings().build([ParameterGroup("x", [x], 0.1)])
    x.grad = torch.ones(3)
    OptimizerSettings().step(optimizer, 0, 1)
    before = x.detach().clone()
    hand_on_means(optimizer)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (3, 5, 5), (1, 28, 28), (3, 32, 32)])
def test_rows_move_alike_whichever_others_a_process_has(rng, kind, shape):
    """Also where a step is taken in one pass, whose last numbers may round otherwise."""
    count = 11
    start = torch.randn(count, *shape, generator=rng)
    grads = [torch.randn(count, *shape, generator=rng) for _ in range(5)]
    classes = torch.arange(count)
    settings = OptimizerSettings(kind=kind, rates="absolute")

    def moved(rows):
        x = start[rows].clone().requires_grad_()
        optimizer = settings.build([ParameterGroup("x", [x], 0.013, classes[rows])])
        for grad in grads:
            x.grad = grad[rows].clone()
            optimizer.step()
        return x.detach(), optimizer

    whole, optimizer = moved(slice(None))
    for cut in range(1, count):
        parts = [moved(rows)[0] for rows in (slice(cut), slice(cut, None))]
        assert torch.equal(torch.cat(parts), whole)
    assert optimizer.param_groups[0]["fused"] == (start[0].numel() % 16 == 0)
