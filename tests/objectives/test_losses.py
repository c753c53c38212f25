"""Gradient and distribution matching against their naive twins and closed forms."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_STUDENT
from reference import distribution_distance, gradient_distances
from torch.autograd import gradcheck

from hpd.objectives.distribution import distribution_loss
from hpd.objectives.gradient import DISTANCES, counted, gradient_distance
from hpd.students import STUDENTS
from hpd.students.traced import Traced


def test_distribution_loss_equals_its_twin(float64, rng):
    real, synthetic = torch.randn(9, 4, generator=rng), torch.randn(5, 4, generator=rng)
    synthetic.requires_grad_()
    real_labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    labels = torch.tensor([0, 1, 1, 2, 2])
    sides = ((real, real_labels), (synthetic, labels))
    got = distribution_loss(
        *(torch.stack([rows[own == c].mean(dim=0) for c in range(3)]) for rows, own in sides)
    )
    want = distribution_distance(real, real_labels, synthetic, labels)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(value, synthetic, retain_graph=True)[0] for value in (got, want))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_distribution_loss_in_closed_form():
    assert float(distribution_loss(torch.zeros(2, 3), torch.ones(2, 3))) == 6


@pytest.mark.parametrize("kind", DISTANCES)
def test_gradient_distance_equals_its_twin(kind, float64, rng):
    shapes = [(3, 2, 3, 3), (3,), (4, 5), (4,)]
    real = [torch.randn(s, generator=rng) for s in shapes]
    synthetic = [torch.randn(s, generator=rng).requires_grad_() for s in shapes]
    got = gradient_distance(real, synthetic, kind)
    want = gradient_distances(real, synthetic)[kind]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(got, synthetic), torch.autograd.grad(want, synthetic), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert float(gradient_distance(real, real, kind)) == pytest.approx(0, abs=1e-5)


def test_gradient_distance_in_closed_form():
    g = [torch.tensor([[3.0, 4.0], [1.0, 0.0]])]
    opposite, turned, none = [-g[0]], [torch.tensor([[-4.0, 3.0], [0.0, 1.0]])], [0 * g[0]]
    assert float(gradient_distance(g, opposite)) == pytest.approx(4, abs=1e-5)
    assert float(gradient_distance(g, turned)) == pytest.approx(2, abs=1e-5)
    assert float(gradient_distance(g, none)) == 2
    assert float(gradient_distance(g, none, "squared")) == 26
    assert float(gradient_distance(g, none, "l1")) == 8


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("layers", ["weights", "convolutions", "all"])
def test_gradient_matching_is_differentiable_by_the_images(kind, layers, float64, rng):
    """gradcheck through the double backward of a whole student."""
    settings = STUDENTS.parse(SMALL_STUDENT | {"width": 2, "norm": "group"})
    student = settings.build((1, 4, 4), 2, rng)
    names = counted(student, layers)
    real = torch.randn(3, 1, 4, 4, generator=rng)
    gradient = Traced(lambda: settings.make((1, 4, 4), 2)).weight_gradient
    target = [g.detach() for g in gradient(student, real, torch.tensor([0, 1, 1]), names)]

    def distance(images):
        got = gradient(student, images, torch.tensor([0, 1]), names)
        return gradient_distance(target, got, kind)

    images = torch.randn(2, 1, 4, 4, generator=rng).requires_grad_()
    assert gradcheck(distance, images, eps=1e-7, atol=1e-4)


def test_the_layers_that_count(rng):
    student = STUDENTS.parse(SMALL_STUDENT).build((1, 8, 8), 3, rng)
    shapes = {name: value.ndim for name, value in student.named_parameters()}
    assert [shapes[name] for name in counted(student, "weights")] == [4, 4, 2]
    assert [shapes[name] for name in counted(student, "convolutions")] == [4, 4]
    assert list(counted(student, "all")) == list(shapes)
