"""Projection finds images that the generator can make, and says what LPIPS lacks."""

from __future__ import annotations

from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import CPU, tiny_generator

import hpd
from generators.projection import perceptual_distance, project, squared_distance
from hpd.errors import GeneratorError, HpdError, NumericError, ShapeError


@pytest.fixture
def generator():
    return tiny_generator()


@pytest.fixture
def target(generator, rng):
    labels = torch.tensor([0, 1, 2])
    return (generator(generator.map(torch.randn(3, 8, generator=rng), labels)) + 1) / 2, labels


def find(generator, target, rng, **options):
    images, labels = target
    # what random weights make is far outside of [0, 1]
    common = {"distance": squared_distance, "average_draws": 50, "any_range": True}
    options = common | options
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


def test_nothing_is_fetched_unless_it_is_asked_for(generator, monkeypatch):
    """The default needs no weights but those of the generator; the source's neither."""

    def refuse():
        raise AssertionError("LPIPS was asked for")

    monkeypatch.setattr("generators.projection._load_lpips", refuse)
    found = hpd.project(generator, PIXELS, LABELS, steps=2)
    assert torch.equal(found, hpd.project(generator, PIXELS, LABELS, steps=2, distance="squared"))
    hpd.distill("digits", "source.init=project", "source.project_steps=1", "source.steps=0")
    with pytest.raises(AssertionError, match="asked for"):
        hpd.project(generator, PIXELS, LABELS, steps=2, distance="lpips")


def test_what_is_fetched_is_said_before(monkeypatch, caplog, tmp_path):
    import lpips

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    original = lpips.LPIPS
    monkeypatch.setattr(lpips, "LPIPS", lambda **options: original(**options, pnet_rand=True))
    perceptual_distance(CPU)
    assert f"fetching 233 MB to {tmp_path}" in caplog.text


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


PIXELS = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)
LABELS = torch.tensor([0, 1, 2])


def found_by_hpd(generator, images, labels=LABELS, **options):
    options = {"distance": "squared", "steps": 2} | options
    return hpd.project(generator, images, labels, **options)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (PIXELS, [0, 1, 2]),
        (PIXELS.numpy(), np.array([0, 1, 2], np.int32)),
        ((PIXELS / 255).numpy(), np.array([[0], [1], [2]], ">i8")),
        ((PIXELS / 255).requires_grad_(), LABELS.to(torch.uint8)),
        ((PIXELS / 255).tolist(), LABELS),
    ],
    ids=["bytes", "bytes of numpy", "numpy", "with a graph", "lists"],
)
def test_images_of_one_meaning_are_projected_alike(generator, images, labels):
    wanted = found_by_hpd(generator, PIXELS / 255)
    assert torch.equal(found_by_hpd(generator, images, labels), wanted)


def test_a_generator_of_doubles_projects_doubles(generator):
    assert found_by_hpd(generator.double(), PIXELS).dtype == torch.float64


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (PIXELS.float(), LABELS, "x / 255"),
        (PIXELS / 127.5 - 1, LABELS, r"\(x \+ 1\) / 2"),
        (PIXELS / 255 * torch.nan, LABELS, "192 NaN or Inf"),
        (PIXELS.permute(0, 2, 3, 1), LABELS, "channels are last"),
        (PIXELS[:2], LABELS, "got 3 labels, expected 2"),
        (PIXELS, LABELS.float(), "class indices"),
        (PIXELS, LABELS + 1, r"got 1\.\.3, expected 0\.\.2"),
        (PIXELS, None, "labels do not fit the generator"),
    ],
    ids=["0 to 255", "[-1, 1]", "NaN", "channels last", "too many labels", "floats",
         "out of range", "no labels"],
)  # fmt: skip
def test_what_cannot_be_projected_is_said(generator, images, labels, said):
    with pytest.raises(HpdError, match=said):
        found_by_hpd(generator, images, labels)


def test_a_generator_without_classes_takes_no_labels():
    with pytest.raises(GeneratorError, match="none: it is unconditional"):
        found_by_hpd(tiny_generator(num_classes=0), PIXELS)


def test_steps_are_counted_from_zero(generator):
    with pytest.raises(ShapeError, match="steps"):
        found_by_hpd(generator, PIXELS, steps=-1)


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (lambda a, b: (a - b).square(), r"one number an image: got Tensor \[3, 1, 8, 8\]"),
        (lambda a, b: (a - b).square().mean(), "one number an image"),
        (lambda a, b: (a - b).detach().square().mean(dim=(1, 2, 3)), "without a graph"),
        (lambda a, b: None, "got NoneType"),
    ],
)
def test_a_distance_of_ones_own_gives_a_number_an_image(generator, distance, said):
    with pytest.raises(ShapeError, match=said):
        found_by_hpd(generator, PIXELS, distance=distance)


def test_a_distance_that_is_never_a_number_is_an_error(generator):
    def distance(a, b):
        return squared_distance(a, b) * torch.nan

    with pytest.raises(NumericError, match="distance between images is not finite: got 3 NaN"):
        found_by_hpd(generator, PIXELS, distance=distance)
