"""Attacks against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpd.errors import ShapeError
from hpd.evaluation.card.attacks import best_threshold, evaluating, membership_advantage, pgd
from hpd.students import STUDENTS


class Line(nn.Module):
    """Two classes: logits 0 and w . x."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        score = (x * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


OPTIONS = {"epsilon": 0.03, "steps": 10, "step_size": 0.0075}


@pytest.fixture
def line(rng, float64):
    return Line(torch.randn(3, 4, 4, generator=rng))


def test_pgd_on_a_line_reaches_the_bound(line, rng):
    """The score of the true class falls by epsilon |w|_1 where nothing is clipped."""
    images = torch.rand(6, 3, 4, 4, generator=rng) * 0.8 + 0.1
    labels = torch.tensor([0, 1] * 3)
    found = pgd(line, images, labels, **OPTIONS, rng=rng)
    fallen = (line(images) - line(found))[:, 1] * (2 * labels - 1)
    assert torch.allclose(fallen, 0.03 * line.weights.abs().sum().expand(6))
    assert float((found - images).abs().max()) == pytest.approx(0.03)


def test_pgd_stays_in_the_box_and_among_images(line, rng):
    images = torch.rand(6, 3, 4, 4, generator=rng).round()
    found = pgd(line, images, torch.ones(6, dtype=torch.int64), **OPTIONS, rng=rng)
    best = (images - 0.03 * line.weights.sign()).clamp(0, 1)
    assert torch.allclose(found, best)


def test_pgd_leaves_no_trace(rng):
    """No gradient in the student, whatever it requires; also where gradients are off."""
    student = STUDENTS.parse({"kind": "convnet", "width": 4, "depth": 2}).build((1, 8, 8), 3, rng)
    student.blocks[0].weight.requires_grad_(False)
    flags = [p.requires_grad for p in student.parameters()]
    images = torch.rand(5, 1, 8, 8, generator=rng)
    before, labels = images.clone(), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        found = pgd(student, images, labels, **OPTIONS, rng=torch.Generator().manual_seed(1))
    again = pgd(student, images, labels, **OPTIONS, rng=torch.Generator().manual_seed(1))
    assert torch.equal(found, again)
    assert not found.requires_grad
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert flags == [p.requires_grad for p in student.parameters()]
    assert all(p.grad is None for p in student.parameters())
    losses = [nn.functional.cross_entropy(student(x), labels) for x in (images, found)]
    assert losses[1] > losses[0]


def test_pgd_does_not_hang_on_the_other_images(line, rng):
    images = torch.rand(4, 3, 4, 4, generator=rng)
    labels = torch.tensor([0, 1, 1, 0])
    both = pgd(line, images, labels, **OPTIONS, rng=torch.Generator().manual_seed(1))
    alone = pgd(line, images[:1], labels[:1], **OPTIONS, rng=torch.Generator().manual_seed(1))
    assert torch.allclose(both[:1], alone)


def test_evaluating_puts_every_layer_back():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2), nn.Sequential(nn.Dropout()))
    net.train()
    net[0].eval()
    before = [layer.training for layer in net.modules()]
    with pytest.raises(KeyError), evaluating([net]):
        assert not any(layer.training for layer in net.modules())
        raise KeyError
    assert [layer.training for layer in net.modules()] == before


def test_membership_of_losses_apart(rng):
    low, high = (torch.rand(40, generator=rng) + shift for shift in (0, 2))
    assert membership_advantage(low, high) == 100
    # no threshold helps who guesses that the lower loss is a member's
    assert membership_advantage(high, low) == 0


def test_membership_of_equal_losses():
    assert membership_advantage(torch.full((10,), 0.3), torch.full((10,), 0.3)) == 0


def test_membership_of_one_distribution_is_about_nothing(rng):
    """Where the threshold that is best in hindsight would seem to know something."""
    draws = [[torch.randn(100, generator=rng) for _ in range(2)] for _ in range(200)]
    mean = sum(membership_advantage(*own) for own in draws) / 200
    assert abs(mean) < 2
    naive = []
    for members, others in draws:
        t = best_threshold(members, others)
        naive.append(float((members < t).double().mean() - (others < t).double().mean()))
    assert 100 * sum(naive) / 200 > 8


def test_membership_of_two_normals(rng):
    """Apart by d: the best threshold is half-way, and the advantage 2 Phi(d / 2) - 1."""
    members, others = (torch.randn(20_000, generator=rng) + shift for shift in (0, 1))
    expected = 200 * float(torch.special.ndtr(torch.tensor(0.5))) - 100
    assert membership_advantage(members, others) == pytest.approx(expected, abs=1.5)


def test_membership_of_losses_that_are_no_numbers():
    broken = torch.full((6,), torch.nan)
    assert membership_advantage(broken, broken) == 0
    assert membership_advantage(torch.rand(6, generator=torch.Generator()), broken) == 100


def test_membership_needs_as_many_of_both():
    with pytest.raises(ShapeError, match="N=4"):
        membership_advantage(torch.zeros(4), torch.zeros(5))
    with pytest.raises(ShapeError, match="two or more"):
        membership_advantage(torch.zeros(1), torch.zeros(1))
