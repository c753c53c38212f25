"""Kernels without nvcc: NVRTC compiles them all, and what starts them puts the same problems."""

from __future__ import annotations

import ctypes
import itertools
import math

import pytest
import torch
from host_kernels import host_kernels

from generators.ops import nvrtc
from generators.ops.bias_act import bias_act_reference
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.launches import Operations
from generators.ops.plans import (
    BiasActPlan,
    FilteredPlan,
    RaisedPlan,
    ResamplePlan,
    set_pairs,
)
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import OpsError

needs_nvrtc = pytest.mark.skipif(nvrtc.available() is None, reason="no NVRTC")
TYPES = ("float", "hpd::Half", "hpd::BFloat16")
ACTS = ("kActivate", "kRecord", "kDerivative")
FILTERS = ("2, 2, 12, 12", "4, 2, 24, 12", "2, 4, 12, 24", "0, 0, 0, 0")
EVERY = [
    *(f"hpd::filtered_kernel<{t}, hpd::Act::{a}, {f}>"
      for t, a, f in itertools.product(TYPES, ACTS, FILTERS)),
    *(f"hpd::resample_kernel<{t}, {f}>"
      for t, f in itertools.product(TYPES, ("1, 1", "2, 1", "1, 2", "0, 0"))),
    *(f"hpd::bias_act_kernel<{t}>" for t in TYPES),
    "hpd::raised_kernel<0>",
]  # fmt: skip
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_every_kernel_compiles_without_nvcc(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    made = nvrtc.compiled(EVERY, arch)
    assert set(made.names) == set(EVERY)
    assert made.code[:4] == b"\x7fELF"
    assert all(name.encode() in made.code for name in made.names.values())


@needs_nvrtc
def test_what_was_compiled_is_kept_and_compiled_again_if_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(tmp_path))
    compiled, calls = nvrtc._compile, []
    monkeypatch.setattr(nvrtc, "_compile", lambda *a: calls.append(a) or compiled(*a))
    kernel = ["hpd::raised_kernel<0>"]
    first = nvrtc.compiled(kernel, "90")
    assert nvrtc.compiled(kernel, "90") == first
    nvrtc.compiled(kernel, "80")
    assert [arch for _, arch in calls] == ["90", "80"]
    for path in tmp_path.rglob("*.cubin"):
        path.write_bytes(b"damaged")
    assert nvrtc.compiled(kernel, "90") == first
    assert len(calls) == 3


@needs_nvrtc
def test_what_nvrtc_says_of_a_mistake_is_told(monkeypatch):
    broken = (("kernels.h", b"int broken( {"),)
    monkeypatch.setattr(nvrtc, "_headers", lambda: broken)
    with pytest.raises(OpsError, match="does not compile the kernels for sm_90") as error:
        nvrtc._compile(["hpd::raised_kernel<0>"], "90")
    assert "error" in error.value.lines[0]


