"""A generator is found by its structure, wherever in a file it stands and whatever its name."""

from __future__ import annotations

import datetime
import pickle
import types
from collections import OrderedDict

import pickles
import pytest
import torch
from safetensors.torch import save_file
from test_rosinality import build, make_weights
from torch import nn

from generators.checkpoints import convert_checkpoint
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.errors import GeneratorError

AVERAGE = torch.linspace(-1, 1, 16)


def below(prefix, weights):
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def as_modules(weights):
    """The tensors as attributes of modules below modules, as ``torch.save`` of a network does."""
    root = nn.Module()
    for name, value in weights.items():
        holder, (*path, last) = root, name.split(".")
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder._modules[part]
        holder.register_parameter(last, nn.Parameter(value))
    return root


def lightning(weights):
    """With what its checkpoints hold beside: other networks, optimisers, objects of any class."""
    return {
        "pytorch-lightning_version": "2.4.0", "epoch": 3, "global_step": 100,
        "state_dict": OrderedDict(below("net.netG", weights) | {"net.netD.conv.weight": AVERAGE}),
        "optimizer_states": [{"state": {0: {"exp_avg": AVERAGE}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"ModelCheckpoint": {"since": datetime.timedelta(1)}},
        "hyper_parameters": {"precision": torch.float16, "date": datetime.date(2024, 1, 1)},
    }  # fmt: skip


def tagged(value):
    value = value.detach().clone() if type(value) is torch.Tensor else value
    value.tag = "x"
    return value


WAYS = {
    "g_ema": lambda w: {"g_ema": w},
    "bare": lambda w: w,
    "ordered": lambda w: OrderedDict(w),
    "data parallel": lambda w: below("module", w),
    "data parallel below": lambda w: {"g_ema": below("module", w)},
    "psp": lambda w: {"state_dict": below("decoder", w) | below("encoder", {"x.weight": AVERAGE})},
    "lightning": lightning,
    "a name never seen": lambda w: {"ключ": {"x/y z": below("a.b", w)}},
    "in a list": lambda w: ["about", 3, {"net": w}],
    "parameters": lambda w: {"g_ema": {n: nn.Parameter(v) for n, v in w.items()}},
    "with attributes": lambda w: {"g_ema": {n: tagged(v) for n, v in w.items()}},
    "parameters with attributes": lambda w: {
        "g_ema": {n: tagged(nn.Parameter(v)) for n, v in w.items()}
    },
    "a whole module": lambda w: {"model": as_modules(w)},
    "in half precision": lambda w: {"g_ema": {n: v.half().float() for n, v in w.items()}},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


@pytest.fixture(scope="module")
def weights():
    return make_weights(8)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_found_wherever_it_stands(path, weights, way, zipped):
    torch.save(WAYS[way](weights), path, _use_new_zipfile_serialization=zipped)
    found = convert_checkpoint(path)
    torch.save({"g_ema": weights}, path)
    want = convert_checkpoint(path).weights
    tolerance = 2e-3 if "half" in way else 0
    for name, value in want.items():
        scale = float(value.abs().max())
        assert float((found.weights[name] - value).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("numbers", ["torch", "numpy"])
def test_it_is_found_in_a_plain_pickle(path, weights, numbers):
    stored = weights if numbers == "torch" else {n: v.numpy() for n, v in weights.items()}
    path.write_bytes(pickle.dumps({"net": stored}, 4))
    found = convert_checkpoint(path)
    assert found.facts["prefix"] == "net"
    assert torch.equal(found.weights["synthesis.b4.const"], weights["input.input"][0])


def test_it_is_found_in_safetensors(path, weights):
    save_file({n: v.clone() for n, v in below("generator_ema", weights).items()}, path)
    found = convert_checkpoint(path)
    assert found.facts["prefix"] == "generator_ema"
    assert torch.equal(found.weights["synthesis.b4.const"], weights["input.input"][0])


def test_numbers_of_the_other_byte_order_are_read(path, weights):
    stored = {n: v.numpy().astype(">f8") for n, v in weights.items()}
    path.write_bytes(pickle.dumps(stored, 4))
    assert torch.equal(
        convert_checkpoint(path).weights["synthesis.b4.const"], weights["input.input"][0]
    )


ROWS = AVERAGE.repeat(6, 1)
AVERAGES = {
    "w": AVERAGE,
    "one row": AVERAGE[None],
    "equal rows": ROWS,
    "rows without a copy": AVERAGE.expand(18, 16),
    "numpy": AVERAGE.numpy(),
    "numpy rows": ROWS.numpy(),
    "double": AVERAGE.double(),
}


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("place", ["top", "beside"])
def test_averages_of_every_make_are_the_w_that_they_repeat(path, weights, kind, place):
    average = {"latent_avg": AVERAGES[kind]}
    content = {"state_dict": below("decoder", weights), **average}
    if place == "beside":
        content = {"state_dict": below("decoder", {**weights, **average})}
    torch.save(content, path)
    found = convert_checkpoint(path)
    assert torch.equal(found.weights["mapping.w_avg"], AVERAGE)
    assert found.facts["average"] == "that of the file" and found.remarks == ()


def test_of_an_average_in_w_plus_the_mean_is_taken_and_told(path, weights):
    rows = torch.stack([AVERAGE, 3 * AVERAGE])
    torch.save({"g_ema": weights, "latent_avg": rows}, path)
    found = convert_checkpoint(path)
    torch.testing.assert_close(found.weights["mapping.w_avg"], 2 * AVERAGE)
    assert "mean of the 2 rows" in found.facts["average"]
    assert "mean of the 2 rows" in found.remarks[0]


def without_noise(weights):
    return {name: value for name, value in weights.items() if not name.startswith("noises")}


def test_noise_that_is_missing_is_drawn_from_a_fixed_seed_and_told(path, weights):
    torch.save({"g_ema": without_noise(weights)}, path)
    first, second = convert_checkpoint(path), convert_checkpoint(path)
    names = [name for name in first.weights if name.endswith("noise_const")]
    assert len(names) == 3
    for name in names:
        assert torch.equal(first.weights[name], second.weights[name])
        assert 0.5 < float(first.weights[name].std()) < 1.5
    assert "seed 0" in first.facts["noise"]
    assert first.remarks == ("it has no noise maps: they are drawn with seed 0",)


def test_all_but_the_noise_is_that_of_the_file(path, weights):
    torch.save({"g_ema": without_noise(weights)}, path)
    bare = convert_checkpoint(path).weights
    torch.save({"g_ema": weights}, path)
    whole = convert_checkpoint(path).weights
    differing = {name for name in whole if not torch.equal(whole[name], bare[name])}
    assert {name.rpartition(".")[2] for name in differing} == {"noise_const"}


def test_noise_of_giant_images_is_not_drawn(path):
    """Thirteen blocks of one feature are a small file; their noise would be gigabytes."""
    giant = make_weights(2**13, cut=2**13, most=1, noise=False)
    torch.save({"g_ema": without_noise(giant)}, path)
    with pytest.raises(GeneratorError, match="too large to draw some: got 8192 px"):
        convert_checkpoint(path)


def test_a_generator_that_is_no_average_is_read_and_told(path, weights):
    torch.save({"g": weights, "d": {}}, path)
    found = convert_checkpoint(path)
    assert found.facts["prefix"] == "g"
    assert "it has no average of the generator: 'g'" in found.remarks[0]


def test_the_average_comes_first_and_g_is_there_if_asked_for(path, weights):
    other = make_weights(8, seed=1)
    torch.save({"g": other, "g_ema": weights}, path)
    for network, want in (("G_ema", weights), ("G", other), ("g_ema", weights), ("g", other)):
        found = convert_checkpoint(path, network)
        assert torch.equal(found.weights["synthesis.b4.const"], want["input.input"][0])
        assert found.remarks == ()


def test_an_average_is_not_taken_for_what_was_trained(path, weights):
    torch.save({"g_ema": weights}, path)
    with pytest.raises(GeneratorError, match=r"no generator 'G': got g_ema\. Give"):
        convert_checkpoint(path, "G")


def test_a_damaged_average_is_not_passed_over_for_what_was_trained(path, weights):
    damaged = {name: value for name, value in weights.items() if name != "input.input"}
    torch.save({"g": weights, "g_ema": damaged}, path)
    with pytest.raises(GeneratorError, match=r"no tensor 'input\.input' below 'g_ema'"):
        convert_checkpoint(path)


def test_a_damaged_one_does_not_stand_in_the_way_of_a_whole_one(path, weights):
    damaged = {name: value for name, value in weights.items() if name != "input.input"}
    torch.save({"cat": weights, "dog": damaged}, path)
    assert convert_checkpoint(path).facts["prefix"] == "cat"


def test_of_several_generators_none_is_guessed(path, weights):
    torch.save({"cat": {"net": weights}, "dog": {"net": weights}}, path)
    with pytest.raises(GeneratorError, match=r"several generators: got cat\.net, dog\.net") as told:
        convert_checkpoint(path)
    assert "as --network" in str(told.value)
    assert convert_checkpoint(path, "dog").facts["prefix"] == "dog.net"
    assert convert_checkpoint(path, "cat.net").facts["prefix"] == "cat.net"


def test_a_name_that_is_not_there_is_refused_with_those_that_are(path, weights):
    torch.save({"cat": weights}, path)
    with pytest.raises(GeneratorError, match=r"no generator 'cow': got cat\."):
        convert_checkpoint(path, "cow")


def test_what_stands_beside_is_told(path, weights):
    torch.save({"net": {**weights, "res.0.weight": AVERAGE}}, path)
    assert convert_checkpoint(path).remarks == ("res beside it was left aside",)


def test_a_generator_with_more_layers_is_not_read_as_if_it_had_fewer(path, weights):
    torch.save({"g_ema": {**weights, "convs.1.attention.weight": AVERAGE}}, path)
    with pytest.raises(GeneratorError, match=r"has not: got convs\.1\.attention\.weight"):
        convert_checkpoint(path)


OPTIONS = [
    {"num_classes": 3, "architecture": "skip"},
    {"num_classes": 0, "architecture": "resnet"},
    {"num_classes": 2, "architecture": "orig", "resolution": 4, "channels": 1},
]


def official(**options):
    options = {"resolution": 16, "z_dim": 6, "w_dim": 8, "mapping_layers": 2} | options
    settings = StyleGAN2Settings(channel_base=64, channel_max=8, conv_clamp=256, **options)
    network = settings.build()
    network.initialise(torch.Generator().manual_seed(0))
    return settings, network


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["architecture"])
def test_options_follow_from_tensors_in_official_names(path, rng, options):
    _, network = official(**options)
    torch.save({"state_dict": below("G_ema", network.state_dict())}, path)
    found = convert_checkpoint(path)
    again = build(found)
    ws = torch.randn(2, network.spec.num_ws, 8, generator=rng)
    assert again.spec == network.spec
    assert torch.equal(again(ws), network(ws))
    assert "clamp" in found.remarks[0] and found.facts["conv_clamp"].endswith("256")


def test_parameters_alone_are_enough(path, rng):
    _, network = official(num_classes=3, architecture="skip")
    torch.save({"g": dict(network.named_parameters())}, path)
    found = convert_checkpoint(path)
    assert torch.equal(found.weights["synthesis.b4.const"], network.synthesis.b4.const)
    assert {"noise", "average"} <= set(found.facts)
    build(found)(torch.randn(2, network.spec.num_ws, 8, generator=rng))


def tuned(path, content):
    """``torch.save`` of official modules, which name a function that is nowhere to be found."""
    writer = types.SimpleNamespace(__name__="pickle", Pickler=pickles.Writer)
    torch.save(content, path, pickle_module=writer)


@pytest.mark.parametrize("top", [True, False], ids=["alone", "in a dict"])
def test_an_official_module_in_a_torch_file_brings_its_options(path, rng, top):
    settings, network = official(num_classes=3)
    init = {"z_dim": 6, "c_dim": 3, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
    init["mapping_kwargs"] = pickles.easy_dict(num_layers=2)
    init["synthesis_kwargs"] = pickles.easy_dict(channel_base=64, channel_max=8, conv_clamp=256)
    module = pickles.official(network, _init_kwargs=init)
    tuned(path, module if top else {"step": 3, "G": {"net": module}})
    found = convert_checkpoint(path)
    assert found.settings == settings and found.remarks == ()
    ws = torch.randn(2, network.spec.num_ws, 8, generator=rng)
    assert torch.equal(build(found)(ws), network(ws))


def test_what_is_not_asked_for_is_not_read(path, weights):
    """The discriminator's values are damaged, so whoever reads them fails."""
    mark = torch.full((1000,), 7.25)
    torch.save({"g_ema": weights, "d": {"mark": mark}}, path)
    content = path.read_bytes()
    assert content.count(mark.numpy().tobytes()) == 1
    path.write_bytes(content.replace(mark.numpy().tobytes(), (mark + 1).numpy().tobytes()))
    assert convert_checkpoint(path).facts["prefix"] == "g_ema"


def test_a_flipped_bit_in_the_weights_is_noticed(path, weights):
    torch.save({"g_ema": weights}, path)
    content, values = path.read_bytes(), weights["conv1.conv.weight"].numpy().tobytes()
    damaged = bytes([values[0] ^ 1]) + values[1:]
    path.write_bytes(content.replace(values, damaged))
    with pytest.raises(GeneratorError, match="truncated or damaged: got Bad CRC"):
        convert_checkpoint(path)


def test_a_mapping_network_whose_average_overflows_is_refused(path, weights):
    huge = {n: v * 1e34 if n.startswith("style") else v for n, v in weights.items()}
    torch.save({"g_ema": huge}, path)
    with pytest.raises(GeneratorError, match="average w, which is not in the file, is not finite"):
        convert_checkpoint(path)


@pytest.mark.parametrize("network", [None, 3, b"G"])
def test_a_network_is_named_by_text(path, weights, network):
    torch.save({"g_ema": weights}, path)
    with pytest.raises(GeneratorError, match="named by text"):
        convert_checkpoint(path, network)
