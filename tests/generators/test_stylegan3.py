"""Parts of alias-free generators against twins and closed forms; settings; files."""

from __future__ import annotations

import pytest
import torch
from families import VARIANTS, stacked_layers, tiny_network
from reference import alias_free_convolution_per_image

from generators import read_generator, save_generator
from generators.base import FAMILIES
from generators.families.alias_free import modulated_convolution
from hpd.errors import ConfigError, GeneratorError

ALIAS_FREE = [name for name in VARIANTS if name.startswith(("stylegan3", "stylegan_xl"))]


@pytest.mark.parametrize("k", [1, 3])
def test_modulation_equals_a_weight_copy_per_image(k, float64, rng):
    x, weight = torch.randn(3, 4, 6, 6, generator=rng), torch.randn(5, 4, k, k, generator=rng)
    styles, gain = torch.randn(3, 4, generator=rng), torch.tensor(0.7)
    for demodulate in (True, False):
        options = {"input_gain": gain, "demodulate": demodulate}
        got = modulated_convolution(x, weight, styles, **options)
        want = alias_free_convolution_per_image(x, weight, styles, **options)
        assert got.shape == (3, 5, 5 + k, 5 + k)
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_modulation_has_the_right_gradient(float64, rng):
    shapes = ((2, 3, 4, 4), (2, 3, 3, 3), (2, 3), ())
    inputs = [torch.rand(s, generator=rng).add_(0.5).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(
        lambda x, weight, styles, gain: modulated_convolution(x, weight, styles, input_gain=gain),
        inputs,
    )


def test_a_transform_moves_and_turns_the_features(rng):
    layer = tiny_network("stylegan3-t").synthesis.input
    w = torch.randn(2, 8, generator=rng)
    # the user's transform comes first, so it is the identity of w that shows it plainly
    layer.affine.initialise(rng)
    still = layer(w)
    layer.transform[0, 2] = 1 / layer.sampling_rate
    torch.testing.assert_close(layer(w)[..., :-1], still[..., 1:], rtol=1e-4, atol=1e-4)
    layer.transform.copy_(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    torch.testing.assert_close(layer(w), still.rot90(1, (2, 3)), rtol=1e-4, atol=1e-4)


def test_w_moves_the_features(rng):
    """The bias of the affine layer holds cos, sin, x and y of a motion."""
    layer = tiny_network("stylegan3-t").synthesis.input
    w = torch.randn(2, 8, generator=rng)
    layer.affine.initialise(rng)
    still = layer(w)
    layer.affine.bias.copy_(torch.tensor([2.0, 0, 0, 2 / layer.sampling_rate]))
    torch.testing.assert_close(layer(w)[:, :, 1:], still[:, :, :-1], rtol=1e-4, atol=1e-4)


def test_features_beyond_the_grid_are_silenced():
    network = tiny_network("stylegan3-t")
    layer = network.synthesis.input
    layer.transform[:2, :2] *= layer.sampling_rate / layer.freqs.norm(dim=1).min()
    assert not layer(torch.zeros(1, 8)).any()


def test_fresh_frequencies_are_uniform_on_the_disc():
    network = tiny_network("stylegan3-t", channel_base=2**14, channel_max=2**12, num_layers=3)
    layer = network.synthesis.input
    share = (layer.freqs.norm(dim=1) / layer.bandwidth).square()
    assert float(share.max()) <= 1
    for quantile in (0.25, 0.5, 0.75):
        assert float((share < quantile).float().mean()) == pytest.approx(quantile, abs=0.03)
    assert float(layer.phases.abs().max()) <= 0.5


def test_truncation_moves_to_the_average_of_the_class(rng):
    network = tiny_network("stylegan_xl-stem")
    labels = torch.tensor([2, 0])
    z = torch.randn(2, 8, generator=rng)
    ws, half, average = (network.map(z, labels, truncation_psi=psi) for psi in (1, 0.5, 0))
    torch.testing.assert_close(average, network.mapping.w_avg[labels][:, None].expand_as(average))
    torch.testing.assert_close(half, (ws + average) / 2)


def test_unconditional_networks(rng):
    z = torch.randn(2, 8, generator=rng)
    for variant in ("stylegan3-t", "stylegan_xl-stem"):
        network = tiny_network(variant, num_classes=0)
        average = network.map(z, truncation_psi=0)
        torch.testing.assert_close(average, network.mapping.w_avg.expand_as(average))
        assert network(network.map(z)).shape == (2, 2, 16, 16)


@pytest.mark.parametrize("variant", ALIAS_FREE)
def test_a_generator_survives_disk_to_the_bit(variant, tmp_path):
    network = tiny_network(variant)
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance={})
    again = read_generator(tmp_path / "g").generator
    assert again.spec == network.spec and again.settings == network.settings
    assert all(torch.equal(again.state_dict()[k], v) for k, v in network.state_dict().items())
    rng = torch.Generator().manual_seed(0)
    ws = torch.randn(2, network.spec.num_ws, 8, generator=rng)
    assert torch.equal(again(ws), network(ws))


def test_layers_of_the_published_networks():
    """The names that the layers of StyleGAN3-T for 1024 px have in its checkpoints."""
    layers = FAMILIES.parse({"kind": "stylegan3", "resolution": 1024}).plan()
    assert " ".join(layer.name for layer in layers) == (
        "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 "
        "L8_276_203 L9_532_128 L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    )
    assert [layer.critically_sampled for layer in layers] == [False] * 12 + [True] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "a power of two"),
        ({"num_critical": 4}, "num_critical .* got 4, expected fewer than num_layers, 4"),
        ({"first_cutoff": 5.0}, "first_cutoff .* below first_stopband"),
        ({"first_cutoff": 8.0, "first_stopband": 9.0}, "first_cutoff .* below half the resolution"),
        ({"last_stopband_rel": 0.9}, "last_stopband_rel .* greater than 1"),
        ({"channel_base": 1}, "channels .* greater than or equal to 1"),
        ({"margins": 2}, "unknown key 'margins'.*Did you mean 'margin'"),
    ],
)
@pytest.mark.parametrize("variant", ["stylegan3-t", "stylegan_xl-stem"])
def test_settings_refuse_nonsense(variant, changes, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES.parse(VARIANTS[variant] | changes)


def read_stacked(index, **changes):
    layers = stacked_layers()
    layers[index] |= changes
    return FAMILIES.parse(
        {"kind": "stylegan_xl", "resolution": 16, "channels": 2, "layers": layers}
    )


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (2, {"in_channels": 7}, "layer L3_20_5 does not follow L1_12_11: got in_channels 7"),
        (3, {"in_size": 30}, "layer L4_16_5 does not follow L3_20_5: got in_size 30"),
        (1, {"to_rgb": True}, "to_rgb in the last layer alone"),
        (4, {"to_rgb": False}, "to_rgb in the last layer alone"),
        (1, {"name": "L0_12_12"}, "unique names"),
        (4, {"out_size": 18}, "layer L5_16_2 does not give the image"),
        (4, {"name": "colours"}, "layers.4.name"),
        (2, {"in_cutoff": 16.0}, "layer L3_20_5 cannot filter: got in_cutoff 16"),
        (2, {"out_sampling_rate": 11}, "layer L3_20_5 cannot resample"),
        (2, {"in_half_width": 0.0}, "in_half_width .* greater than 0"),
    ],
)
def test_listed_layers_refuse_nonsense(index, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_stacked(index, **changes)


def test_layers_leave_no_room_for_a_plan():
    network = tiny_network("stylegan_xl-super")
    options = FAMILIES.dump(network.settings)
    assert FAMILIES.parse(options) == network.settings
    with pytest.raises(ConfigError, match="margin has no effect beside layers"):
        FAMILIES.parse(options | {"margin": 4})
    with pytest.raises(ConfigError, match="layers is empty"):
        FAMILIES.parse(options | {"layers": []})
    with pytest.raises(ConfigError, match=r"num_embeddings .* at least num_classes, 3"):
        FAMILIES.parse(options | {"num_embeddings": 2})


def test_weights_of_another_network_are_refused(tmp_path):
    network = tiny_network("stylegan3-t")
    other = tiny_network("stylegan3-r").settings
    save_generator(network, other, tmp_path / "g", licence="MIT", provenance={})
    with pytest.raises(GeneratorError, match="cannot read the generator in"):
        read_generator(tmp_path / "g")
