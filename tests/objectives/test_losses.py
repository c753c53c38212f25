"""The losses against their naive twins and closed forms."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_STUDENT
from reference import cosine_gradient_distance, distribution_distance
from torch.autograd import gradcheck

from hpd.objectives.distribution import distribution_loss
from hpd.objectives.gradient import gradient_distance, weight_gradient
from hpd.students import STUDENTS, class_means


def test_distribution_loss_equals_its_twin(float64, rng):
    real, synthetic = torch.randn(9, 4, generator=rng), torch.randn(5, 4, generator=rng)
    synthetic.requires_grad_()
    real_labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    labels = torch.tensor([0, 1, 1, 2, 2])
    got = distribution_loss(class_means(real, real_labels, 3), class_means(synthetic, labels, 3))
    want = distribution_distance(real, real_labels, synthetic, labels)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(value, synthetic, retain_graph=True)[0] for value in (got, want))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_distribution_loss_in_closed_form():
    assert float(distribution_loss(torch.zeros(2, 3), torch.ones(2, 3))) == 6


def test_gradient_distance_equals_its_twin(float64, rng):
    shapes = [(3, 2, 3, 3), (3,), (4, 5), (4,)]
    real = [torch.randn(s, generator=rng) for s in shapes]
    synthetic = [torch.randn(s, generator=rng).requires_grad_() for s in shapes]
    got, want = gradient_distance(real, synthetic), cosine_gradient_distance(real, synthetic)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for s in (synthetic[0], synthetic[2]):
        grads = (torch.autograd.grad(value, s, retain_graph=True)[0] for value in (got, want))
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_gradient_distance_in_closed_form():
    g = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.ones(2)]
    assert float(gradient_distance(g, g)) == pytest.approx(0, abs=1e-5)
    assert float(gradient_distance(g, [-x for x in g])) == pytest.approx(4, abs=1e-5)
    turned = [torch.tensor([[-4.0, 3.0], [0.0, 1.0]]), torch.zeros(2)]
    assert float(gradient_distance(g, turned)) == pytest.approx(2, abs=1e-5)
    assert float(gradient_distance(g, [torch.zeros(2, 2), torch.ones(2)])) == 2


def test_gradient_matching_is_differentiable_by_the_images(float64, rng):
    """gradcheck through the double backward of a whole student."""
    settings = STUDENTS.parse(SMALL_STUDENT | {"width": 2, "norm": "group"})
    student = settings.build((1, 4, 4), 2, rng)
    labels = torch.tensor([0, 1])
    target = weight_gradient(
        student, torch.randn(3, 1, 4, 4, generator=rng), torch.tensor([0, 1, 1])
    )

    def distance(images):
        return gradient_distance(
            target, weight_gradient(student, images, labels, create_graph=True)
        )

    images = torch.randn(2, 1, 4, 4, generator=rng).requires_grad_()
    assert gradcheck(distance, images, eps=1e-7, atol=1e-4)


def test_only_weights_count(rng):
    student = STUDENTS.parse(SMALL_STUDENT).build((1, 8, 8), 3, rng)
    grads = weight_gradient(student, torch.randn(2, 1, 8, 8, generator=rng), torch.tensor([0, 2]))
    assert [g.ndim for g in grads] == [4, 4, 2]
