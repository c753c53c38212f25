"""What is no checkpoint of a StyleGAN is told for what it is, in one line, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from test_rosinality import make_weights

from generators import read_generator
from generators.checkpoints import inspect_checkpoint
from hpd.errors import GeneratorError


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return content.getvalue()


def torch_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.ones(3), b=np.ones(2))
    return file.getvalue()


def npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("network.pkl"))
    return file.getvalue()


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, kind)
    return file.getvalue()


def state(*names):
    return torch_bytes({name: torch.ones(2) for name in names})


WHOLE = torch_bytes({"g_ema": make_weights(4)})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 381624121\n"
FILES = {
    "empty": (b"", "an empty file"),
    "zeros": (b"\0" * 5000, "nothing but zeros"),
    "page": (b"<!DOCTYPE html><html>Google Drive</html>", "a web page"),
    "page with a mark": (b"\xef\xbb\xbf\n <HTML lang=en>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error/>", "a web page"),
    "pointer": (POINTER, "pointer of Git LFS to a file of 381,624,121 bytes"),
    "json": (b'{"error": "rate limit"}', "a text that starts with '{\"error\""),
    "text": (b"not found\n", "a text that starts with 'not found"),
    "gz": (gzip.compress(WHOLE), "a gzip archive"),
    "bz2": (bz2.compress(WHOLE), "a bzip2 archive"),
    "xz": (lzma.compress(WHOLE), "an xz archive"),
    "tar": (tar(), "a tar archive"),
    "zip": (zipped(network__pkl=b"x", readme__md=b"y"), "2 files: network.pkl, readme.md"),
    "zip of nothing": (zipped(), "a zip archive of no files"),
    "npz": (npz(), "NumPy's .npz of 2 files: a.npy, b.npy"),
    "npy": (npy(), "a single NumPy array"),
    "png": (picture("png"), "a PNG picture"),
    "jpeg": (picture("jpeg"), "a JPEG picture"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "an HDF5 file"),
    "gguf": (b"GGUF\3\0\0\0", "a GGUF file"),
    "noise": (bytes(range(255, 200, -1)), "a file that starts with"),
    "truncated zip": (WHOLE[: len(WHOLE) // 2], "truncated or damaged"),
    "truncated safetensors": (save({"a": torch.ones(3)})[:40], "truncated safetensors"),
    "short safetensors": (save({"a": torch.ones(30)})[:-40], "safetensors file is truncated"),
    "nothing in it": (torch_bytes({"epoch": 3}), "no tensors at all"),
    "one tensor": (torch_bytes(torch.ones(3)), "1 tensors in (the top of the file)"),
    "unet": (
        state("down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.norm.weight"),
        "a network of a diffusion model: 2 tensors in down_blocks.0, mid_block.attentions",
    ),
    "vae": (
        save({"decoder.mid_block.resnets.0.conv1.weight": torch.ones(2)}),
        "a network of a diffusion model",
    ),
    "lucidrains": (
        torch_bytes({"GAN": {"GE.blocks.0.to_style1.weight": torch.ones(2)}, "version": "1"}),
        "lucidrains/stylegan2-pytorch",
    ),
    "discriminator": (
        torch_bytes({"d": {"final_linear.0.weight": torch.ones(2)}}), "a discriminator",
    ),
    "stylegan3": (
        state("mapping.fc0.weight", "synthesis.input.freqs", "synthesis.input.weight"),
        "a StyleGAN3 without its options",
    ),
    "classifier": (
        torch_bytes({"state_dict": {f"layer{i}.conv.weight": torch.ones(1) for i in range(99)}}),
        "99 tensors in state_dict.layer0, state_dict.layer1, state_dict.layer2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_stranger_is_told_for_what_it_is(tmp_path, name):
    content, what = FILES[name]
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(content)
    with pytest.raises(GeneratorError) as told:
        read_generator(path)
    message = str(told.value)
    assert what in message and "checkpoint.pkl" in message
    assert "\n" not in message and len(message) <= 600


@pytest.mark.parametrize("name", [n for n in FILES if n not in ("json", "text", "noise")])
def test_what_to_do_about_a_stranger_is_said(tmp_path, name):
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(FILES[name][0])
    with pytest.raises(GeneratorError) as told:
        read_generator(path)
    assert told.value.fix.partition(" ")[0] in (
        "Give",
        "Save",
        "Unpack",
        "Download",
        "Fetch",
        "hpd",
    )


@pytest.mark.parametrize("name", FILES)
def test_a_stranger_can_be_inspected(tmp_path, name):
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(FILES[name][0])
    assert inspect_checkpoint(path).total_bytes == len(FILES[name][0])


def test_the_names_in_safetensors_are_listed(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a.x": torch.ones(1), "a.y": torch.ones(1), "b": torch.ones(1)}))
    found = inspect_checkpoint(path)
    assert (found.format, found.keys, found.problem) == ("safetensors", ("a", "b"), None)


def test_a_folder_without_a_generator_is_told_with_the_checkpoints_in_it(tmp_path):
    (tmp_path / "network.pkl").write_bytes(WHOLE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(GeneratorError, match=r"network\.pkl, notes\.txt.*such as network\.pkl"):
        read_generator(tmp_path)


def test_a_pipeline_of_diffusers_is_told(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(GeneratorError, match="a pipeline of diffusers"):
        read_generator(tmp_path)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(GeneratorError, match="no folder of a generator: got nothing in it"):
        read_generator(tmp_path)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", "~nobody-of-that-name/g", "", ".", "a\nb\x1b[31m", "x/" * 1500]
)
def test_impossible_names_are_one_line(name):
    with pytest.raises(GeneratorError) as told:
        read_generator(name)
    message = str(told.value)
    assert message.isprintable() and len(message) <= 600


@pytest.mark.parametrize("name", [None, 3, b"digits16", ["digits16"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(GeneratorError, match="named by text or a path: got"):
        read_generator(name)


def test_json_beside_no_weights_is_no_checkpoint(tmp_path):
    path = tmp_path / "generator.json"
    path.write_text(json.dumps({"version": 1}))
    with pytest.raises(GeneratorError, match="a text that starts with"):
        read_generator(path)
