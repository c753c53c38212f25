"""Autoencoders of others as generators: read as data, the same images, any size."""

from __future__ import annotations

import json
import logging
import os

import pytest
import torch
from autoencoder_files import (
    KL_CONFIG,
    KLTwin,
    in_diffusers_names,
    kl_weights,
    published,
    write_folder,
    write_pair,
)
from click.testing import CliRunner
from conftest import SHARED
from torch import nn

import hpd
from generators import read_generator, save_generator
from generators.projection import project, squared_distance
from hpd.cli import main
from hpd.errors import GeneratorError

TAEF2 = SHARED / "data" / "foreign" / "taef2_decoder.pth"
TINY_CONFIG = {"_class_name": "AutoencoderTiny", "act_fn": "relu", "upsample_fn": "nearest"}
VARIANTS = [{}, {"latent": 16}, {"pooled": True, "latent": 32}, {"stem": True}]


def seeded(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def check_same(generator, decode, encode, side=16):
    """Latents and images are those of another implementation; images are in [0, 1] there."""
    generator, images = generator.sized(side), seeded(2, 3, side, side)
    latents = encode(images)
    ws = generator.encode(images)
    torch.testing.assert_close(ws.reshape(latents.shape), latents)
    torch.testing.assert_close((generator(ws) + 1) / 2, decode(latents))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_published_pairs_are_the_networks_that_they_were(options, tmp_path):
    decoder, encoder = published(**options)
    stored = read_generator(write_pair(tmp_path, (decoder, encoder)))
    check_same(stored.generator, decoder, encoder)
    assert stored.generator.spec.num_classes == 0
    assert stored.generator.floats == sum(value.numel() for value in decoder.parameters())
    assert stored.licence == "MIT (madebyollin/taesd, by the name of the file)"
    assert stored.facts["read"]["encoder"] == "taesd_encoder.pth"


@pytest.mark.parametrize("options", VARIANTS[:3], ids=str)
def test_tiny_folders_of_diffusers_are_the_same(options, tmp_path):
    networks = published(**options)
    card = "---\ntags: [x]\nlicense: mit\n---\n# A model\n"
    folder = write_folder(tmp_path / "tiny", in_diffusers_names(networks), TINY_CONFIG, card)
    stored = read_generator(folder)
    check_same(stored.generator, *networks)
    assert (stored.name, stored.licence) == ("tiny", "mit")
    # the file in the folder means the folder, and its tensors alone tell as much
    file = folder / "diffusion_pytorch_model.safetensors"
    assert read_generator(file).name == "tiny"
    (folder / "config.json").unlink()
    check_same(read_generator(file).generator, *networks)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_kl_folders_of_diffusers_are_the_same(legacy, quantised, tmp_path):
    weights = kl_weights(legacy, quantised)
    twin = KLTwin(weights)
    stored = read_generator(write_folder(tmp_path / "vae", weights, KL_CONFIG))
    check_same(
        stored.generator,
        lambda latents: (twin.decode(latents / 0.5 + 0.1) + 1) / 2,
        lambda images: (twin.encode(images) - 0.1) * 0.5,
    )
    assert stored.licence == "that of the file's source"


def test_levels_are_latents_blocks_and_pixels(tmp_path):
    generator = hpd.load_generator(write_pair(tmp_path, published())).sized(16)
    levels = [(level.name, level.shapes) for level in generator.spec.levels]
    assert levels == [
        ("latents", ()), ("block1", ((8, 4, 4),)), ("block2", ((8, 4, 4),)),
        ("block3", ((8, 8, 8),)), ("block4", ((8, 16, 16),)), ("pixels", ((3, 16, 16),)),
    ]  # fmt: skip
    assert (generator.spec.num_ws, generator.spec.w_dim) == (1, 4 * 4 * 4)


def test_the_command_line_tells_what_a_file_is(tmp_path):
    path = write_pair(tmp_path, published())

    def said(*arguments):
        result = CliRunner().invoke(main, ["generator", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "tiny_autoencoder, 3 x 128 x 128, no classes, 6 levels\nwith its encoder" in said(
        "inspect", path
    )
    assert "licence  MIT" in said("inspect", path)
    assert "no generator that is known" in said("inspect", tmp_path / "taesd_encoder.pth")
    assert "latents            4,096 floats" in said("levels", path)
    said("convert", path, tmp_path / "own")
    assert "taesd_encoder.pth" in said("inspect", tmp_path / "own")


def test_other_sizes_share_the_weights(tmp_path):
    generator = read_generator(write_pair(tmp_path, published())).generator
    other = generator.sized(20)
    assert other.spec.resolution == 20
    assert other.decoder[0] is generator.decoder[0]
    assert generator.sized(generator.spec.resolution) is generator
    with pytest.raises(GeneratorError, match=r"no images of 18 px.*expected a multiple of 4"):
        generator.sized(18)
    # a generator of one size stays what it is
    digits = hpd.load_generator("digits16")
    assert digits.sized(32) is digits
    with pytest.raises(GeneratorError, match="has no encoder"):
        digits.encode(torch.zeros(1, 1, 16, 16))


def test_images_are_projected_without_an_encoder_too(tmp_path):
    generator = read_generator(write_pair(tmp_path, published())).generator.sized(16)
    latents = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1))
    wanted = (generator(latents) + 1) / 2
    rng = torch.Generator().manual_seed(2)
    found = project(
        generator, wanted, distance=squared_distance, rng=rng, steps=150, any_range=True
    )
    made = (generator(found) + 1) / 2
    start = (generator(torch.zeros_like(latents)) + 1) / 2
    gaps = [float((images - wanted).square().mean()) for images in (made, start)]
    assert gaps[0] < gaps[1] / 10


def test_a_decoder_alone_is_read_and_says_so(tmp_path, caplog):
    path = write_pair(tmp_path, published())
    (tmp_path / "taesd_encoder.pth").unlink()
    with caplog.at_level(logging.WARNING):
        generator = read_generator(path).generator
    assert "no encoder, such as taesd_encoder.pth, lies beside it" in caplog.text
    with pytest.raises(GeneratorError, match="has no encoder"):
        generator.encode(seeded(1, 3, 128, 128))


@pytest.mark.parametrize("kind", ["tiny", "kl"])
def test_converted_ones_are_read_back(kind, tmp_path):
    path = write_pair(tmp_path, published(pooled=True))
    if kind == "kl":
        path = write_folder(tmp_path / "vae", kl_weights(), KL_CONFIG)
    stored = read_generator(path)
    save_generator(stored.generator, stored.settings, tmp_path / "own", licence="x", provenance={})
    again = read_generator(tmp_path / "own").generator.sized(16)
    images = seeded(1, 3, 16, 16)
    ws = stored.generator.sized(16).encode(images)
    assert torch.equal(again.encode(images), ws)
    assert torch.equal(again(ws), stored.generator.sized(16)(ws))


class _Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_files_that_would_run_something_are_refused_and_run_nothing(part, tmp_path):
    networks = published()
    path = write_pair(tmp_path, networks)
    sprung = tmp_path / "sprung"
    state = {**networks[part == "encoder"].state_dict(), "more": _Runs(f"touch {sprung}")}
    torch.save(state, tmp_path / f"taesd_{part}.pth")
    with pytest.raises(GeneratorError, match="no checkpoint has a use for it") as caught:
        read_generator(path)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()


def _without(state):
    return {name: value for name, value in state.items() if name != "3.conv.2.bias"}


def _more(state):
    return state | {"3.skip.weight": torch.zeros(8, 8, 1, 1)}


def _not_finite(state):
    return state | {"1.bias": torch.full((8,), torch.nan)}


def _other_shape(state):
    return state | {"3.conv.2.weight": torch.zeros(8, 7, 3, 3)}


def _of_whole_numbers(state):
    return state | {"1.weight": torch.zeros(8, 4, 3, 3, dtype=torch.int64)}


def _in_a_strange_place(state):
    return (
        state
        | {"4.weight": torch.zeros(8, 8, 3, 3), "4.bias": torch.zeros(8)}
        | {f"4.{name}": torch.zeros(1) for name in ("more",)}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "no tensor '3.conv.2.bias'"),
        (_more, "tensors that the known ones have not: got 3.skip.weight"),
        (_not_finite, "8 of 8 values of the tensor '1.bias' are NaN or Inf"),
        (_other_shape, "3.*does not fit"),
        (_of_whole_numbers, "no tensor '1.weight'.*int64"),
        (_in_a_strange_place, "tensors that the known ones have not"),
    ],
)
def test_damaged_decoders_are_refused_in_one_line(change, message, tmp_path):
    decoder, encoder = published()
    path = write_pair(tmp_path, (decoder, encoder))
    torch.save(change(decoder.state_dict()), path)
    with pytest.raises(GeneratorError, match=message) as caught:
        read_generator(path)
    assert "\n" not in str(caught.value)


