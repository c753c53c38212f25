"""Kernels for CUDA compile for every GPU they are meant for and, on one, equal the references."""

from __future__ import annotations

import functools
import math
import subprocess

import pytest
import torch
from native_ops import need_native

from generators.ops import bias_act, filtered_lrelu, upfirdn2d
from generators.ops.bias_act import bias_act_reference
from generators.ops.filtered_lrelu import filtered_lrelu_reference
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
    quick = ["-Xptxas=-O0", "-Xcicc=-O1", "--threads=2", "-fatbin"]
    targets = [flag for flag in recipe.flags if not flag.startswith("-O")]
    kernels = [path for path in recipe.sources if path.suffix == ".cu"]
    assert kernels
    for source in kernels:
        command = [*recipe.compiler, *targets, *quick, *recipe.includes, str(source)]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        assert (tmp_path / "out").stat().st_size > 10_000


def test_bindings_are_valid(recipe, tmp_path):
    """What puts tensors to the kernels has no error; with the types of torch, but no code."""
    bindings = [path for path in recipe.sources if path.suffix == ".cpp"]
    assert bindings
    for source in bindings:
        only_read = ["-Xcompiler=-fsyntax-only", "-c", "-o", str(tmp_path / "out")]
        command = [*recipe.compiler, "-std=c++20", *recipe.includes, *only_read]
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_filtered_lrelu_on_a_gpu(dtype, layout, gpu, rng):
    for up, down, before, after, padding in (
        (2, 2, (12,), (12,), (9, 8, 9, 8)), (4, 2, (24,), (12,), (6, 3, 6, 3)),
        (2, 2, (12,), (12, 12), (9, 8, 9, 8)), (1, 3, (3, 5), (2,), (2, 1, 3, -1)),
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
    assert filtered_lrelu(x[:0], up_kernel=kernels[0]).shape[0] == 0


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_resampling_and_bias_on_a_gpu(dtype, layout, gpu, rng):
    x, bias = draw((3, 7, 70, 33), dtype, gpu, rng, layout), draw((7,), dtype, gpu, rng)
    for shape in ((4,), (4, 4), (13,)):
        kernel = draw(shape, torch.float32, gpu, rng)
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
