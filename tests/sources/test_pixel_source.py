"""Pixels as the source: where they start."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU

from hpd.engine.rendered import render_all
from hpd.errors import DataError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES


def build(images, seed=0, **options):
    return SOURCES.parse({"kind": "pixel", **options}).build(images, CPU, Streams(seed))


def test_real_images_are_the_start_and_of_their_class(images):
    source = build(images, images_per_class=3)
    for image, label in zip(render_all(source), source.labels.tolist(), strict=True):
        own = images.unit(images.by_class[label])
        assert float((own - image).abs().amax(dim=(1, 2, 3)).min()) < 1e-6
    assert source.stored_floats == 9 * 64


def test_noise_is_normal_in_normalised_space(images):
    source = build(images, init="noise", images_per_class=12)
    pixels = source.pixels.detach()
    assert abs(float(pixels.mean())) < 0.1
    assert float(pixels.std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(render_all(source), render_all(build(images, 1, init="noise",
                                                                images_per_class=12)))  # fmt: skip


def test_what_cannot_be_is_refused(images):
    with pytest.raises(DataError, match="too few images: got 12"):
        build(images, images_per_class=13)
    with pytest.raises(RunError, match="single stage"):
        build(images).enter(1)


def test_clipped_pixels_stay_in_range_and_others_do_not(images):
    """What the optimiser holds is clipped, not only what is seen; once is enough."""
    free, clipped = (build(images, init="noise", clip=clip) for clip in (False, True))
    everything = torch.arange(3)
    with torch.no_grad():
        free.pixels.mul_(3)
        clipped.pixels.mul_(3)
    before, after = free.render(everything)[0], clipped.render(everything)[0]
    assert float(before.min()) < -0.1 and float(before.max()) > 1.1
    torch.testing.assert_close(after, before.clamp(0, 1))
    held = clipped.pixels.detach().clone()
    torch.testing.assert_close(images.normalisation.undo(held), after)
    clipped.render(everything)
    assert torch.equal(clipped.pixels, held)
    images_again, pullback = clipped.render(everything)
    pullback(torch.ones_like(images_again))
    # the gradient does not stop at the border, so a pixel can come back
    assert float(clipped.pixels.grad.abs().min()) > 0
