"""New images around the latents of a run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import CPU, SMALL_STUDENT, tiny_generator

import hpd
import hpd.rng
from generators import read_generator, save_generator
from hpd.artifacts import RunFolder
from hpd.cli import main
from hpd.errors import ConfigError, GeneratorError, HpdError, RunError
from hpd.sources import SOURCES
from hpd.sources.sampling import Distilled, SamplingSettings, sample_around


def config(generator, **source):
    return {
        "data": {"kind": "digits", "classes": ["3", "5", "8"]},
        "source": {
            "kind": "gan", "generator": generator, "steps": 1, "init": "sample",
            "images_per_class": 2, **source,
        },
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": {
            "kind": "class_relevant", "every": 1, "student": SMALL_STUDENT,
            "training": {"epochs": 1},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    hpd.distill(config("digits16"), out=out)
    return out


@pytest.fixture
def copied(run, tmp_path):
    """The run, to be damaged."""
    return shutil.copytree(run, tmp_path / "run")


def test_new_images_are_those_of_the_formula(run):
    """Each by itself, written out: the distilled images of a class take turns."""
    made = hpd.sample(run, 3, psi=0.4, level=0, seed=5)
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert made.images.shape == (9, 1, 16, 16)
    assert made.classes == ("3", "5", "8")
    assert made.normalisation == hpd.load_distilled(run).normalisation
    assert made.stored_floats == made.images.numel()
    network = read_generator("digits16").generator
    (state, *_) = [stage.state for stage in RunFolder(run).read_stages()]
    label, number = 1, 2
    rng = hpd.rng.Streams(5).fork("sample").generator(label, number)
    z = torch.randn(1, network.spec.z_dim, generator=rng)
    fresh = network.map(z, torch.tensor([5]))
    # images 2 and 3 are of class 1, and the third new one is around the first of them again
    anchor = state["ws"][2:3]
    want = (network(anchor + 0.4 * (fresh - anchor)) + 1) / 2
    torch.testing.assert_close(made.images[label * 3 + number], want[0], atol=2e-5, rtol=1e-4)


def test_without_psi_noise_is_all_there_is(run):
    """At a small noise new images are close to the distilled state, at none they would be it."""
    stages = RunFolder(run).read_stages()
    network = read_generator("digits16").generator
    state = stages[3].state
    features = tuple(state[f"features.{i}"] for i in range(len(state) - 1))
    original = (network.images(features, state["ws"], 3) + 1) / 2
    near = hpd.sample(run, 2, psi=0, noise=1e-4, level=3).images
    far = hpd.sample(run, 2, psi=0, noise=0.3, level=3).images
    torch.testing.assert_close(near, original, atol=2e-3, rtol=0)
    assert (near - original).abs().max() > 1e-7
    assert (far - original).abs().mean() > 20 * (near - original).abs().mean()
    with pytest.raises(ConfigError, match="the distilled images again"):
        hpd.sample(run, 2, psi=0)


@pytest.mark.parametrize("level", [0, 2, 5])
def test_the_noise_is_in_parts_of_the_rms(run, level):
    """Measured on the latents themselves, by a generator that hands them back."""
    stage = RunFolder(run).read_stages()[level].state
    name = "features.0" if level else "ws"
    seen = []
    stored = read_generator("digits16")
    images = stored.generator.images
    stored.generator.images = lambda features, ws, at: (
        seen.append((features, ws, at)), images(features, ws, at)
    )[1]  # fmt: skip
    sampling = SamplingSettings(per_class=40, psi=0, noise=0.25, level=level)
    settings = SOURCES.parse(config("digits16")["source"])
    left = Distilled(
        [s.state for s in RunFolder(run).read_stages()],
        torch.tensor([0, 0, 1, 1, 2, 2]), ("3", "5", "8"), None,
    )  # fmt: skip
    sample_around(settings, left, sampling, CPU, stored)
    got = torch.cat([features[0] if level else ws for features, ws, _ in seen])
    assert {at for _, _, at in seen} == {level}
    # the first image of the first class is the anchor of every other of its new ones
    added = got[:40:2] - stage[name][0]
    rms = stage[name][0].square().mean().sqrt()
    assert added.square().mean().sqrt() / rms == pytest.approx(0.25, rel=0.1)


def test_seeds_decide_and_counts_do_not(run):
    few, many = hpd.sample(run, 2, seed=3), hpd.sample(run, 5, seed=3)
    again, other = hpd.sample(run, 2, seed=3), hpd.sample(run, 2, seed=4)
    assert torch.equal(few.images, again.images)
    assert not torch.allclose(few.images, other.images, atol=1e-3)
    first = many.images.unflatten(0, (3, 5))[:, :2].flatten(0, 1)
    # batches of another size round otherwise
    torch.testing.assert_close(few.images, first, atol=1e-5, rtol=0)
    assert not torch.allclose(few.images[0], few.images[1], atol=1e-3)


@pytest.mark.parametrize("count", [10**10, 10**15])
def test_more_images_than_the_machine_holds_are_refused(run, count):
    with pytest.raises(ConfigError, match=r"got [\d.]+ GB, expected at most \d[\d,]* a class"):
        hpd.sample(run, count)


def test_the_first_level_is_taken(run, tmp_path):
    assert torch.equal(hpd.sample(run, 1).images, hpd.sample(run, 1, level=0).images)
    with pytest.raises(ConfigError, match="one of 0, 1, 2, 3, 4, 5"):
        hpd.sample(run, 1, level=6)
    hpd.distill(config("digits16", levels=[2, 4, 6]), out=tmp_path / "run")
    other = tmp_path / "run"
    assert torch.equal(hpd.sample(other, 1).images, hpd.sample(other, 1, level=2).images)
    with pytest.raises(ConfigError, match="got 3, expected one of 2, 4"):
        hpd.sample(other, 1, level=3)


def test_psi_one_from_ws_is_the_generator_alone(run):
    """The distilled latents have no part in it any more."""
    made = hpd.sample(run, 2, psi=1, level=0)
    network = read_generator("digits16").generator
    rng = hpd.rng.Streams(0).fork("sample").generator(2, 1)
    z = torch.randn(1, network.spec.z_dim, generator=rng)
    want = (network(network.map(z, torch.tensor([8]))) + 1) / 2
    torch.testing.assert_close(made.images[5], want[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_gives_images_or_says_why_not(kind, source_settings):
    settings = SOURCES.parse(source_settings(kind))
    left = Distilled([{}], torch.tensor([0, 1, 2]), ("a", "b", "c"), None)
    with pytest.raises(HpdError) as error:
        sample_around(settings, left, SamplingSettings(per_class=1), CPU)
    expected = "not the stages" if kind == "gan" else "no generator that could make new images"
    assert expected in str(error.value)


def test_another_generator_is_refused(run, tmp_path):
    network = tiny_generator()
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance={})
    with pytest.raises(RunError, match="is not the one that the run was made with"):
        hpd.sample(run, 1, generator=hpd.load_generator(tmp_path / "g"))


def test_a_generator_in_memory_is_given_again(tmp_path):
    network = hpd.load_generator("digits16")
    hpd.distill(config("gone", levels=[0]), out=tmp_path / "run", generator=network)
    with pytest.raises(GeneratorError, match="no generator 'gone'"):
        hpd.sample(tmp_path / "run", 1)
    assert len(hpd.sample(tmp_path / "run", 1, generator=network)) == 3


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_damaged_stages_are_refused(copied, damage):
    path = copied / "checkpoints" / "stage-02.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-9] if damage == "cut" else content[:-1] + b"\x55")
    with pytest.raises(RunError, match=r"stage-02"):
        hpd.sample(copied, 1)
    (copied / "checkpoints" / "stage-02.json").unlink()
    with pytest.raises(RunError, match="has lost stages"):
        hpd.sample(copied, 1)


def test_the_command_exports_what_it_made(run, tmp_path):
    out = tmp_path / "more"
    arguments = ["sample", str(run), "--per-class", "4", "--out", str(out), "--noise", "0.1"]
    result = CliRunner().invoke(main, [*arguments, "--format", "npz", "--psi", "0.3"])
    assert result.exit_code == 0, result.output
    assert "12 new images as npz" in result.output
    said = json.loads((out / "about.json").read_text())["provenance"]
    assert said["sampled_around"] == {
        "per_class": 4, "psi": 0.3, "noise": 0.1, "level": None, "seed": 0,
    }  # fmt: skip
    assert said["generator"]["name"] == "digits16"
    default = SamplingSettings(per_class=1)
    shown = CliRunner().invoke(main, ["sample", "--help"]).output
    assert f"[{default.psi:g}]" in shown
    assert f"[{default.noise:g}]" in shown
    assert "Example:" in shown


@pytest.mark.parametrize(
    "wrong",
    [["--psi", "2"], ["--level", "9"], ["--psi", "0"], ["--format", "nzp"], ["shards=3"]],
)
def test_bad_options_write_nothing(run, tmp_path, wrong):
    out = tmp_path / "more"
    result = CliRunner().invoke(
        main, ["sample", str(run), "--per-class", "1", "--out", str(out), *wrong]
    )
    assert result.exit_code == 2
    assert not out.exists()


def test_a_pixel_run_is_refused_in_one_line(tmp_path):
    values = config("digits16") | {"source": {"kind": "pixel", "steps": 1}}
    (tmp_path / "pixel.yaml").write_text(yaml.safe_dump(values))
    hpd.distill(values, out=tmp_path / "run")
    result = CliRunner().invoke(
        main, ["sample", str(tmp_path / "run"), "--per-class", "1", "--out", str(tmp_path / "x")]
    )
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "got pixel, expected gan" in result.output
    with pytest.raises(ConfigError, match="pixels alone"):
        hpd.distill(config("digits16", levels=[6]), out=tmp_path / "glad")
        hpd.sample(tmp_path / "glad", 1)
