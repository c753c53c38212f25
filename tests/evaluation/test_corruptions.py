"""Corruptions: in range, the same each time, worse with strength, on grey and colour images."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from hpd.data.kinds.digits import DigitsSettings
from hpd.errors import ConfigError, ShapeError
from hpd.evaluation.card.corruptions import CORRUPTIONS, STRENGTHS, find_corruption


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def smooth(channels, side, count=64):
    """Random images that are smooth, as photos are: of white noise nothing is left to spoil."""
    coarse = torch.rand(count, channels, 5, 5, generator=seeded(1))
    return F.interpolate(coarse, (side, side), mode="bilinear")


@pytest.fixture(scope="module")
def digits():
    return DigitsSettings().build().test.unit()


def distances(name, images):
    found = [CORRUPTIONS[name](images, strength, seeded()) for strength in STRENGTHS]
    return [float((own - images).square().mean(dim=(1, 2, 3)).sqrt().mean()) for own in found]


def test_there_are_enough():
    assert len(CORRUPTIONS) >= 10


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_they_stay_in_range_and_repeat(name, channels, side):
    images = smooth(channels, side, count=5)
    before = images.clone()
    for strength in STRENGTHS:
        found = CORRUPTIONS[name](images, strength, seeded())
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert not torch.equal(found, images)
        assert torch.equal(found, CORRUPTIONS[name](images, strength, seeded()))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_they_grow_with_strength(name, digits):
    for images in (digits, smooth(3, 16), smooth(3, 32), smooth(3, 64)):
        first, second, third = distances(name, images)
        assert 0 < first < second < third


@pytest.mark.parametrize("name", ["rotation", "elastic", "occlusion", "gaussian_blur"])
def test_lengths_scale_with_the_side(name):
    """The same picture at another size suffers about as much."""
    for small, large in zip(*(distances(name, smooth(3, side)) for side in (32, 128)), strict=True):
        assert small == pytest.approx(large, rel=0.2)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_they_compute_in_float64(name, float64):
    images = smooth(3, 16, count=4)
    assert images.dtype == torch.float64
    assert CORRUPTIONS[name](images, 2, seeded()).dtype == torch.float64
    # images of another dtype than the default keep theirs
    assert CORRUPTIONS[name](images.float(), 2, seeded()).dtype == torch.float32


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_need_not_be_square(name):
    images = smooth(3, 24, count=3)[:, :, :, :17]
    assert CORRUPTIONS[name](images, 3, seeded()).shape == images.shape


def test_images_are_spoilt_each_in_its_own_way():
    images = smooth(1, 16, count=1).expand(8, 1, 16, 16)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "elastic", "occlusion"):
        found = CORRUPTIONS[name](images, 2, seeded())
        assert len(found.flatten(1).unique(dim=0)) == 8, name
    # to either side
    assert len(CORRUPTIONS["rotation"](images, 2, seeded()).flatten(1).unique(dim=0)) == 2


def test_what_is_known_in_closed_form(float64):
    grey = torch.full((400, 1, 16, 16), 0.5)
    assert CORRUPTIONS["gaussian_noise"](grey, 1, seeded()).std() == pytest.approx(0.06, rel=0.02)
    shot = CORRUPTIONS["shot_noise"](grey, 1, seeded())
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(shot.var()) == pytest.approx(0.5 / 60, rel=0.03)
    impulse = CORRUPTIONS["impulse_noise"](grey, 3, seeded())
    shares = [float((impulse == value).double().mean()) for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.08, 0.84, 0.08], abs=0.005)
    assert CORRUPTIONS["brightness"](grey, 1, seeded()).unique().tolist() == pytest.approx([0.65])
    assert CORRUPTIONS["gamma"](grey, 2, seeded()).unique().tolist() == pytest.approx([0.5**2.2])
    white = torch.ones(7, 1, 20, 20)
    hidden = CORRUPTIONS["occlusion"](white, 3, seeded()) == 0.5
    assert hidden.sum(dim=(1, 2, 3)).tolist() == [100] * 7
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    assert CORRUPTIONS["posterize"](ramp, 2, seeded()).unique().tolist() == [0, 0.25, 0.5, 0.75]
    # what is the same everywhere is not moved, blurred or coarsened
    for name in ("rotation", "elastic", "gaussian_blur", "pixelate", "contrast"):
        assert torch.allclose(CORRUPTIONS[name](grey[:3], 3, seeded()), grey[:3]), name


def test_a_rotation_is_one(float64):
    """A blurred spot right of the centre goes where its angle says, in oblong images, too."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(80.0), indexing="ij")
    spot = torch.exp(-((y - 23.5).square() + (x - 55.5).square()) / 8)[None, None]
    turned = CORRUPTIONS["rotation"](spot, 3, seeded())[0, 0]
    mass = turned / turned.sum()
    at = (float((mass * (x - 39.5)).sum()), float((mass * (y - 23.5)).sum()))
    assert at[0] == pytest.approx(16 * 3**0.5 / 2, abs=0.05)
    assert abs(at[1]) == pytest.approx(8, abs=0.05)


def test_what_is_no_image_or_kind_is_refused():
    with pytest.raises(ShapeError, match="got 2, expected 1 or 3"):
        CORRUPTIONS["jpeg"](torch.rand(1, 2, 8, 8, generator=seeded()), 1, seeded())
    with pytest.raises(ShapeError, match="wrong shape"):
        CORRUPTIONS["jpeg"](torch.zeros(3, 8, 8), 1, seeded())
    with pytest.raises(ConfigError, match="got 0, expected 1, 2 or 3"):
        CORRUPTIONS["jpeg"](torch.zeros(1, 3, 8, 8), 0, seeded())
    with pytest.raises(ConfigError, match="Did you mean 'pixelate'"):
        find_corruption("pixelated")


def test_the_page_has_the_strengths_of_the_code():
    page = (ROOT / "docs" / "card.md").read_text()
    rows = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if line[:3] == "| `"]
    table = {row[0].strip("`"): (tuple(map(float, row[2:5])), row[5]) for row in rows}
    assert table == {name: (own.amounts, own.unit) for name, own in CORRUPTIONS.items()}
