"""Projection finds images that the generator can make, and says what LPIPS lacks."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
from conftest import CPU, tiny_generator

from generators.projection import perceptual_distance, project, squared_distance
from hpd.errors import GeneratorError, ShapeError


@pytest.fixture
def generator():
    return tiny_generator()


@pytest.fixture
def target(generator, rng):
    labels = torch.tensor([0, 1, 2])
    return (generator(generator.map(torch.randn(3, 8, generator=rng), labels)) + 1) / 2, labels


def find(generator, target, rng, **options):
    images, labels = target
    options = {"distance": squared_distance, "average_draws": 50} | options
    return project(generator, images, labels, rng=rng, **options)


def test_what_the_generator_can_make_is_found(generator, target, rng):
    start = find(generator, target, rng, steps=0)
    found = find(generator, target, rng, steps=200)
    assert found.shape == (3, generator.spec.num_ws, 8)
    before, after = (squared_distance((generator(ws) + 1) / 2, target[0]) for ws in (start, found))
    assert (after < 0.05 * before).all()


def test_chunks_change_nothing(generator, target):
    found = [
        find(generator, target, torch.Generator().manual_seed(0), steps=5, chunk_images=chunk)
        for chunk in (1, 3)
    ]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_the_best_is_kept(generator, target):
    """A rate that is far too high never ends worse than the start."""
    wild, start = (
        find(generator, target, torch.Generator().manual_seed(0), **options)
        for options in ({"steps": 5, "lr": 50.0}, {"steps": 0})
    )
    distances = [squared_distance((generator(w) + 1) / 2, target[0]) for w in (wild, start)]
    assert (distances[0] <= distances[1]).all()


def test_images_of_another_shape_are_refused(generator, rng):
    with pytest.raises(ShapeError, match="images has the wrong shape"):
        find(generator, (torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 2])), rng)


def test_missing_weights_are_named(monkeypatch):
    import lpips

    def refuse(**options):
        raise URLError("no network")

    monkeypatch.setattr(lpips, "LPIPS", refuse)
    with pytest.raises(GeneratorError, match=r"AlexNet's weights.*alexnet-owt-7be5be79\.pth into"):
        perceptual_distance(CPU)


def test_lpips_projects_small_grey_images(generator, target, rng, monkeypatch):
    """The real LPIPS network, with a random backbone in place of the weights to be fetched."""
    import lpips

    original = lpips.LPIPS
    monkeypatch.setattr(lpips, "LPIPS", lambda **options: original(**options, pnet_rand=True))
    distance = perceptual_distance(CPU)
    images = target[0]
    assert distance(images, images).tolist() == [0, 0, 0]
    found = find(generator, target, rng, distance=distance, steps=20)
    start = find(generator, target, torch.Generator().manual_seed(0), distance=distance, steps=0)
    after, before = (distance((generator(ws) + 1) / 2, images).sum() for ws in (found, start))
    assert after < before
