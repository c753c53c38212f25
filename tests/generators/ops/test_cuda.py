"""Kernels for CUDA compile for every GPU they are meant for and, on one, equal the references."""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess

import pytest
import torch
from native_ops import need_native

from generators.ops import bias_act, filtered_lrelu, upfirdn2d
from generators.ops.bias_act import bias_act_reference
from generators.ops.build import _compile
from generators.ops.cuda import nvrtc
from generators.ops.cuda.driver import Driver, OnDevice
from generators.ops.cuda.kernels import RAISED, every_kernel
from generators.ops.cuda.launches import Operations
from generators.ops.cuda.tiles import Room
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.native import load
from generators.ops.toolchain import ARCHS, read_recipe
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import OpsError

TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv(ARCHS, "80;90;100")
    try:
        return read_recipe("cuda")
    except OpsError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_kernels_compile(recipe, tmp_path):
    """All that runs on a GPU, for three generations; without optimisation, to be quick."""
    quick = ["-Xptxas=-O0", "-Xcicc=-O1", "--threads=2", "--no-compress"]
    flags = [flag for flag in recipe.flags if not flag.startswith("-O")]
    (source,) = recipe.sources
    command = [*recipe.compiler, *flags, *quick, *recipe.includes, str(source)]
    library = tmp_path / recipe.library
    done = subprocess.run(
        [*command, "-o", str(library)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    load(library)
    content = library.read_bytes()
    for kernel in every_kernel():
        # once for each of the three
        assert content.count(kernel.name.encode() + b"\0") >= 3, kernel.name


def test_a_library_is_built_in_one_go(recipe, tmp_path):
    """Of a part of the kernels: what nvcc and ninja are told is right."""
    source = tmp_path / "one.cu"
    source.write_text(f'#include "cuda/kernels.h"\n{RAISED.definition}\n')
    one = dataclasses.replace(recipe, sources=(source,))
    assert _compile(one, tmp_path, 200) is None
    load(tmp_path / recipe.library)
    assert RAISED.name.encode() in (tmp_path / recipe.library).read_bytes()


@pytest.fixture
def gpu(monkeypatch):
    need_native(monkeypatch, "cuda")
    return torch.device("cuda")


def agree(native, reference, *inputs):
    """Compare results and gradients with the reference's in float32 on the same values."""
    dtype = inputs[0].dtype
    leaves = [t.detach().requires_grad_() for t in inputs]
    twins = [t.detach().float().requires_grad_() for t in inputs]
    got, want = native(*leaves), reference(*twins)
    assert (got.dtype, got.shape) == (dtype, want.shape)
    probe = torch.linspace(-1, 1, got.numel(), device=got.device).reshape(got.shape).to(dtype)
    pairs = zip(
        (got, *torch.autograd.grad(got, leaves, probe)),
        (want, *torch.autograd.grad(want, twins, probe.float())),
        strict=True,
    )
    for value, twin in pairs:
        error, scale = (value.float() - twin).abs().max(), twin.abs().max()
        assert float(error) <= TOLERANCE[dtype] * float(scale)


def draw(shape, dtype, device, rng, layout=torch.contiguous_format):
    return torch.randn(shape, generator=rng).to(device, dtype).contiguous(memory_format=layout)


def with_scales(function):
    def scaled(x, bias, before, after):
        return function(x, bias, before=before, after=after)

    return scaled


def scales_of(x, rng):
    """Bias, and scales before and after."""
    shapes = (x.shape[1:2], x.shape[:2], x.shape[:2])
    return [draw(shape, x.dtype, x.device, rng) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_filtered_lrelu_on_a_gpu(dtype, layout, gpu, rng):
    for up, down, before, after, padding in (
        (2, 2, (12,), (12,), (9, 8, 9, 8)), (4, 2, (24,), (12,), (6, 3, 6, 3)),
        (2, 2, (12,), (12, 12), (9, 8, 9, 8)), (4, 2, (24,), (12, 12), (6, 3, 6, 3)),
        (1, 3, (3, 5), (2,), (2, 1, 3, -1)),
        (1, 1, (1,), (1,), (0, 0, 0, 0)),
    ):  # fmt: skip
        kernels = [
            draw(shape, torch.float32, gpu, rng) / math.sqrt(math.prod(shape))
            for shape in (before, after)
        ]
        for clamp, slope, gain in ((None, 0.2, 1.4), (0.9, 0.2, 1.4), (0.9, -0.5, -1.0)):
            options = {
                "up_kernel": kernels[0], "down_kernel": kernels[1], "up": up, "down": down,
                "padding": padding, "clamp": clamp, "slope": slope, "gain": gain,
            }  # fmt: skip
            both = [
                functools.partial(f, **options) for f in (filtered_lrelu, filtered_lrelu_reference)
            ]
            x = draw((2, 5, 42, 37), dtype, gpu, rng, layout)
            agree(*both, x, draw((5,), dtype, gpu, rng))
            agree(*(with_scales(f) for f in both), x, *scales_of(x, rng))
    assert filtered_lrelu(x[:0], up_kernel=kernels[0]).shape[0] == 0


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_resampling_and_bias_on_a_gpu(dtype, layout, gpu, rng):
    x, bias = draw((3, 7, 70, 33), dtype, gpu, rng, layout), draw((7,), dtype, gpu, rng)
    product = torch.outer(torch.arange(1.0, 5), torch.arange(2.0, 6)).to(gpu)
    for kernel in (*(draw(s, torch.float32, gpu, rng) for s in ((4,), (4, 4), (13,))), product):
        for up, down in ((1, 1), (2, 1), (1, 2), (3, 2)):
            options = {"kernel": kernel, "up": up, "down": down, "padding": (6, 7, 8, 5)}
            agree(*(functools.partial(f, **options) for f in (upfirdn2d, upfirdn2d_reference)), x)
    for clamp, gain in ((None, 1.0), (0.7, 0.5), (0.7, 1.0)):
        options = {"activation": "lrelu", "clamp": clamp, "gain": gain}
        agree(*(functools.partial(f, **options) for f in (bias_act, bias_act_reference)), x, bias)


def test_kernels_run_on_the_stream_and_device_of_their_input(gpu, rng):
    x = draw((2, 8, 64, 64), torch.float32, gpu, rng)
    want = bias_act(x, activation="lrelu")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = bias_act(x, activation="lrelu")
    stream.synchronize()
    assert torch.equal(got, want)


def test_tiles_of_every_size_agree_on_a_gpu(gpu, rng):
    """Whatever of its shared memory a card lets a block have."""
    x = draw((1, 4, 84, 84), torch.float32, gpu, rng)
    taps = draw((12,), torch.float32, gpu, rng)
    driver = Driver.of_system()
    card, found = driver.room(gpu.index or 0), []
    for kib in (48, 64, 99, 163, 227):
        if kib * 1024 <= card.shared_bytes:
            start = OnDevice(driver, nvrtc.code_of)
            start._rooms[gpu.index or 0] = Room(kib * 1024, 1)
            options = (taps, taps, 2, 2, (11, 10, 11, 10), 1.4, 0.2, None, True)
            found.append(Operations(start).filtered_lrelu(x, None, *options)[0])
    assert all(torch.equal(y, found[0]) for y in found)


def test_double_backward_on_a_gpu(gpu, rng):
    taps = draw((12,), torch.float32, gpu, rng) / 4
    x = draw((1, 3, 12, 12), torch.float32, gpu, rng)
    inputs = [x, *scales_of(x, rng)]
    options = {"up_kernel": taps, "down_kernel": taps, "up": 2, "down": 2, "clamp": 5.0}

    def second(function):
        leaves = [t.detach().requires_grad_() for t in inputs]
        y = with_scales(functools.partial(function, padding=(9, 8, 9, 8), **options))(*leaves)
        grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)

    for got, want in zip(second(filtered_lrelu), second(filtered_lrelu_reference), strict=True):
        assert float((got - want).abs().max()) <= 1e-3 * float(want.abs().max())
