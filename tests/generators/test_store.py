"""Generators on disk: what is written comes back, what is broken is named."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_generator

from generators import bundled_generators, read_generator, save_generator
from hpd.errors import ConfigError, GeneratorError


@pytest.fixture
def stored(tmp_path):
    network = tiny_generator()
    about = {"images": 3}
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance=about)
    return tmp_path / "g"


def test_a_generator_survives_disk_to_the_bit(stored, tmp_path):
    network, again = tiny_generator(), read_generator(stored)
    assert (again.name, again.licence, again.provenance) == ("g", "MIT", {"images": 3})
    assert again.generator.spec == network.spec
    for name, value in network.state_dict().items():
        assert torch.equal(again.generator.state_dict()[name], value)
    assert not any(p.requires_grad for p in again.generator.parameters())
    save_generator(
        again.generator, network.settings, tmp_path / "h", licence="MIT", provenance={"images": 3}
    )
    for name in ("model.safetensors", "generator.json"):
        assert (tmp_path / "h" / name).read_bytes() == (stored / name).read_bytes()


def test_half_precision_halves_the_file(stored, tmp_path):
    network = tiny_generator()
    save_generator(
        network, network.settings, tmp_path / "h", licence="MIT", provenance={}, dtype=torch.float16
    )
    sizes = [(p / "model.safetensors").stat().st_size for p in (tmp_path / "h", stored)]
    assert sizes[0] < 0.7 * sizes[1]
    ws = torch.randn(2, network.spec.num_ws, 8, generator=torch.Generator().manual_seed(0))
    half = read_generator(tmp_path / "h").generator(ws)
    torch.testing.assert_close(half, network(ws), rtol=0.05, atol=0.05)


def change(folder, **values):
    path = folder / "generator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_faults_are_named(stored):
    with pytest.raises(GeneratorError, match=r"no generator 'digits61'.*Did you mean 'digits16'"):
        read_generator("digits61")
    change(stored, version=99)
    with pytest.raises(GeneratorError, match="newer version of hpd: got format 99"):
        read_generator(stored)
    change(stored, version=1, family={"kind": "stylegan2", "resolutoin": 8})
    with pytest.raises(ConfigError, match="Did you mean 'resolution'"):
        read_generator(stored)


@pytest.mark.parametrize("fault", ["other", "truncated", "missing", "json", "keys"])
def test_broken_files_are_named(stored, fault):
    weights, description = stored / "model.safetensors", stored / "generator.json"
    if fault == "other":
        change(stored, family={"kind": "stylegan2", "resolution": 16})
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "missing":
        weights.unlink()
    elif fault == "json":
        description.write_text("{")
    else:
        description.write_text("{}")
    with pytest.raises(GeneratorError, match="cannot read the generator in"):
        read_generator(stored)


@pytest.mark.parametrize("name", bundled_generators())
def test_bundled_generators_are_whole(name):
    stored = read_generator(name)
    spec = stored.generator.spec
    assert len(spec.classes) == spec.num_classes
    assert stored.licence != "unknown"
    rng = torch.Generator().manual_seed(0)
    ws = stored.generator.map(torch.randn(2, spec.z_dim, generator=rng), torch.tensor([0, 1]))
    images = stored.generator(ws)
    assert images.shape == (2, spec.channels, spec.resolution, spec.resolution)
    assert float(images.abs().max()) < 2


def test_one_file_of_a_folder_names_the_folder(stored):
    for name in ("model.safetensors", "generator.json"):
        with pytest.raises(GeneratorError, match=f"Give the folder: {stored}"):
            read_generator(stored / name)


def test_weights_that_lost_their_description_are_read_by_their_names(stored, caplog):
    (stored / "generator.json").unlink()
    again = read_generator(stored / "model.safetensors")
    assert again.generator.spec.num_classes == tiny_generator().spec.num_classes
    assert "clamp" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ["a"]}, "not those of all classes: got 1, expected 3"),
        ({"classes": "abc"}, "no list of names"),
        ({"classes": [1, 2, 3]}, "no list of names"),
        ({"version": "1"}, "does not say its version"),
        ({"provenance": [1]}, "no mapping"),
        ({"family": "stylegan2", "classes": []}, "does not fit the options"),
    ],
)
def test_descriptions_that_make_no_sense_are_named(stored, values, message):
    change(stored, **values)
    with pytest.raises(GeneratorError, match=message):
        read_generator(stored)


def test_a_description_that_is_no_mapping_is_named(stored):
    (stored / "generator.json").write_text("[1]")
    with pytest.raises(GeneratorError, match="does not say its version"):
        read_generator(stored)
