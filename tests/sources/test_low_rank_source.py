"""Low-rank factors: how many fit, how close they start, and what rank their images have."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd import distill
from hpd.artifacts import RunFolder
from hpd.data import ImageSet, Normalisation
from hpd.engine import OptimizerSettings
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, DataError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.low_rank import LowRankSettings, factorise


def build(images, seed=0, **options):
    return SOURCES.parse({"kind": "low_rank", **options}).build(images, CPU, Streams(seed))


@pytest.mark.parametrize(
    ("side", "rank", "budget", "count"),
    # the paper's table, and two where rounding the ratio before the product would lose images
    [(32, 2, 1, 8), (32, 4, 1, 4), (32, 8, 1, 2), (28, 2, 1, 7), (64, 4, 1, 8),
     (28, 3, 10, 46), (32, 5, 50, 160)],
)  # fmt: skip
def test_the_images_are_as_many_as_the_budget_holds(side, rank, budget, count):
    settings = LowRankSettings(rank=rank, budget_images=budget)
    assert settings.count(side, side) == count


def test_no_budget_is_exceeded_or_left_unused():
    """Over a grid: within the budget, and one image more a class would not be."""
    tried = 0
    for (height, width), rank, budget in product([(8, 8), (8, 12), (16, 16)], [1, 2, 3], [1, 2, 3]):
        images = noise(3, 40, 2, height, width)
        if LowRankSettings(rank=rank, budget_images=budget).count(height, width) > 40:
            continue
        source = build(images, rank=rank, budget_images=budget)
        most = 3 * budget * 2 * height * width
        one_more = 3 * 2 * rank * (height + width)
        assert source.stored_floats <= most < source.stored_floats + one_more
        assert len(source.labels) * 2 * rank * (height + width) == source.stored_floats
        tried += 1
    assert tried > 20


def noise(classes, per_class, channels, height, width):
    rng = torch.Generator().manual_seed(3)
    shape = (classes * per_class, channels, height, width)
    pixels = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(per_class)
    names = tuple("abcdef"[:classes])
    return ImageSet(pixels, labels, names, Normalisation.of(pixels))


@pytest.mark.parametrize("init", ["real", "noise"])
def test_no_channel_ever_has_a_higher_rank(images, init):
    source = build(images, init=init, rank=2, budget_images=2)
    optimizer = OptimizerSettings().build(source.enter(0))
    for _ in range(3):
        rendered, pullback = source.render(torch.arange(len(source.labels)))
        optimizer.zero_grad()
        pullback(torch.randn(rendered.shape, generator=torch.Generator().manual_seed(0)))
        optimizer.step()
        channels = images.normalisation.apply(render_all(source)).double()
        assert torch.linalg.matrix_rank(channels, rtol=1e-4).max() == 2


def test_the_start_is_as_close_to_real_images_as_its_rank_allows(images, float64):
    """Eckart and Young: what is missing are the smallest singular values."""
    real = images.normalised(torch.arange(5))
    values = torch.linalg.svdvals(real)
    for rank in (1, 3, 8):
        left, right = factorise(real, rank)
        assert (left.shape, right.shape) == ((5, 1, 8, rank), (5, 1, rank, 8))
        missing = (real - left @ right).square().sum(dim=(2, 3))
        torch.testing.assert_close(missing, values[..., rank:].square().sum(dim=2))
        torch.testing.assert_close(left.norm(dim=(2, 3)), right.norm(dim=(2, 3)))


def test_real_images_are_the_start_and_of_their_class(images):
    source = build(images, rank=1, images_per_class=4)
    for image, label in zip(render_all(source), source.labels.tolist(), strict=True):
        own = images.normalised(images.by_class[label])
        left, right = factorise(own, 1)
        close = images.normalisation.undo(left @ right)
        assert float((close - image).abs().amax(dim=(1, 2, 3)).min()) < 1e-5


def test_noise_is_normal(images):
    source = build(images, init="noise", budget_images=20)
    for factor in (source.left.detach(), source.right.detach()):
        assert abs(float(factor.mean())) < 0.1
        assert float(factor.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rank": 9}, ConfigError, "rank is more than an image has: got 9, expected at most 8"),
        ({"rank": 5}, ConfigError, "got 1 images a class of rank 5, expected at most 0"),
        ({"images_per_class": 3}, ConfigError, "expected at most 2 in the storage of 1"),
        ({"budget_images": 7}, DataError, "too few images: got 12, expected at least 14"),
    ],
)
def test_what_does_not_fit_is_refused(images, options, kind, message):
    with pytest.raises(kind, match=message):
        build(images, **options)


def test_there_is_a_single_stage(images):
    with pytest.raises(RunError, match="single stage"):
        build(images).enter(1)


def test_images_need_not_be_square(images):
    flat = images.with_images(images.images[:, :, :4])
    source = build(flat, rank=1, budget_images=3)
    assert render_all(source).shape == (3 * 8, 1, 4, 8)


def test_the_factors_are_kept_and_give_the_images_again(tmp_path):
    """What is stored is what was counted, not the images that it decodes to."""
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "2"]},
        "source": {"kind": "low_rank", "steps": 3},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
    }
    run = distill(config, out=tmp_path / "run")
    factors = RunFolder(tmp_path / "run").read_best_stage()
    assert sum(part.numel() for part in factors.values()) == run.distilled.stored_floats == 768
    decoded = run.distilled.normalisation.undo(factors["left"] @ factors["right"])
    assert torch.equal(decoded, run.distilled.images)
    assert len(decoded) == 12
