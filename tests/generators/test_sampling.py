"""Samples and their pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_generator

from generators import Prior, StoredGenerator
from generators.sampling import draw_samples, tile
from hpd.errors import NumericError


def test_each_seed_decides_its_own_image():
    generator = tiny_generator()
    many = draw_samples(generator, 1, [4, 5, 6])
    torch.testing.assert_close(many[1:2], draw_samples(generator, 1, [5]))
    assert not torch.equal(draw_samples(generator, 2, [5]), many[1:2])
    still = draw_samples(generator, 1, [4, 5], truncation_psi=0.0)
    torch.testing.assert_close(still[0], still[1])


def test_a_tile_holds_every_image_in_its_place(rng):
    images = torch.rand(6, 3, 64, 64, generator=rng) * 2 - 1
    drawn = np.array(tile(images, columns=3))
    assert drawn.shape == (2 * 66, 3 * 66, 3)
    want = ((images[4] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(drawn[67:131, 67:131], want)
    assert np.array(tile(images[:, :1, :16, :16], columns=6)).shape == (18 * 4, 6 * 18 * 4)


def overflowing():
    """Every weight is finite; their products are not."""
    generator = tiny_generator()
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if "torgb" in name:
                value.fill_(1e30)
    return generator


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(NumericError, match="what the generator makes is not finite"):
        draw_samples(overflowing(), 1, [0])


def test_a_prior_that_is_not_finite_is_refused(rng):
    with pytest.raises(NumericError, match="what the generator makes is not finite"):
        Prior(StoredGenerator.of(overflowing()), [0, 1]).draw(2, rng)
