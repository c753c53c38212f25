"""Siamese augmentation: drawn once, replayed on any batch, differentiable."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from hpd.augment import OPERATION_NAMES, Augmentation, draw_augmentation


@pytest.fixture(params=OPERATION_NAMES)
def operation(request):
    return request.param


def test_the_same_draw_does_the_same_to_every_batch(operation, rng):
    augment = draw_augmentation([operation], rng)
    x = torch.randn(5, 3, 9, 7, generator=rng)
    whole = augment(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(torch.cat([augment(x[:2]), augment(x[2:])]), whole)


def test_per_image_parameters_equal_one_call_each(operation, rng):
    x = torch.randn(4, 3, 8, 8, generator=rng)
    augment = draw_augmentation([operation], rng, count=4)
    alone = [Augmentation(operation, augment.numbers[i : i + 1])(x[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(augment(x), torch.cat(alone))


@pytest.mark.parametrize("count", [1, 2])
def test_differentiable(operation, count, float64, rng):
    x = torch.randn(2, 2, 6, 6, generator=rng).requires_grad_()
    assert gradcheck(draw_augmentation([operation], rng, count=count), x)


def test_every_operation_changes_the_image(operation, rng):
    x = torch.randn(1, 3, 16, 16, generator=rng)
    changed = [not torch.allclose(draw_augmentation([operation], rng)(x), x) for _ in range(20)]
    assert any(changed)


def test_all_operations_are_drawn(rng):
    drawn = {draw_augmentation(OPERATION_NAMES, rng).operation for _ in range(100)}
    assert drawn == set(OPERATION_NAMES)


def numbers(*values):
    return torch.tensor([values])


def test_closed_forms():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    middle = numbers(0.5, 0.5, 0.5)
    torch.testing.assert_close(Augmentation("color", middle)(x), x)
    torch.testing.assert_close(Augmentation("crop", middle)(x), x)
    torch.testing.assert_close(Augmentation("rotate", middle)(x), x, atol=1e-4, rtol=0)
    assert torch.equal(Augmentation("flip", numbers(0.2, 0, 0))(x), x.flip(-1))
    assert torch.equal(Augmentation("flip", numbers(0.7, 0, 0))(x), x)
    shifted = Augmentation("crop", numbers(0.0, 0.99, 0))(x)
    assert torch.equal(shifted[:, :, 1:, :-1], x[:, :, :-1, 1:])
    assert float(shifted[:, :, 0].abs().max()) == 0
    cut = Augmentation("cutout", middle)(x + 1)
    assert int((cut == 0).sum()) == 16
    assert float(cut[:, :, 2:6, 2:6].abs().max()) == 0
