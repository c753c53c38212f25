"""H-PD on ten classes of ImageNet at 128 px, through a StyleGAN-XL of the published shape.

The shape is that of the checkpoints: a stem of 16 px under three stages of seven layers, 1,000
classes without names, sizes with margins, filters and rates. Features are few and random.
"""

from __future__ import annotations

import json
import time

import pytest
import torch
from conftest import GOLDEN
from families import super_resolution, xl_of_128_pixels
from PIL import Image
from small_runs import EndsAfter, contents

import hpd
from generators import save_generator
from generators.base import FAMILIES
from hpd.data.kinds.imagenet import SUBSETS, imagenet_names, wnids_of
from hpd.engine.watching.forecast import Ahead
from hpd.typing import StageCost

LEVELS = [0, 9, 17, 21, 26]


def test_stages_on_a_stem_are_those_of_the_published_checkpoints():
    config = json.loads((GOLDEN / "xl_super_cond" / "config.json").read_text())
    stem = json.loads((GOLDEN / "xl_stem_cond" / "config.json").read_text())
    options = {
        "resolution": stem["img_resolution"], "num_classes": stem["c_dim"],
        "channel_base": 768, "channel_max": 32, "num_layers": 7, "margin": 4,
    }  # fmt: skip
    built = config["constructor"]
    layers = super_resolution(options, [config["img_resolution"]], built["head_layers"])
    assert [layer["name"] for layer in layers] == config["layer_names"]
    names = [layer["name"] for layer in xl_of_128_pixels()["layers"]]
    assert len(names) == 26
    assert names[:2] == ["L0_36_1024", "L1_36_1024"]
    assert names[-3:] == ["L26_148_256", "L27_128_256", "L28_128_3"]
    sides = {name.split("_")[1] for name in names}
    assert sides == {"36", "52", "84", "148", "128"}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A thousand classes, of which only their numbers are known; sixteen features a layer."""
    folder = tmp_path_factory.mktemp("generators") / "xl128"
    settings = FAMILIES.parse(xl_of_128_pixels(64))
    network = settings.build()
    network.initialise(torch.Generator().manual_seed(0))
    save_generator(network.requires_grad_(False), settings, folder, licence="MIT", provenance={})
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder like ImageNet's, by wnids: the ten of Imagenette and a class that is not theirs."""
    root, rng = tmp_path_factory.mktemp("imagenet"), torch.Generator().manual_seed(0)
    for part, count in (("train", 3), ("val", 1)):
        for wnid in [*wnids_of("nette"), "n01443537"]:
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = torch.randint(0, 256, (9, 8, 3), generator=rng).byte().numpy()
                picture = Image.fromarray(coarse).resize((160, 144))
                picture.save(folder / f"{wnid}_{i}.JPEG")
    return root


def config(generator, pictures, **source):
    return {
        "data": {
            "kind": "folder", "root": str(pictures), "subset": "nette", "resolution": 128,
        },
        "device": "cpu",
        "source": {
            "kind": "gan", "generator": str(generator), "init": "sample", "levels": LEVELS,
            "steps": 2, "chunk_images": 10, **source,
        },
        "objective": {
            "kind": "distribution", "real_batch": 2,
            "student": {"kind": "convnet", "depth": 5, "width": 8},
        },
        "selection": "last", "checkpoint_every": 3,
    }  # fmt: skip


def test_it_runs_through_the_levels_tells_what_it_takes_and_goes_on(
    generator, pictures, tmp_path, monkeypatch
):
    # what the processor did: other work on the machine is not counted
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    told, options = [], config(generator, pictures)
    whole = hpd.distill(options, out=tmp_path / "whole", on_estimate=told.append)
    names = [report.stage.name.split()[1] for report in whole.stages]
    assert names == ["ws", "L9_36_16", "L18_84_11", "L23_148_7", "pixels"]
    (estimate,) = told
    assert estimate.ahead is not None
    actual = whole.cost["total_seconds"]
    assert 0.6 < estimate.seconds / actual < 1.5
    assert 0.7 < estimate.memory_bytes / whole.cost["peak_bytes"] < 1.3
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(options, out=tmp_path / "again", observers=[EndsAfter(6)])
    hpd.distill(options, out=tmp_path / "again", resume=True)
    ours, theirs = (contents(tmp_path / name) for name in ("whole", "again"))
    same = [name for name in ours if name.endswith((".png", ".safetensors"))]
    assert "distilled.safetensors" in same
    for name in same:
        assert ours[name] == theirs[name], name


def test_classes_are_joined_by_wnid(generator, pictures):
    """Nothing is said of the generator's classes: they are those of Imagenette by number."""
    options = config(generator, pictures, levels=[0], steps=1)
    settings = hpd.load_config(options)
    train = settings.data.build().train
    names = [imagenet_names()[wnid] for wnid in wnids_of("nette")]
    assert train.classes == tuple(names)
    prior = settings.source.prior(train)
    assert prior.classes == [*SUBSETS["nette"]]
    named = {names[0]: "n01443537"}
    other = settings.source.model_copy(update={"generator_classes": named})
    assert other.prior(train).classes == [1, *SUBSETS["nette"][1:]]


def test_what_is_ahead_is_summed_stage_by_stage():
    costs = [StageCost(4.0, 10), StageCost(2.0, 1000), StageCost(0.0, 100)]
    ahead = Ahead(
        costs, 0, [3, 5, 7], checkpoints=True, step_seconds=3.0, rendering_seconds=2.0,
        all_seconds=0.5,
    )  # fmt: skip
    steps = 3 * (1 + 2) + 5 * (1 + 1) + 7 * 1
    assert ahead.seconds == steps + 2 * (0.5 + 0.25)
    # layers of the first stage take 950 beside what it optimises
    assert ahead.memory_bytes(now=2000, before=1000) == 1000 + 8 * 1000 + 950 // 2
    quiet = Ahead([costs[0]] * 2, 0, [1, 1], checkpoints=False, step_seconds=1.0,
                  rendering_seconds=0.5, all_seconds=0.1)  # fmt: skip
    assert quiet.memory_bytes(now=2000, before=1000) == 2000
    # a run that goes on in the second stage
    later = Ahead(
        costs, 1, [0, 2, 7], checkpoints=True, step_seconds=2.0, rendering_seconds=1.0,
        all_seconds=0.25,
    )  # fmt: skip
    assert later.seconds == 2 * 2 + 7 * 1 + 2 * 0.25
