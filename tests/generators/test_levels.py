"""Cutting synthesis into levels changes nothing, for every family and architecture."""

from __future__ import annotations

import pytest
import torch
from families import VARIANTS, tiny_network

from generators.base import FAMILIES
from generators.draws import Draws
from hpd.errors import ConfigError, GeneratorError, ShapeError


@pytest.fixture(params=VARIANTS)
def network(request):
    return tiny_network(request.param)


@pytest.fixture
def ws(network, rng):
    return torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)


def test_every_family_has_a_variant_here():
    assert {options["kind"] for options in VARIANTS.values()} == set(FAMILIES)


def test_advance_composes_to_the_bit(network, ws):
    last = network.spec.last_level
    whole = [network.advance((), ws, 0, k) for k in range(last + 1)]
    for j in range(last + 1):
        assert tuple(tuple(part.shape[1:]) for part in whole[j]) == network.spec.levels[j].shapes
        for k in range(j, last + 1):
            parts = network.advance(whole[j], ws, j, k)
            assert all(torch.equal(a, b) for a, b in zip(parts, whole[k], strict=True))
    assert torch.equal(network.images(whole[2], ws, 2), network(ws))


def test_bfloat16_composes_to_the_bit_and_stays_near(network, ws):
    last = network.spec.last_level
    exact = network(ws)
    network.compute_dtype = torch.bfloat16
    whole = [network.advance((), ws, 0, k) for k in range(last + 1)]
    for j in range(last + 1):
        assert all(part.dtype == ws.dtype for part in whole[j])
        parts = network.advance(whole[j], ws, j, last)
        assert torch.equal(parts[0], whole[last][0])
    error = (whole[last][0] - exact).norm() / exact.norm()
    # 8 bits of mantissa, some layers deep; 0 would mean that nothing was computed in bfloat16
    assert 1e-4 < error < 0.05


def test_gradients_pass_through_bfloat16(network, ws):
    def gradients():
        # an autoencoder has no styles: its w goes in at level 0 alone
        level = 2 if network.spec.num_ws > 1 else 0
        state = tuple(p.clone().requires_grad_() for p in network.advance((), ws, 0, level))
        latents = ws.clone().requires_grad_()
        loss = network.images(state, latents, level).square().sum()
        return torch.autograd.grad(loss, (latents, *state))

    exact = gradients()
    network.compute_dtype = torch.bfloat16
    for got, want in zip(gradients(), exact, strict=True):
        assert got.dtype == want.dtype
        assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.99


def test_every_state_tensor_decides_the_image(network, ws):
    """Optimising a level optimises something: no part of a state is without gradient."""
    for level in range(1, network.spec.last_level + 1):
        state = tuple(part.clone().requires_grad_() for part in network.advance((), ws, 0, level))
        grads = torch.autograd.grad(network.images(state, ws, level).square().sum(), state)
        assert all(float(grad.abs().max()) > 0 for grad in grads)


def test_images_do_not_mix(network, ws):
    alone = torch.cat([network(ws[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, network(ws), rtol=1e-4, atol=1e-5)


def test_modulation_equals_a_weight_copy_per_image(rng):
    from reference import modulated_convolution_per_image

    from generators.families.modulation import modulated_convolution

    x, weight = (torch.randn(*s, generator=rng).double() for s in ((3, 4, 6, 6), (5, 4, 3, 3)))
    styles = torch.randn(3, 4, generator=rng).double()
    for demodulate in (True, False):
        got = modulated_convolution(x, weight, styles, demodulate=demodulate)
        want = modulated_convolution_per_image(x, weight, styles, demodulate=demodulate)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_random_noise_comes_from_the_given_generator(architecture, rng):
    network = tiny_network(f"stylegan2-{architecture}")
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)

    def draw(seed):
        rng = torch.Generator().manual_seed(seed)
        return network.synthesise(ws, noise="random", draws=Draws(rng))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    with pytest.raises(GeneratorError, match="random noise needs draws"):
        network.synthesise(ws, noise="random")


def test_bad_calls_are_refused(network, ws):
    with pytest.raises(ShapeError, match="ws has the wrong shape"):
        network(ws[..., :2])
    with pytest.raises(GeneratorError, match="levels out of order"):
        network.advance((), ws, 2, 1)
    with pytest.raises(GeneratorError, match="not the state of level 2"):
        network.advance((), ws, 2, 3)
    z, classes = torch.zeros(2, network.spec.z_dim), network.spec.num_classes
    with pytest.raises(GeneratorError, match="labels do not fit"):
        network.map(z, None if classes else torch.tensor([0, 0]))
    if classes:
        with pytest.raises(ShapeError, match="labels out of range"):
            network.map(z, torch.tensor([0, classes]))
    with pytest.raises(ConfigError, match=r"power of two|a multiple of 8"):
        FAMILIES.parse({"kind": network.spec.family, "resolution": 12})
