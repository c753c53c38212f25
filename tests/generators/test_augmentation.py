"""Augmentation for discriminators: each transform does what it says, to the images it acts on."""

from __future__ import annotations

import pytest
import torch

from generators.draws import Draws
from generators.training.augmentation import (
    AugmentationSettings,
    augment,
    change_colours,
    cut_out,
    translate,
)

ALL = AugmentationSettings(translation=0.25, cutout=0.5, colour=1.0)


def draws_from(seed):
    """Streams by role, as a training gives them."""

    def draws(role):
        return Draws(torch.Generator().manual_seed(seed + sum(map(ord, role))))

    return draws


def test_translation_moves_whole_images():
    image = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    shifts = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
    for moved, (y, x) in zip(translate(image.repeat(9, 1, 1, 1), shifts), shifts, strict=True):
        assert torch.equal(moved, padded[:, 1 + y : 5 + y, 1 + x : 5 + x])


def test_cutout_is_one_square_of_zeros():
    corners = torch.cartesian_prod(torch.arange(-3, 9), torch.arange(-3, 9))
    cut = cut_out(torch.ones(len(corners), 2, 8, 8), corners, 3)
    for one, (y, x) in zip(cut, corners.tolist(), strict=True):
        expected = torch.ones(2, 8, 8)
        expected[:, max(y, 0) : max(y + 3, 0), max(x, 0) : max(x + 3, 0)] = 0
        assert torch.equal(one, expected)


def test_colours_follow_their_formula(rng):
    images = torch.randn(4, 3, 5, 5, generator=rng, dtype=torch.float64)
    change = torch.rand(4, 3, generator=rng, dtype=torch.float64) * 2 - 1
    for image, (b, s, c), got in zip(images, change, change_colours(images, change), strict=True):
        x = image + b / 2
        grey = (x[0] + x[1] + x[2]) / 3
        x = torch.stack([grey + (1 + s) * (channel - grey) for channel in x])
        x = x.mean() + (1 + c / 2) * (x - x.mean())
        torch.testing.assert_close(got, x)
    torch.testing.assert_close(change_colours(images, torch.zeros(4, 3)), images)


def test_grey_images_have_no_saturation(rng):
    images = torch.randn(2, 1, 5, 5, generator=rng)
    change = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    torch.testing.assert_close(change_colours(images, change), images)


@pytest.mark.parametrize("transform", ["translation", "cutout", "colour"])
def test_every_transform_acts_with_the_probability_asked_for(transform, rng):
    off = {"translation": 0.0, "cutout": 0.0, "colour": 0.0}
    settings = AugmentationSettings(**off | {transform: getattr(ALL, transform)})
    images = torch.randn(400, 3, 16, 16, generator=rng)

    def changed(probability):
        got = augment(images, settings, probability, draws_from(0))
        return float((got - images).abs().amax(dim=(1, 2, 3)).gt(1e-5).float().mean())

    assert changed(0.0) == 0
    # a shift by no pixel and a square outside the frame change nothing
    assert changed(1.0) > 0.9
    assert abs(changed(0.5) - 0.5) < 0.1


def test_everything_switched_off_is_the_same_tensor():
    images = torch.ones(2, 1, 4, 4)
    settings = AugmentationSettings(translation=0, cutout=0, colour=0)
    assert augment(images, settings, 1.0, draws_from(0)) is images


def test_every_pixel_is_cut_out_and_every_shift_drawn_at_some_time():
    images = torch.ones(400, 1, 8, 8)
    cut = augment(images, AugmentationSettings(translation=0, cutout=0.4), 1.0, draws_from(0)) == 0
    assert bool(cut.any(dim=0).all())
    moved = augment(images, AugmentationSettings(translation=0.2, cutout=0), 1.0, draws_from(0))
    assert len({tuple(m.flatten().tolist()) for m in moved}) == 25


def test_augmentation_can_be_differentiated_twice(rng):
    images = torch.randn(2, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)

    def augmented(x):
        return augment(x, ALL, 1.0, draws_from(3)) ** 3

    # without given ones the check draws them from the global generator
    outer = torch.randn(images.shape, generator=rng, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(augmented, (images,), outer)


def test_probability_follows_the_sign_within_its_bounds():
    settings = AugmentationSettings(augment_target=0.6, augment_adapt_images=100)
    assert settings.adapt(0.5, 0.7, 10) == pytest.approx(0.6)
    assert settings.adapt(0.5, 0.5, 10) == pytest.approx(0.4)
    assert settings.adapt(0.95, 1.0, 10) == 1.0
    assert settings.adapt(0.05, 0.0, 10) == 0.0
    assert AugmentationSettings().adapt(0.3, -1.0, 10) == 1.0


def test_processes_augment_what_one_would(rng):
    images = torch.randn(6, 3, 8, 8, generator=rng)
    whole = augment(images, ALL, 0.7, draws_from(1))
    for rank in range(3):

        def draws(role, rank=rank):
            return Draws(draws_from(1)(role).rng, rank, 3)

        part = augment(images[2 * rank : 2 * rank + 2], ALL, 0.7, draws)
        torch.testing.assert_close(part, whole[2 * rank : 2 * rank + 2])