def test_half_a_file_and_an_encoder_of_another_are_refused(tmp_path):
    path = write_pair(tmp_path, published())
    encoder = tmp_path / "taesd_encoder.pth"
    whole = encoder.read_bytes()
    encoder.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeneratorError, match="cannot read the encoder"):
        read_generator(path)
    torch.save(published(latent=16)[1].state_dict(), encoder)
    with pytest.raises(GeneratorError, match="does not fit"):
        read_generator(path)
    torch.save(published(stem=True)[1].state_dict(), encoder)
    with pytest.raises(GeneratorError, match="different factors: got 8 and 4"):
        read_generator(path)
    with pytest.raises(GeneratorError, match=r"this is the encoder.*Give the file of the decoder"):
        torch.save(published()[1].state_dict(), encoder)
        read_generator(encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "mish"}, "act_fn of the autoencoder is not known: got 'mish'"),
        ({"block_out_channels": [4, 8, 8]}, "no tensor 'decoder.up_blocks.2|does not fit"),
        ({"block_out_channels": [4, 2**40]}, "widths.*multiples of 2 groups"),
        ({"block_out_channels": "many"}, "widths"),
        ({"layers_per_block": 10**9}, "blocks"),
        ({"norm_num_groups": 3}, "multiples of 3 groups"),
        ({"scaling_factor": 1e300}, "scaling_factor of the autoencoder is no number"),
        ({"scaling_factor": -1.0}, "scale"),
        ({"latents_mean": [0.0]}, "latents_mean of the autoencoder is not known"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types"),
        ({"in_channels": 1}, "gives other images than it takes"),
        ({"latent_channels": 4}, "does not fit"),
    ],
)
def test_unknown_and_hostile_options_are_refused_in_one_line(change, message, tmp_path):
    folder = write_folder(tmp_path / "vae", kl_weights(), KL_CONFIG | change)
    with pytest.raises(GeneratorError, match=message) as caught:
        read_generator(folder)
    assert "\n" not in str(caught.value)


