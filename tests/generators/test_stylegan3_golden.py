"""StyleGAN3 and StyleGAN-XL give the numbers of the official code, through every level."""

from __future__ import annotations

import pytest
import torch
from conftest import GOLDEN, Golden

from generators.checkpoints import read_checkpoint
from generators.checkpoints.families.stylegan3 import (
    is_stylegan_xl,
    stylegan3_from_record,
    stylegan_xl_from_record,
)

FOLDERS = ("sg3t_uncond64", "sg3r_cond32", "xl_stem_cond", "xl_super_cond")


@pytest.fixture(scope="module", params=FOLDERS)
def golden(request):
    return Golden(GOLDEN / request.param)


@pytest.fixture(scope="module")
def settings(golden):
    record = read_checkpoint(golden.folder / "network.pkl")
    assert is_stylegan_xl(record) == golden.folder.name.startswith("xl")
    convert = stylegan_xl_from_record if is_stylegan_xl(record) else stylegan3_from_record
    settings, weights = convert(record)
    assert all(torch.equal(weights[name], value) for name, value in golden.weights.items())
    return settings


@pytest.fixture(scope="module")
def network(settings, golden):
    network = settings.build()
    network.load_state_dict(golden.weights, strict=True)
    return network.requires_grad_(False)


def close(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    assert float((got.detach() - want).abs().max()) <= tolerance * float(want.abs().max())


def test_settings_describe_the_network(golden, settings, network):
    config, spec = golden.config, network.spec
    assert [layer.name for layer in settings.plan()] == config["layer_names"]
    assert (spec.num_ws, spec.resolution) == (config["num_ws"], config["img_resolution"])
    assert (spec.z_dim, spec.w_dim) == (config["z_dim"], config["w_dim"])
    assert spec.last_level == len(config["layer_names"])
    assert [level.name for level in spec.levels[1:-1]] == config["layer_names"][:-1]


def test_filters_are_designed_as_stored(golden, settings):
    designed = {k: v for k, v in settings.build().state_dict().items() if k.endswith("_filter")}
    assert set(designed) == {k for k in golden.weights if k.endswith("_filter")}
    for name, value in designed.items():
        torch.testing.assert_close(value, golden.weights[name], rtol=1e-6, atol=1e-8)


def test_mapping(golden, network):
    values = golden.values
    labels = values["c"].argmax(dim=1) if "c" in values else None
    close(network.map(values["z"], labels), values["ws"], 1e-5)
    close(network.map(values["z"], labels, truncation_psi=0.7), values["ws_psi07"], 1e-5)


def test_image_and_gradient(golden, network):
    values = golden.values
    ws = values["ws"].clone().requires_grad_()
    images = network(ws)
    close(images, values["image"])
    (grad,) = torch.autograd.grad((images * values["probe"]).sum(), ws)
    close(grad, values["grad_ws"])


def test_every_layer(golden, network):
    values, spec = golden.values, network.spec
    close(network.synthesis.input(values["ws"][:, 0]), values["features.input"])
    for level, name in enumerate(golden.config["layer_names"], start=1):
        (state,) = network.advance((), values["ws"], 0, level)
        scale = golden.config["output_scale"] if level == spec.last_level else 1
        close(state / scale, values[f"features.{name}"])
