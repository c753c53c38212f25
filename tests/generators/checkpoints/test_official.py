"""Official checkpoints give their networks, their numbers and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pickles
import pytest
import torch
from conftest import GOLDEN, ROOT, SHARED, Golden, tiny_generator
from safetensors.torch import load_file

from generators.checkpoints import read_checkpoint, stylegan2_from_record
from generators.checkpoints.pickles.tensors import read_storage
from hpd.errors import GeneratorError

FOLDERS = (
    "ada_cond32", "ada_cond16_orig_gray", "sg3t_uncond64", "sg3r_cond32", "xl_stem_cond",
    "xl_super_cond",
)  # fmt: skip


def golden_folder(name) -> Path:
    """The golden folder, from beside the checkout where the repository has only a part of it."""
    for folder in (GOLDEN / name, SHARED / "golden" / name):
        if (folder / "network.pkl").exists() and (folder / "state_dict.safetensors").exists():
            return folder
    pytest.skip(f"no golden checkpoint {name} in the repository or beside it")


@pytest.mark.parametrize("name", FOLDERS)
def test_every_tensor_to_the_bit(name):
    folder = golden_folder(name)
    record = read_checkpoint(folder / "network.pkl")
    want, got = load_file(folder / "state_dict.safetensors"), record.state_dict()
    assert set(got) == set(want)
    for key, value in want.items():
        assert got[key].dtype == value.dtype and torch.equal(got[key], value), key
        assert got[key].is_contiguous() and not got[key].requires_grad
    assert record.unread == {}


@pytest.mark.parametrize("name", FOLDERS)
def test_constructor_arguments_and_attributes(name):
    folder = golden_folder(name)
    config = Golden(folder).config
    record = read_checkpoint(folder / "network.pkl")
    assert record.kwargs == config["constructor"] and record.args == ()
    for key in ("z_dim", "c_dim", "w_dim", "num_ws", "img_resolution", "img_channels"):
        assert record.attribute(key) == config[key]
    if config["layer_names"]:
        synthesis = record.child("synthesis")
        assert synthesis.attribute("layer_names") == config["layer_names"]
        assert synthesis.attribute("output_scale") == config["output_scale"]
        assert list(synthesis.children) == ["input", *config["layer_names"]]
    plain = (int, float, str, bool, list, tuple, dict, type(None))
    for child in (record, *record.children.values()):
        assert all(isinstance(v, plain) for v in child.attributes.values())


@pytest.mark.parametrize("name", FOLDERS[:2])
def test_stylegan2_gives_the_golden_numbers(name):
    golden, path = Golden(GOLDEN / name), GOLDEN / name / "network.pkl"
    settings, weights = stylegan2_from_record(read_checkpoint(path))
    network = settings.build()
    network.load_state_dict(weights, strict=True)
    network.requires_grad_(False)
    values = golden.values
    ws = network.map(values["z"], values["c"].argmax(dim=1))
    for got, want, tolerance in (
        (ws, values["ws"], 1e-5),
        (network(values["ws"]), values["image"], 1e-4),
    ):
        assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


def test_the_training_network_is_there_too():
    path = GOLDEN / "ada_cond32" / "network.pkl"
    trained, averaged = read_checkpoint(path, "G"), read_checkpoint(path)
    assert set(trained.state_dict()) == set(averaged.state_dict())
    with pytest.raises(GeneratorError, match=r"no network 'E': got .*'G_ema'"):
        read_checkpoint(path, "E")


def test_nothing_of_the_official_code_is_imported():
    code = (
        "import sys; from generators.checkpoints import *\n"
        "others = {n.partition('.')[0] for n in sys.modules}\n"
        f"paths = [{str(GOLDEN)!r} + f'/{{name}}/network.pkl' for name in {FOLDERS}]\n"
        "before = set(sys.modules)\n"
        "records = [read_checkpoint(path) for path in paths]\n"
        "for path in paths: inspect_checkpoint(path)\n"
        "new = {n for n in set(sys.modules) - before if not n.startswith('encodings.')}\n"
        "assert not new, new\n"
        "for record in records[:2]: stylegan2_from_record(record)\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        # torch itself imports dill where it is installed
        "assert not (roots - others) & {'torch_utils', 'dnnlib', 'dill', 'training', 'legacy'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(), protocol))
    record = read_checkpoint(path)
    assert record.class_name == "Generator"
    assert record.kwargs == {"c_dim": 3, "mapping_kwargs": {"num_layers": 2}}
    assert record.attributes == {"training": False, "z_dim": 4}
    layer = record.child("layer")
    assert layer.args == (2, 3) and layer.kwargs == {"w_dim": 8, "is_torgb": False}
    assert layer.attribute("weight_gain") == 0.25
    assert layer.attribute("in_size") == [4, 6] and layer.attribute("out_size") == [[1.5, 2.5]]
    want = {
        "embed.weight": pickles.tensor(3, 2),
        "layer.weight": pickles.tensor(2, 3, seed=1),
        "layer.filter": pickles.tensor(4, seed=2),
    }
    got = record.state_dict()
    assert list(got) == list(want)
    assert all(torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize("prefix", ["numpy.core", "numpy._core"])
def test_numpy_before_and_after_its_move(tmp_path, prefix):
    dtype = pickles.Call("numpy.dtype", "f8", False, True, state=(3, ">", *[None] * 3, -1, -1, 0))
    scalar = pickles.Call(f"{prefix}.multiarray.scalar", dtype, np.array(2.5, ">f8").tobytes())
    ordered = pickles.Call(
        f"{prefix}.multiarray._reconstruct", pickles.Name("numpy.ndarray"), (0,), b"b",
        state=(1, (2, 3), np.dtype("i4"), True, np.arange(6, dtype="i4").tobytes()),
    )  # fmt: skip
    path = tmp_path / "network.pkl"
    network = pickles.network(gain=scalar, table=ordered, empty=np.zeros(0))
    path.write_bytes(pickles.dumps(pickles.checkpoint(network)))
    record = read_checkpoint(path)
    assert record.attribute("gain") == 2.5 and record.attribute("empty") == []
    assert record.attribute("table") == [[0, 2, 4], [1, 3, 5]]


def test_containers_under_dills_names(tmp_path):
    made = pickles.Call(pickles.Call("dill._dill._load_type", "dict"), items={"a": 1})
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(pickles.network(made=made))))
    assert read_checkpoint(path).attribute("made") == {"a": 1}


DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_storage_is_what_torch_reads(dtype):
    values = (pickles.tensor(7) * 3).to(dtype)
    content = pickles.storage(values)
    got = read_storage(content)
    assert got.dtype == dtype and torch.equal(got, values)
    again = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    assert torch.equal(got, torch.empty(0, dtype=dtype).set_(again.untyped(), 0, (7,), (1,)))


def test_strides_offsets_and_sharing_survive(tmp_path):
    content = pickles.storage(torch.arange(12.0))
    view = pickles.rebuilt(content, size=(3, 2), stride=(1, 4), offset=1)
    network = pickles.module("Generator", pickles.state({"a": view, "b": view}))
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(network)))
    tensors = read_checkpoint(path).tensors
    assert torch.equal(tensors["a"], torch.arange(12.0)[1:9].view(2, 4)[:, :3].t())
    assert tensors["a"].data_ptr() == tensors["b"].data_ptr()


def broken_discriminators():
    yield "unknown", pickles.Call("training.networks.Discriminator", 1, state={"x": 2})
    yield "no class", pickles.Call("torch_utils.persistence._reconstruct_persistent_obj", 7)
    bad = pickles.rebuilt(b"\x80\x02not a storage")
    yield "storage", pickles.module("Discriminator", pickles.state({"weight": bad}))
    hook = pickles.Call("dill._dill._create_function", b"code", {"f": 1})
    yield "hooks", pickles.module("Discriminator", pickles.state(forward=hook))
    method = pickles.Call("builtins.getattr", pickles.Name("timm.models.VisionTransformer"), "f")
    yield "methods", pickles.module("F", {"_forward_hooks": {0: method}})


@pytest.mark.parametrize("name, broken", list(broken_discriminators()))
def test_a_broken_discriminator_does_not_matter(tmp_path, name, broken):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(D=broken)))
    assert len(read_checkpoint(path).state_dict()) == 3
    path.write_bytes(pickles.dumps(pickles.checkpoint(broken, D=None)))
    if name == "hooks":
        with pytest.raises(GeneratorError, match="_create_function"):
            read_checkpoint(path).attribute("forward")
    elif name != "methods":
        with pytest.raises(GeneratorError):
            read_checkpoint(path)


def tiny_pickle(tmp_path, *args, mapping=(), synthesis=(), **kwargs):
    network = tiny_generator()
    mapping = {"num_layers": 2, **dict(mapping)}
    synthesis = {"channel_base": 64, "channel_max": 12.0, **dict(synthesis)}
    if not args:
        named = {"z_dim": 8, "c_dim": 3, "w_dim": 8, "img_resolution": 8, "img_channels": 1}
        kwargs = {**named, **kwargs}
    kwargs["mapping_kwargs"] = pickles.easy_dict(**mapping)
    kwargs["synthesis_kwargs"] = pickles.easy_dict(**synthesis)
    made = pickles.official(network, _init_args=args, _init_kwargs=kwargs)
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(made)))
    return read_checkpoint(path)


def test_positional_and_keyword_arguments_are_the_same(tmp_path):
    network = tiny_generator()
    for args in ((), (8, 3, 8, 8, 1)):
        settings, weights = stylegan2_from_record(tiny_pickle(tmp_path, *args))
        assert settings == network.settings
        assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())


def test_options_that_change_nothing_here_are_accepted(tmp_path):
    harmless = {"num_fp16_res": 4, "fused_modconv_default": "inference_only", "use_noise": True,
                "resample_filter": [1, 3, 3, 1], "activation": "lrelu"}  # fmt: skip
    record = tiny_pickle(
        tmp_path, mapping={"w_avg_beta": 0.9, "layer_features": None}, synthesis=harmless
    )
    assert stylegan2_from_record(record)[0] == tiny_generator().settings


@pytest.mark.parametrize(
    "where, name, value",
    [
        ("mapping", "activation", "relu"),
        ("mapping", "layer_features", 9),
        ("synthesis", "use_noise", False),
        ("synthesis", "resample_filter", [1, 2, 1]),
        ("synthesis", "sparkle", 1),
        ("top", "sparkle", 1),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(tmp_path, where, name, value):
    options = {name: value} if where == "top" else {where: {name: value}}
    with pytest.raises(GeneratorError, match=f"got {name}="):
        stylegan2_from_record(tiny_pickle(tmp_path, **options))


@pytest.mark.parametrize(
    "where, option, message",
    [
        ("mapping", {"num_layers": 3}, r"mapping\.fc2\.weight.*got none"),
        ("mapping", {"num_layers": 10**9}, "out of all proportion"),
        ("mapping", {"lr_multiplier": "x"}, "options are damaged"),
        ("synthesis", {"channel_max": 13}, r"b4\.const"),
        ("synthesis", {"channel_base": 2**70}, "out of all proportion"),
        ("synthesis", {"architecture": "orig"}, r"torgb.*expected none"),
        ("synthesis", {"architecture": ["skip"] * 9}, "no number or word"),
        ("synthesis", {"conv_clamp": "x"}, "conv_clamp"),
        ("top", {"img_resolution": 16}, "b16"),
        ("top", {"img_resolution": 2**30}, "out of all proportion"),
    ],
)
def test_options_that_do_not_fit_the_tensors(tmp_path, where, option, message):
    options = option if where == "top" else {where: option}
    with pytest.raises(GeneratorError, match=message):
        stylegan2_from_record(tiny_pickle(tmp_path, **options))


def test_other_families_are_no_stylegan2():
    record = read_checkpoint(golden_folder("sg3t_uncond64") / "network.pkl")
    with pytest.raises(GeneratorError, match="not a StyleGAN2 generator"):
        stylegan2_from_record(record)


def test_missing_things_are_named(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(pickles.network(f=pickles.Name("a.b")))))
    record = read_checkpoint(path)
    with pytest.raises(GeneratorError, match=r"'f': got refused a\.b"):
        record.attribute("f")
    with pytest.raises(GeneratorError, match="Did you mean 'z_dim'"):
        record.attribute("zdim")
    with pytest.raises(GeneratorError, match="Did you mean 'embed'"):
        record.child("embde")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "starts with b''"),
        (b"<html>", "starts with b'<html>'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs|version https"),
        (b"PK\x03\x04....", "convert_checkpoint"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "older format"),
        (b"\x80\x04]", "truncated"),
        (pickles.dumps([1, 2]), "the dict of networks"),
        (pickles.dumps({"model": 1}), "got 'model'"),
        (pickles.dumps((pickles.Call("dnnlib.tflib.network.Network", state={}),) * 3),
         "TensorFlow version.*got dnnlib.tflib.network.Network"),
    ],
)  # fmt: skip
def test_other_files_are_recognised(tmp_path, content, message):
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    with pytest.raises(GeneratorError, match=message):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(GeneratorError, match="cannot open"):
            read_checkpoint(path)
