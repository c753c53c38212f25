"""Shared bases: how many images fit, what they are sums of, and how close they start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SMALL_STUDENT

from hpd import distill
from hpd.artifacts import RunFolder
from hpd.errors import ConfigError, DataError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.linear_bases import coefficients_of, principal_bases
from hpd.typing import DrawsBatches, Step


def build(images, seed=0, **options):
    # 3 classes of 12 images of 8 x 8
    values = {"kind": "linear_bases", "bases": 4, "budget_images": 1, **options}
    return SOURCES.parse(values).build(images, CPU, Streams(seed))


@pytest.mark.parametrize(
    ("options", "count", "floats"),
    # 192 floats are 3 images: 4 bases of 16 leave 128, that is 10 images a class of 4 floats
    [({}, 10, 184), ({"bases": 2}, 26, 188), ({"factor": 4}, 14, 184),
     ({"factor": 1, "bases": 1}, 42, 190), ({"images_per_class": 3}, 3, 100),
     ({"budget_floats": 100}, 3, 100)],
)  # fmt: skip
def test_the_images_are_as_many_as_the_budget_holds(images, options, count, floats):
    source = build(images, init="noise", **options)
    assert source.labels.bincount().tolist() == [count] * 3
    assert source.stored_floats == floats


def test_images_are_sums_of_enlarged_bases(images):
    """By a loop over images and bases, for whichever images."""
    source = build(images, init="noise")
    bases, coefficients = source.bases.detach(), source.coefficients.detach().tolist()
    chosen = torch.tensor([3, 0, 20])
    expected = torch.stack(
        [
            sum(
                a * F.interpolate(base[None], scale_factor=2, mode="bilinear")[0]
                for a, base in zip(coefficients[n], bases, strict=True)
            )
            for n in chosen.tolist()
        ]
    )
    rendered, _ = source.render(chosen)
    torch.testing.assert_close(rendered, images.normalisation.undo(expected))


def test_bases_are_those_nearest_to_the_images_of_all(float64):
    """Eckart and Young: what no sum reaches are the smallest singular values."""
    pictures = torch.randn(30, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(pictures.flatten(1))
    for count in (1, 5, 24):
        bases = principal_bases(pictures.split(7), count)
        assert bases.shape == (count, 2, 3, 4)
        coefficients = coefficients_of(pictures, bases)
        missing = pictures.flatten(1) - coefficients @ bases.flatten(1)
        torch.testing.assert_close(missing.square().sum(), values[count:].square().sum())
        # each base is as long as the images are along it, so that coefficients are of size 1
        torch.testing.assert_close(coefficients.square().mean(dim=0), torch.ones(count))
    assert torch.equal(principal_bases([pictures], 3), principal_bases([pictures], 24)[:3])


def test_coefficients_are_the_nearest_there_are(float64):
    rng = torch.Generator().manual_seed(1)
    pictures, bases = torch.randn(5, 1, 4, 4, generator=rng), torch.randn(3, 1, 4, 4, generator=rng)
    rest = pictures.flatten(1) - coefficients_of(pictures, bases) @ bases.flatten(1)
    # at right angles to every base
    torch.testing.assert_close(rest @ bases.flatten(1).T, torch.zeros(5, 3))


def test_the_start_is_real_images_as_near_as_the_bases_reach(images):
    source = build(images, bases=3, images_per_class=5)
    bases, count = source.bases.detach(), len(source.labels) // 3
    for label, own in enumerate(source.coefficients.detach().split(count)):
        real = F.avg_pool2d(images.normalised(images.by_class[label]), 2)
        gaps = torch.cdist(own, coefficients_of(real, bases))
        assert float(gaps.min(dim=1).values.max()) < 1e-5
        assert len(gaps.argmin(dim=1).unique()) == count


def test_a_step_takes_some_images_of_each_class(images):
    source = build(images, init="noise", batch_images=3)
    assert isinstance(source, DrawsBatches)
    chosen = source.batch(Step(0, 1))
    assert source.labels[chosen].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert chosen.tolist() != source.batch(Step(0, 2)).tolist()
    # the same of a class, whichever others are here
    source.enter(0)
    source.narrow(torch.tensor([1]))
    own = chosen[3:6] - 10
    assert torch.equal(source.batch(Step(0, 1)), own)
    for most in (10, None):
        everything = build(images, init="noise", batch_images=most).batch(Step(0, 1))
        assert torch.equal(everything, torch.arange(30))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"factor": 3}, ConfigError, "expected a divisor of 8 and 8"),
        ({"bases": 11}, ConfigError, "11 bases of 16 floats and 1 images a class, expected at"),
        ({"images_per_class": 11}, ConfigError, "expected at most 192 floats"),
        ({"budget_images": 4}, DataError, "too few images"),
        ({"bases": 40, "factor": 1, "budget_images": 20, "images_per_class": 2}, ConfigError,
         "more bases than directions in which real images differ: got 40, expected at most 36"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(images, options, kind, message):
    with pytest.raises(kind, match=message):
        build(images, **options)


def test_there_is_a_single_stage(images):
    with pytest.raises(RunError, match="single stage"):
        build(images).enter(1)


def test_what_is_stored_gives_the_images_again(tmp_path):
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "2"]},
        "source": {"kind": "linear_bases", "bases": 3, "steps": 3, "batch_images": 4},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
    }
    run = distill(config, out=tmp_path / "run")
    kept = RunFolder(tmp_path / "run").read_best_stage()
    assert sum(part.numel() for part in kept.values()) == run.distilled.stored_floats <= 768
    sums = (kept["coefficients"][:, :, None] * kept["bases"].flatten(1)).sum(dim=1)
    large = F.interpolate(sums.unflatten(1, (1, 8, 8)), size=(16, 16), mode="bilinear")
    torch.testing.assert_close(run.distilled.normalisation.undo(large), run.distilled.images)