def test_without_its_package_there_is_none(monkeypatch):
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: None)
    assert nvrtc.available() is None


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The kernels, compiled for the host."""
    return host_kernels(tmp_path_factory.mktemp("emulated"))


class OnHost:
    """Starts kernels on the host, by the arguments that a GPU would have got."""

    def __init__(self, host):
        self.host, self.started = host, []

    def __call__(self, launch, like):
        assert launch.kernel in EVERY
        self.started.append(launch)
        plan, *rest = launch.arguments
        dtype = DTYPES[like.dtype]
        if "filtered" in launch.kernel:
            (t,) = rest
            act = next(i for i, name in enumerate(ACTS) if name in launch.kernel)
            said = self.host.emulate_filtered_plan(
                ctypes.byref(plan), dtype, act, *(ctypes.c_void_p(getattr(t, name)) for name in
                ("source", "bias", "first", "second", "record", "result"))
            )  # fmt: skip
            assert (said, launch.shared_bytes) == (0, 4 * plan.shared_floats)
        elif "resample" in launch.kernel:
            assert self.host.emulate_resample_plan(ctypes.byref(plan), dtype, *rest) == 0
        elif "bias_act" in launch.kernel:
            along, x, offsets, y, _ = rest
            self.host.emulate_bias_act_plan(ctypes.byref(plan), dtype, along, x, offsets, y)
        else:
            self.host.emulate_raised_plan(ctypes.byref(plan), *rest)
        assert launch.blocks > 0


@pytest.fixture
def on_host(host):
    return OnHost(host)


def values(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_plans_are_laid_out_as_in_the_kernels(host):
    plans = (FilteredPlan, ResamplePlan, BiasActPlan, RaisedPlan)
    assert [ctypes.sizeof(plan) for plan in plans] == [host.plan_size(i) for i in range(4)]


@pytest.mark.parametrize("result", [(1, 1), (7, 33), (32, 36), (64, 61), (130, 5)])
@pytest.mark.parametrize("factors", [(1, 1, 1, 1), (2, 2, 12, 12), (4, 2, 24, 12), (2, 4, 12, 24),
                                     (3, 2, 7, 5), (8, 8, 96, 96)])  # fmt: skip
def test_tiles_are_those_that_the_kernels_choose(host, result, factors):
    up, down, first, second = factors
    plan = FilteredPlan(planes=6, channels=3, up=up, down=down, first_taps=first,
                        second_taps=second, gain=1.0, slope=0.2)  # fmt: skip
    set_pairs(plan, source=(9, 9), raised=(40, 40), result=result)
    theirs = FilteredPlan.from_buffer_copy(plan)
    assert plan.fit() == bool(host.fit_filtered(ctypes.byref(theirs)))
    if plan.fit():
        assert bytes(plan) == bytes(theirs)
    for separable in (True, False):
        plan = ResamplePlan(planes=6, up=up, down=down, separable=separable, gain=1.0)
        set_pairs(plan, source=(9, 9), result=result, taps=(first, first), pad=(1, 2))
        theirs = ResamplePlan.from_buffer_copy(plan)
        assert plan.fit() == bool(host.fit_resample(ctypes.byref(theirs)))
        if plan.fit():
            assert bytes(plan) == bytes(theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("last", [False, True])
def test_bias_and_activation(on_host, dtype, clamp, last):
    x, bias = values(2, 3, 5, 7, dtype=dtype), values(3, seed=1)
    if last:
        x = x.to(memory_format=torch.channels_last)
    operations = Operations(on_host)
    got = operations.bias_act(x, bias, math.sqrt(2), 0.2, clamp)
    leaf = x.clone().float().requires_grad_()
    want = bias_act_reference(leaf, bias, activation="lrelu", clamp=clamp)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(got.float(), want, **close)
    assert got.is_contiguous(memory_format=torch.channels_last) == last
    grad = values(*x.shape, seed=2)
    want.backward(grad)
    back = operations.bias_act_slope(grad.to(dtype), x, bias, math.sqrt(2), 0.2, clamp, False)
    near = (want.detach().abs() - (clamp or 9)).abs() < 0.02
    torch.testing.assert_close(back.float()[~near], leaf.grad[~near], **close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("up", "down", "taps"), [(1, 1, 4), (2, 1, 4), (1, 2, 4), (3, 2, 5)])
@pytest.mark.parametrize("matrix", [False, True])
def test_resampling(on_host, dtype, up, down, taps, matrix):
    kernel = values(taps, seed=3).abs()
    kernel = torch.outer(kernel, kernel) if matrix else kernel
    x, pad = values(2, 3, 9, 11, dtype=dtype), (taps, taps - 1, taps, taps - 1)
    want = upfirdn2d_reference(x.float(), kernel, up=up, down=down, padding=pad)
    got = Operations(on_host).upfirdn2d(
        x, kernel, up, down, (taps, taps), want.shape[2:], 1.0, True
    )
    scale = float(want.abs().max())
    torch.testing.assert_close(
        got.float() / scale, want / scale, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("factors", [(2, 2, 12, 12), (4, 2, 24, 12), (3, 2, 7, 5)])
def test_filtered_activation_and_its_derivative(on_host, dtype, matrix, clamp, factors):
    """Fused where filters are vectors, in three steps where one is a matrix."""
    up, down, first_taps, second_taps = factors
    first, second = values(first_taps, seed=4).abs(), values(second_taps, seed=5).abs()
    first, second = first / first.sum(), second / second.sum()
    if matrix:
        second = torch.outer(second, second)
    x, bias = values(2, 3, 10, 9, dtype=dtype), values(3, seed=6)
    padding, operations = (first_taps, first_taps, 9, 10), Operations(on_host)
    y, record = operations.filtered_lrelu(
        x, bias, first, second, up, down, padding, math.sqrt(2), 0.2, clamp, True
    )
    leaf = x.float().requires_grad_()
    want = filtered_lrelu_reference(
        leaf, bias, up_kernel=first, down_kernel=second, up=up, down=down, padding=padding,
        gain=math.sqrt(2), slope=0.2, clamp=clamp,
    )  # fmt: skip
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(y.float(), want.detach(), **close)
    plain, none = operations.filtered_lrelu(
        x, bias, first, second, up, down, padding, math.sqrt(2), 0.2, clamp, False
    )
    assert torch.equal(plain, y)
    assert none.numel() == 0
    fused = [launch for launch in on_host.started if "filtered" in launch.kernel]
    assert bool(fused) is not matrix
    if dtype != torch.float32:
        return
    grad = values(*want.shape, seed=7)
    want.backward(grad)
    raised = tuple(
        x.shape[2 + i] * up + sum(padding[2 - 2 * i : 4 - 2 * i]) - (first_taps - 1)
        for i in range(2)
    )
    back, sums = operations.filtered_mask(
        grad, record, second, first, down, up, (second_taps - 1, second_taps - 1),
        (padding[2] - (first_taps - 1), padding[0] - (first_taps - 1)), raised, x.shape[2:],
        math.sqrt(2) * up**2, 0.2, clamp is not None, False, True,
    )  # fmt: skip
    torch.testing.assert_close(back, leaf.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sums, back.sum(dim=(2, 3)), rtol=1e-4, atol=1e-4)


def test_nothing_is_started_for_nothing(on_host):
    empty = torch.empty(0, 3, 4, 4)
    operations = Operations(on_host)
    assert operations.bias_act(empty, None, 1.0, 0.2, None).shape == empty.shape
    assert operations.upfirdn2d(empty, torch.ones(1), 1, 1, (0, 0), (4, 4), 1.0, True).numel() == 0
    assert not on_host.started


def test_a_filter_that_fits_no_tile_is_refused(on_host):
    with pytest.raises(OpsError, match="too large"):
        Operations(on_host).upfirdn2d(
            values(1, 1, 4, 4), torch.ones(200, 200), 1, 1, (100, 100), (4, 4), 1.0, True
        )
