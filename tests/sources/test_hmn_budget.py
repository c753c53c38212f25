"""Shapes from a budget: never exceeded, fully accounted for, and refused where nothing fits."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from conftest import CPU

from hpd.data import ImageSet, Normalisation
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.hmn.budget import Account, Shapes, Wanted, plan

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 20, 36)]


def blank(shape, num_classes):
    """A set of one black image a class."""
    pixels = torch.zeros(num_classes, *shape, dtype=torch.uint8)
    names = tuple(f"{c:03d}" for c in range(num_classes))
    return ImageSet(pixels, torch.arange(num_classes), names, Normalisation.of(pixels))


def build(train, **options):
    given = {"kind": "hmn", "decoder": {"kind": "conv", "init": "noise"}, **options}
    return SOURCES.parse(given).build(train, CPU, Streams(0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_budget_is_exceeded_and_each_gives_several_images(shape):
    for num_classes, budget_images in product((2, 10, 100), (1, 3, 10)):
        source = build(blank(shape, num_classes), budget_images=budget_images)
        budget = num_classes * budget_images * math.prod(shape)
        values = [t.numel() for t in source.state().values()]
        assert source.stored_floats == sum(values) == source.account.total <= budget
        assert source.account.images_per_class >= 2
        # one image more in each class would not fit
        assert source.account.total + num_classes * source.account.per_image > budget
        assert source.render(torch.tensor([0]))[0].shape == (1, *shape)


def test_the_account_adds_up():
    shapes = Shapes(grid=(4, 4), dataset=3, of_class=2, instance=5, extractor=4)
    account = Account(shapes, num_classes=10, images_per_class=7, decoder=1000, budget=8000)
    assert account.items == {
        "dataset memory": (1, 48),
        "class memories": (10, 32),
        "instance memories": (70, 80),
        "extractors": (10, 16),
        "decoder": (1, 1000),
    }
    assert account.total == 48 + 320 + 5600 + 160 + 1000
    written = account.as_json()
    assert sum(line["floats"] for line in written["lines"]) == written["total"] == 7128
    assert written["left_over"] == 872
    assert [account.images_within(b) for b in (7128, 7127, 8000, 1528, 0)] == [7, 6, 8, 0, 0]


def test_kept_images_count_and_memories_do_not():
    wanted = Wanted(images_per_class=2, instance=50)
    account, _ = plan(
        128, 1, (1, 1), wanted, lambda shapes, width: 10**6, widths=(0,), image_floats=64
    )
    assert account.items == {"images": (2, 64)}
    assert account.total == 128


def test_what_is_wanted_is_kept_to(images):
    source = build(
        images, budget_images=4, images_per_class=2, dataset_channels=1, class_channels=2,
        instance_channels=3, extractor_channels=4,
        decoder={"kind": "conv", "init": "noise", "width": 3, "memory_size": 2},
    )  # fmt: skip
    s = source.account.shapes
    assert (s.grid, s.dataset, s.of_class, s.instance, s.extractor) == ((2, 2), 1, 2, 3, 4)
    assert source.account.images_per_class == 2
    # 9 channels in, three convolutions between 2 and 8 pixels
    assert source.account.decoder == (9 * 9 + 1) * 3 + (3 * 9 + 1) * 3 + (3 * 9 + 1)


def test_more_than_the_budget_is_an_option_and_shows(images):
    source = build(images, budget_images=3, overbudget=0.5)
    assert 576 < source.stored_floats <= 864
    assert source.provenance["account"]["budget"] == 576
    assert build(images, budget_floats=500).stored_floats <= 500


def test_written_out_settings_give_the_same_shapes(images):
    source = build(images, budget_images=3, overbudget=0.3)
    again = source.settled.build(images, CPU, Streams(1))
    assert again.account == source.account
    assert again.settled == source.settled


@pytest.mark.parametrize(
    "options",
    [
        {"budget_floats": 60},
        {"images_per_class": 50},
        {"instance_channels": 200},
        {"decoder": {"kind": "conv", "width": 64}},
    ],
)
def test_what_does_not_fit_is_refused(images, options):
    with pytest.raises(ConfigError, match=r"do not fit the budget.*Raise source.budget_images"):
        build(images, **options)
