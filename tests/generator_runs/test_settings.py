"""Sizes by name, augmentation by the number of images, and images that are refused."""

from __future__ import annotations

import json
import re
import shlex
from typing import get_args

import pytest
import torch
from conftest import ROOT

from generators import bundled_generators, save_generator
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.data import DATASETS, ImageSet, Normalisation
from hpd.data.finding import data_settings
from hpd.errors import ConfigError, DataError
from hpd.generator_runs.settings import (
    CurveSettings,
    Limits,
    Size,
    augmentation_for,
    augmentation_text,
    check_images,
    settings_of,
)
from hpd.given import parse_options

DIGITS = DATASETS.parse("digits")
SIZES = get_args(Size)


def images(channels=1, height=16, width=16, labels=(0, 1)):
    rows = torch.zeros(len(labels), channels, height, width, dtype=torch.uint8)
    normalisation = Normalisation((0.0,) * channels, (1.0,) * channels)
    return ImageSet(rows, torch.tensor(labels), ("cat", "dog"), normalisation)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_gives_options_and_each_can_be_overridden(size):
    part = images()
    plain = settings_of(DIGITS, part, size, {})
    other = settings_of(DIGITS, part, size, {"batch": 8, "noise": True, "curve": {"patience": 3}})
    assert (other.batch, other.noise, other.curve.patience) == (8, True, 3)
    assert other.channel_base == plain.channel_base
    assert other.curve.samples == CurveSettings().samples
    with pytest.raises(ConfigError, match=r"Did you mean 'mirror'\?"):
        settings_of(DIGITS, part, size, {"miror": True})
    with pytest.raises(ConfigError, match="the data are named twice"):
        settings_of(DIGITS, part, size, {"data": "digits"})


def test_sizes_grow_and_the_smallest_is_that_of_a_bundled_generator():
    found = [settings_of(DIGITS, images(), size, {}) for size in SIZES]
    features = [s.channel_base for s in found]
    assert features == sorted(set(features))
    assert (found[0].channel_base, found[0].channel_max) == (512, 96)


def test_augmentation_follows_the_number_of_images():
    few, some, many = (augmentation_for(n) for n in (1_000, 10_000, 50_000))
    assert few["translation"] > 0 and "augment_target" not in few
    assert some["augment_target"] == 0.6
    assert many == {"translation": 0.0, "cutout": 0.0}
    s = settings_of(DIGITS, images(), "tiny", {"mirror": True})
    assert augmentation_text(s, 2) == "2 images: shifted and cut, always, half of them mirrored"
    told = augmentation_text(s.model_copy(update=some), 10_000)
    assert told == "10,000 images: shifted and cut, as often as it takes, half of them mirrored"
    plain = settings_of(DIGITS, images(), "tiny", many)
    assert augmentation_text(plain, 50_000) == "50,000 images: not augmented"


def test_an_option_of_adaptation_falls_away_with_it(monkeypatch):
    from hpd.generator_runs import settings

    monkeypatch.setattr(settings, "_ALWAYS_BELOW", 0)
    assert settings_of(DIGITS, images(), "tiny", {}).augment_adapt_images == 100_000
    settings_of(DIGITS, images(), "tiny", {"augment_target": None})
    with pytest.raises(ConfigError, match=r"augment_adapt_images in .* does nothing"):
        settings_of(DIGITS, images(), "tiny", {"augment_target": None, "augment_adapt_images": 5.0})


def test_the_shape_is_that_of_the_generator_to_go_on_from(tmp_path):
    shape = {"z_dim": 4, "w_dim": 5, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}
    network = StyleGAN2Settings.read(
        shape | {"resolution": 16, "channels": 1, "num_classes": 2}
    ).build()
    network.initialise(torch.Generator().manual_seed(0))
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance={})
    found = settings_of(DIGITS, images(), "base", {"start": str(tmp_path / "g")})
    assert {name: getattr(found, name) for name in shape} == shape
    assert found.batch == settings_of(DIGITS, images(), "base", {}).batch


@pytest.mark.parametrize(
    ("kind", "shape", "fix"),
    [
        ("folder", (3, 40, 40), "Set data.resolution=64."),
        ("folder", (3, 16, 24), "Set data.resolution=16."),
        ("folder", (3, 128, 128), "Set data.resolution=64."),
        ("mnist", (1, 28, 28), "Set data.pad=2."),
        ("digits", (1, 8, 8), "Bring the images of 'digits' to 16 x 16 px."),
        ("folder", (4, 16, 16), "Set data.channels=3."),
    ],
)
def test_images_of_another_shape_are_refused_with_what_to_do(kind, shape, fix):
    options = {"root": "there"} if kind != "digits" else {}
    data = DATASETS.parse({"kind": kind, **options})
    with pytest.raises(DataError) as caught:
        check_images(data, images(*shape))
    assert "16, 32 or 64 px" in str(caught.value)
    assert f"got {' x '.join(map(str, shape))}" in str(caught.value)
    assert fix in str(caught.value)
    for side in (16, 32, 64):
        check_images(data, images(3, side, side))


def test_classes_without_images_and_whitened_ones_are_refused():
    with pytest.raises(DataError, match="class 'dog' has no training image"):
        check_images(DIGITS, images(labels=(0, 0)))
    with pytest.raises(ConfigError, match=r"data\.zca"):
        check_images(DATASETS.parse({"kind": "digits", "zca": "per_image"}), images())


def test_a_training_ends_some_day():
    assert Limits.of(None, 2, CurveSettings()) == Limits(None, 120)
    assert Limits.of(None, None, CurveSettings()) == Limits()
    with pytest.raises(ConfigError, match="would never end"):
        Limits.of(None, None, CurveSettings(patience=0))
    for wrong in ({"images": 0, "minutes": None}, {"images": None, "minutes": -1.0}):
        with pytest.raises(ConfigError, match="must be above 0"):
            Limits.of(**wrong, curve=CurveSettings())


@pytest.mark.parametrize("name", bundled_generators())
def test_the_page_of_a_bundled_generator_has_the_command_that_makes_one_like_it(name):
    """With the options that it was made with; those that are newer had their defaults.

    Where it was made in parts they are those of the last one, and images those of all.
    """
    folder = ROOT / "generators" / "zoo" / name
    page = (folder / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^hpd generator train .*$", page, re.M)
    if not commands:
        pytest.skip("made otherwise")
    facts = json.loads((folder / "generator.json").read_text())["provenance"]
    words = shlex.split(commands[-1])
    given = parse_options([word for word in words if "=" in word])
    started = given.get("start")
    if started is not None:
        # the part before is not here, but of the same shape
        given["start"] = name
    size = words[words.index("--size") + 1] if "--size" in words else "tiny"
    data = data_settings(words[words.index("--data") + 1])
    found = settings_of(data, range(facts["data_images"]), size, given).training()
    found |= {} if started is None else {"start": started}
    made = facts["training"]
    assert {k: found[k] for k in made if k != "data"} == {
        k: v for k, v in made.items() if k != "data"
    }
    assert made["data"].items() <= found["data"].items()
    images = [int(re.search(r"--images (\d+)", command)[1]) for command in commands]
    assert sum(images) == facts["images_seen"]
