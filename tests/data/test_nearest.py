"""The nearest images are those of a loop over all pairs in float64, the first of equal ones."""

from __future__ import annotations

import pytest
import torch

from hpd.data import ImageSet, Normalisation
from hpd.data import nearest as module
from hpd.data.nearest import nearest_images


@pytest.fixture(params=[1, 500, 1 << 22], ids=lambda values: f"chunks of {values} values")
def chunks(request, monkeypatch):
    """Sets in one chunk and in many, and queries likewise."""
    monkeypatch.setattr(module, "_CHUNK_VALUES", request.param)
    monkeypatch.setattr(module, "_QUERIES", 3 if request.param == 500 else 256)


def as_set(pixels):
    """A view of shuffled rows that holds the pixels in their order."""
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(9))
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    shuffled = ImageSet(pixels[order], labels, ("a", "b"), Normalisation((0.0,), (1.0,)))
    return shuffled.at(order.argsort())


def naive(images, pixels, but=None, rows=None):
    """Index of the first nearest and its distance, one pair after another."""
    found = []
    for i, image in enumerate(images.float().double()):
        best = (float("inf"), None)
        for j in range(len(pixels)) if rows is None else rows.tolist():
            gaps = image - (pixels[j].float() / 255).double()
            square = float(gaps.flatten()[None].square().sum(dim=1))
            if square < best[0] and (but is None or j != but[i]):
                best = (square, j)
        found.append(best)
    size = images[0].numel()
    return [j for _, j in found], [(square / size) ** 0.5 for square, _ in found]


def check(images, pixels, **options):
    which, distances = nearest_images(images, as_set(pixels), **options)
    indices, wanted = naive(images, pixels, **options)
    assert which.tolist() == indices
    torch.testing.assert_close(distances, torch.tensor(wanted), rtol=1e-6, atol=0)
    return which, distances


def pixels_of(count, rng, shape=(3, 4, 5)):
    return torch.randint(256, (count, *shape), generator=rng).to(torch.uint8)


def test_random_images(chunks, rng):
    check(torch.rand(11, 3, 4, 5, generator=rng), pixels_of(60, rng))


def test_images_beyond_the_range(chunks, rng):
    check(torch.randn(5, 3, 4, 5, generator=rng) * 3, pixels_of(40, rng))


def test_of_equal_images_the_first_counts_at_distance_zero(chunks, rng):
    pixels = pixels_of(12, rng)[torch.arange(60) % 12]
    order = torch.randperm(60, generator=rng)
    images = pixels[order].float() / 255
    which, distances = check(images, pixels)
    assert which.tolist() == [int(i) % 12 for i in order]
    assert torch.equal(distances, torch.zeros(60))


def test_a_single_value_off_by_one_is_told_apart(chunks, rng):
    """In large bright images, where the rounding of products in float32 hides more than that."""
    base = torch.full((1, 3, 40, 40), 250, dtype=torch.uint8)
    pixels = base.repeat(30, 1, 1, 1)
    for i in range(30):
        pixels[i, i % 3, i, 39 - i] -= 1
    images = pixels[[29, 0, 17]].float() / 255
    which, distances = check(images, pixels)
    assert which.tolist() == [29, 0, 17]
    assert torch.equal(distances, torch.zeros(3))
    # as far from all of them
    assert check(base.float() / 255, pixels)[0].tolist() == [0]


def test_near_duplicates_at_random(chunks, rng):
    base = pixels_of(1, rng).clamp(1, 254)
    pixels = base.repeat(50, 1, 1, 1)
    flat = pixels.view(50, -1)
    flat[torch.arange(50), torch.randint(60, (50,), generator=rng)] += 1
    check(base.float() / 255 + torch.randn(20, 3, 4, 5, generator=rng) * 1e-3, pixels)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images(chunks, value, rng):
    pixels = torch.full((20, 3, 4, 5), value, dtype=torch.uint8)
    pixels[13:] = pixels_of(7, rng)
    images = torch.stack([torch.full((3, 4, 5), level) for level in (0.0, 0.5, 1.0)])
    which, _ = check(images, pixels)
    assert int(which[(0, 128, 255).index(value)]) == 0


def test_an_image_that_does_not_count_is_passed_over(chunks, rng):
    pixels = pixels_of(9, rng)[torch.tensor([0, 1, 2, 0, 1, 3, 4, 5, 6])]
    own = torch.arange(9)
    which, distances = check(pixels.float() / 255, pixels, but=own)
    assert which.tolist()[:5] == [3, 4, which[2], 0, 1]
    assert bool((which != own).all()) and not distances[0] and distances[2]


def test_some_images_alone_are_looked_through(chunks, rng):
    rows = torch.tensor([2, 3, 8, 20, 21, 39])
    which, _ = check(torch.rand(7, 3, 4, 5, generator=rng), pixels_of(40, rng), rows=rows)
    assert set(which.tolist()) <= set(rows.tolist())


def test_the_dtype_of_the_images_changes_nothing(rng):
    pixels = pixels_of(20, rng)
    images = pixels[5:8].double() / 255
    which, distances = nearest_images(images, as_set(pixels))
    assert which.tolist() == [5, 6, 7] and torch.equal(distances, torch.zeros(3))


def test_no_images_have_no_nearest(images):
    which, distances = nearest_images(images.unit(slice(0, 0)), images)
    assert (which.dtype, len(which), len(distances)) == (torch.int64, 0, 0)


def test_without_another_image_nothing_is_near(rng):
    pixels = pixels_of(1, rng)
    which, distances = nearest_images(pixels.float(), as_set(pixels), but=torch.tensor([0]))
    assert (which.tolist(), distances.tolist()) == ([0], [float("inf")])
