"""Kernels without nvcc: NVRTC compiles them all, to what they are meant to be."""

from __future__ import annotations

import re

import pytest
import torch

from generators.ops.cuda import kernels, nvrtc
from generators.ops.cuda.kernels import every_kernel
from generators.ops.toolchain import CSRC
from hpd.errors import OpsError

needs_nvrtc = pytest.mark.skipif(nvrtc.available() is None, reason="no NVRTC")


@needs_nvrtc
def test_every_kernel_compiles_without_nvcc(tmp_path, monkeypatch):
    """For the oldest of the kinds that are asked for: what it compiles, newer ones do."""
    monkeypatch.setenv("HPD_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    every = every_kernel()
    made = nvrtc.compiled(every, "80")
    assert made[:4] == b"\x7fELF"
    assert all(kernel.name.encode() + b"\0" in made for kernel in every)


def test_nvcc_is_given_the_same_kernels():
    """The source of a library has every kernel that is ever asked for, and no other."""
    lines = (CSRC / "cuda" / "kernels.cu").read_text("utf-8").splitlines()
    defined = [line for line in lines if line.startswith("HPD_")]
    assert defined == [kernel.definition for kernel in every_kernel()]
    assert len({kernel.name for kernel in every_kernel()}) == len(defined)


def test_what_is_chosen_for_a_layer_is_there():
    known = {kernel.name for kernel in every_kernel()}
    for dtype in kernels.DTYPES:
        for act in kernels.ACTS:
            for factors in ((2, 2, 12, 12), (4, 2, 24, 12), (2, 4, 12, 24), (3, 2, 7, 0)):
                for full in ("kNeither", "kFirst", "kSecond", "kAsked"):
                    assert kernels.filtered(dtype, act, factors, full).name in known
        for rates in ((1, 1), (2, 1), (1, 2), (4, 3)):
            assert kernels.resample(dtype, *rates).name in known
    # layers of StyleGAN3-R have kernels of their own, both ways
    assert (
        "second_4_2_24_12"
        in kernels.filtered(torch.float32, "kRecord", (4, 2, 24, 12), "kSecond").name
    )
    assert (
        "first_2_4_12_24"
        in kernels.filtered(torch.float32, "kDerivative", (2, 4, 12, 24), "kFirst").name
    )


def ptx_of(kernel):
    """A kernel in the language between C++ and a GPU's own, for people to read."""
    found = nvrtc._nvrtc()
    names, contents = zip(*nvrtc._headers(), strict=True)
    source = nvrtc._source([kernel]).encode()
    names = [name.encode() for name in names]
    _, program = found.nvrtcCreateProgram(source, b"hpd.cu", len(names), list(contents), names)
    flags = [flag.encode() for flag in (*nvrtc._FLAGS, "--gpu-architecture=compute_90")]
    assert not int(found.nvrtcCompileProgram(program, len(flags), flags)[0])
    text = b" " * found.nvrtcGetPTXSize(program)[1]
    found.nvrtcGetPTX(program, text)
    found.nvrtcDestroyProgram(program)
    return text.decode()


@needs_nvrtc
@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
def test_bias_act_divides_nothing(dtype):
    text = ptx_of(kernels.bias_act(dtype))
    assert re.findall(r"\b(?:div|rem)\.\w+", text) == []
    assert len(re.findall(r"\bmul\.hi\.u64", text)) >= 2


@needs_nvrtc
def test_what_threads_keep_lies_in_registers():
    """An array that is indexed by what is not known would lie in memory."""
    for kernel in every_kernel():
        if "bfloat16" in kernel.name or kernel is kernels.RAISED:
            assert ".local" not in ptx_of(kernel), kernel.name


@needs_nvrtc
def test_what_was_compiled_is_kept_and_compiled_again_if_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(tmp_path))
    compiled, calls = nvrtc._compile, []
    monkeypatch.setattr(nvrtc, "_compile", lambda *a: calls.append(a) or compiled(*a))
    kernel = [kernels.RAISED]
    first = nvrtc.compiled(kernel, "90")
    assert nvrtc.compiled(kernel, "90") == first
    nvrtc.compiled(kernel, "80")
    assert [arch for _, arch in calls] == ["90", "80"]
    for path in tmp_path.rglob("*.cubin"):
        path.write_bytes(b"damaged")
    assert nvrtc.compiled(kernel, "90") == first
    assert len(calls) == 3


@needs_nvrtc
def test_code_is_made_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, index))
    asked = []
    monkeypatch.setattr(nvrtc, "_compile", lambda *a: asked.append(a) or b"code")
    assert nvrtc.code_of(kernels.RAISED, 6) == ("hpd_raised", b"code")
    assert asked == [([kernels.RAISED], "86")]


@needs_nvrtc
def test_what_nvrtc_says_of_a_mistake_is_told(monkeypatch):
    broken = (("kernels.h", b"int broken( {"),)
    monkeypatch.setattr(nvrtc, "_headers", lambda: broken)
    with pytest.raises(OpsError, match="does not compile the kernels for sm_90") as error:
        nvrtc._compile([kernels.RAISED], "90")
    assert "error" in error.value.lines[0]


def test_without_its_package_there_is_none(monkeypatch):
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: None)
    assert nvrtc.available() is None
