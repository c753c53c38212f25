"""StyleGAN2 gives the numbers of the official code, through every level."""

from __future__ import annotations

import pytest
import torch
from conftest import GOLDEN, Golden

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Settings


def build(golden: Golden) -> StyleGAN2:
    given = golden.config["constructor"]
    synthesis = given["synthesis_kwargs"]
    network = StyleGAN2Settings(
        resolution=given["img_resolution"],
        channels=given["img_channels"],
        z_dim=given["z_dim"],
        w_dim=given["w_dim"],
        num_classes=given["c_dim"],
        mapping_layers=given["mapping_kwargs"]["num_layers"],
        channel_base=synthesis["channel_base"],
        channel_max=synthesis["channel_max"],
        architecture=synthesis.get("architecture", "skip"),
        conv_clamp=synthesis.get("conv_clamp"),
    ).build()
    network.load_state_dict(golden.weights)
    return network.requires_grad_(False)


@pytest.fixture(params=["ada_cond32", "ada_cond16_orig_gray"])
def golden(request):
    return Golden(GOLDEN / request.param)


def close(got, want, tolerance=1e-4):
    got = got.detach()
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


def test_mapping(golden):
    network, values = build(golden), golden.values
    labels = values["c"].argmax(dim=1)
    close(network.map(values["z"], labels), values["ws"], 1e-5)
    close(network.map(values["z"], labels, truncation_psi=0.7), values["ws_psi07"], 1e-5)


def test_image_and_gradient(golden):
    network, values = build(golden), golden.values
    close(network(values["ws"]), values["image"])
    close(network.synthesise(values["ws"], noise="none"), values["image_noise_none"])
    # in float64: where float32 rounds a value across 0, the slope of leaky ReLU jumps
    ws = values["ws"].double().requires_grad_()
    images = network.double()(ws)
    close(images, values["image"])
    (grad,) = torch.autograd.grad((images * values["probe"]).sum(), ws)
    close(grad, values["grad_ws"])


def test_every_layer(golden):
    network, values = build(golden), golden.values
    captured = {}
    for name, module in network.synthesis.named_modules():
        module.register_forward_hook(
            lambda module, args, out, name=name: captured.__setitem__(name, out)
        )
    network(values["ws"])
    names = [k.removeprefix("features.") for k in values if k.startswith("features.")]
    layers = [n for n in names if not n.endswith((".x", ".img"))]
    assert len(layers) >= len(network.synthesis.layers)
    for name in layers:
        close(captured[name], values[f"features.{name}"])


def test_states_are_the_blocks_outputs(golden):
    """The state at a level holds the official block's features, and its image one level on."""
    network, values = build(golden), golden.values
    checked = 0
    for level, cut in enumerate(network.spec.levels):
        state = network.advance((), values["ws"], 0, level)
        assert tuple(tuple(part.shape[1:]) for part in state) == cut.shapes
        if cut.name.endswith("conv1"):
            close(state[0], values[f"features.{cut.name.removesuffix('conv1')}x"])
        if cut.name.endswith("conv0") and len(state) == 2:
            before = int(cut.name[1:].split(".")[0]) // 2
            close(state[1], values[f"features.b{before}.img"])
            checked += 1
    assert checked or network.settings.architecture == "orig"