def test_folders_say_what_is_missing(tmp_path):
    folder = write_folder(tmp_path / "vae", kl_weights(), KL_CONFIG)
    file = folder / "diffusion_pytorch_model.safetensors"
    with pytest.raises(GeneratorError, match="multiples of 2"):
        (folder / "config.json").write_text(json.dumps(KL_CONFIG | {"block_out_channels": [3]}))
        read_generator(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(GeneratorError, match=r"Give the folder that has its config\.json"):
        read_generator(file)
    (folder / "config.json").write_text(json.dumps(KL_CONFIG))
    file.unlink()
    with pytest.raises(GeneratorError, match="no tensors in it"):
        read_generator(folder)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(GeneratorError, match=r"a pipeline.*Give its autoencoder: .*vae"):
        read_generator(tmp_path)


@pytest.mark.shared
@pytest.mark.skipif(not TAEF2.is_file(), reason=f"needs {TAEF2} (or HPD_SHARED/data)")
def test_a_real_one_is_the_network_that_torch_makes_of_it():
    """TAEF2: 32 channels at 1/8 of the side, 1.34 million parameters, latents of RMS 0.8 to 0.9."""
    stored = read_generator(TAEF2)
    generator = stored.generator.sized(64)
    assert generator.floats == 1_338_499
    assert generator.spec.w_dim == 32 * 8 * 8
    state = torch.load(TAEF2, weights_only=True)
    twin = _numbered_twin({name: value.float() for name, value in state.items()})
    # an image with edges and shades
    ramp = torch.linspace(0, 1, 64)
    image = torch.stack(
        [ramp.expand(64, 64), ramp[:, None].expand(64, 64), (ramp > 0.5) * ramp[:, None]]
    )
    ws = generator.encode(image[None])
    made = (generator(ws) + 1) / 2
    torch.testing.assert_close(made, twin(ws.reshape(1, 32, 8, 8)), rtol=1e-4, atol=1e-4)
    error = float((made - image).square().mean())
    assert error < 10**-2.5
    assert "MIT" in stored.licence


def _numbered_twin(state):
    """The chain of numbered layers of a decoder, in plain torch."""

    def run(x):
        x = 3 * torch.tanh(x / 3)
        last = max(int(name.partition(".")[0]) for name in state)
        for number in range(1, last + 1):
            if f"{number}.conv.0.weight" in state:
                x = _numbered_block(state, str(number), x)
            elif f"{number}.weight" in state:
                bias = state.get(f"{number}.bias")
                # without a bias it follows a doubling
                x = x if bias is not None else nn.functional.interpolate(x, scale_factor=2)
                x = nn.functional.conv2d(x, state[f"{number}.weight"], bias, padding=1)
                x = x.relu() if number == 1 else x
        return x

    return run


def _numbered_block(state, name, x):
    if f"{name}.pool.0.weight" in state:
        y = nn.functional.conv2d(x, state[f"{name}.pool.0.weight"])
        y = nn.functional.group_norm(
            y, 4, state[f"{name}.pool.1.weight"], state[f"{name}.pool.1.bias"]
        )
        x = x + nn.functional.conv2d(y.relu(), state[f"{name}.pool.3.weight"])
    y = x
    for number in (0, 2, 4):
        weight, bias = (state[f"{name}.conv.{number}.{part}"] for part in ("weight", "bias"))
        y = nn.functional.conv2d(y.relu() if number else y, weight, bias, padding=1)
    return (x + y).relu()
