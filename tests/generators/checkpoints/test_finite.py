"""Weights are finite, or the file and the tensor are named, whatever the way in."""

from __future__ import annotations

import json

import pickles
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_generator
from safetensors.torch import load_file, save_file
from small_runs import check_refused
from test_rosinality import make_weights

import hpd
from generators import StoredGenerator, read_generator, save_generator
from generators.checkpoints.finite import finite_floats
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.cli import main
from hpd.errors import GeneratorError

TENSOR = "synthesis.b8.conv1.weight"


def broken(network, value=float("nan"), name=TENSOR):
    with torch.no_grad():
        dict(network.state_dict())[name].view(-1)[:3] = value
    return network


def folder_of(folder, value):
    network = tiny_generator()
    save_generator(network, network.settings, folder, licence="MIT", provenance={})
    weights = load_file(folder / "model.safetensors")
    weights[TENSOR] = weights[TENSOR].to(torch.float64)
    weights[TENSOR].view(-1)[:3] = value
    save_file(weights, folder / "model.safetensors")
    return folder


def rosinality_of(path, value):
    weights = {n: v.double() for n, v in make_weights(8).items()}
    weights["convs.1.conv.weight"].view(-1)[:3] = value
    torch.save({"g_ema": weights}, path)
    return path


def state_dict_of(path, value):
    network = broken(tiny_generator().double(), value)
    torch.save({"net": network.state_dict()}, path)
    return path


def official_of(path, value):
    settings = StyleGAN2Settings(
        resolution=8, channels=1, z_dim=2, w_dim=2, mapping_layers=1, channel_max=2,
    )  # fmt: skip
    network = settings.build()
    network.initialise(torch.Generator().manual_seed(0))
    init = {"z_dim": 2, "c_dim": 0, "w_dim": 2, "img_resolution": 8, "img_channels": 1}
    init["mapping_kwargs"] = pickles.easy_dict(num_layers=1)
    init["synthesis_kwargs"] = pickles.easy_dict(channel_max=2)
    module = pickles.official(broken(network.double(), value), _init_kwargs=init)
    path.write_bytes(pickles.dumps(pickles.checkpoint(module)))
    return path


WAYS = {
    "folder": (folder_of, TENSOR),
    "rosinality": (rosinality_of, "g_ema.convs.1.conv.weight"),
    "state dict": (state_dict_of, f"net.{TENSOR}"),
    "official": (official_of, TENSOR),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("way", WAYS)
def test_file_tensor_and_count_are_named(tmp_path, way, value):
    make, name = WAYS[way]
    with pytest.raises(GeneratorError) as told:
        read_generator(make(tmp_path / "weights", value))
    message = str(told.value)
    assert "3 of " in message and f"{name!r} are NaN or Inf" in message
    assert str(tmp_path / "weights") in message and len(message) <= 600


@pytest.mark.parametrize("way", WAYS)
def test_what_overflows_in_float32_is_told_apart(tmp_path, way):
    make, name = WAYS[way]
    with pytest.raises(GeneratorError, match=f"'{name}' are too large for torch.float32"):
        read_generator(make(tmp_path / "weights", 1e300))


def test_what_overflows_in_half_precision_is_not_written(tmp_path):
    network = broken(tiny_generator(), 1e5)
    with pytest.raises(GeneratorError, match=f"'{TENSOR}' are too large for torch.float16"):
        save_generator(
            network, network.settings, tmp_path / "half", licence="MIT", provenance={},
            dtype=torch.float16,
        )  # fmt: skip
    assert not (tmp_path / "half").exists()


def test_an_average_that_is_not_finite_is_named(tmp_path):
    path = tmp_path / "g.pt"
    torch.save({"g_ema": make_weights(8), "latent_avg": torch.full((16,), torch.nan)}, path)
    with pytest.raises(GeneratorError, match="16 of 16 values of the tensor 'latent_avg'"):
        read_generator(path)


def test_a_generator_in_memory_is_looked_at_too():
    with pytest.raises(GeneratorError, match=f"weights in the generator .* '{TENSOR}'"):
        StoredGenerator.of(broken(tiny_generator()))


def test_python_and_every_command_refuse_it_and_leave_nothing_behind(tmp_path):
    file = str(rosinality_of(tmp_path / "nan.pt", float("nan")))
    with pytest.raises(hpd.HpdError, match=r"g_ema\.convs\.1\.conv\.weight"):
        hpd.load_generator(file)
    for command in (
        ["generator", "sample", file, "--out", f"{tmp_path}/out.png"],
        ["generator", "convert", file, f"{tmp_path}/out"],
        ["generator", "levels", file],
        ["generator", "score", file, "--data", "digits"],
        ["distill", "digits", f"source.generator={file}", "--out", f"{tmp_path}/run"],
    ):
        check_refused(CliRunner().invoke(main, command), "g_ema.convs.1.conv.weight")
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["nan.pt"]
    assert not any((tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_finite_values_of_any_type_pass(dtype):
    values = torch.tensor([[-3, 0], [7, 1]]).to(dtype)
    assert torch.equal(finite_floats("x", values), values.float())


def test_the_largest_values_pass():
    values = torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max])
    assert finite_floats("x", values) is not None


def test_no_copy_is_made_of_what_is_float32_already():
    values = torch.ones(5)
    assert finite_floats("x", values).data_ptr() == values.data_ptr()


def test_no_values_are_finite_values():
    assert finite_floats("x", torch.empty(0)).numel() == 0


def test_what_was_made_up_is_kept_with_the_converted_generator(tmp_path, caplog):
    weights = {n: v for n, v in make_weights(8).items() if not n.startswith("noises")}
    torch.save({"g": weights}, tmp_path / "550000.pt")
    command = ["generator", "convert", str(tmp_path / "550000.pt"), str(tmp_path / "out")]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert "550000.pt: it has no noise maps: they are drawn with seed 0; " in caplog.text
    assert "the one that was trained" in caplog.text
    about = json.loads((tmp_path / "out/generator.json").read_text())["provenance"]["read"]
    assert about["prefix"] == "g" and "seed 0" in about["noise"] and "seed 0" in about["average"]
    direct, again = read_generator(tmp_path / "550000.pt"), read_generator(tmp_path / "out")
    for name, value in direct.generator.state_dict().items():
        assert torch.equal(again.generator.state_dict()[name], value)
    assert direct.facts["read"] == again.facts["read"] == about


def test_a_file_in_which_nothing_was_made_up_says_nothing(tmp_path, caplog):
    torch.save({"g_ema": make_weights(8), "latent_avg": torch.ones(16)}, tmp_path / "g.pt")
    read_generator(tmp_path / "g.pt")
    assert caplog.text == ""
