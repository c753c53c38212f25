"""The kernels of CUDA, run on the host thread by thread, give what the references give."""

from __future__ import annotations

import ctypes
import itertools
import math

import pytest
import torch
from host_kernels import host_kernels

from generators.ops.bias_act import bias_act_reference
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.upfirdn2d import upfirdn2d_reference

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
ACTIVATE, RECORD, DERIVATIVE = 0, 1, 2


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return host_kernels(tmp_path_factory.mktemp("emulated"))


def at(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def ints(*values):
    flat = [int(v) for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return (ctypes.c_int * len(flat))(*flat)


def floats(*values):
    return (ctypes.c_float * len(values))(*values)


class Filtered:
    """One problem, forwards and backwards, as the bindings put it to the kernels."""

    def __init__(self, kernels, shape, dtype, taps, factors, padding, slope=0.2, clamp=None):
        self.kernels, self.dtype, self.planes = kernels, dtype, shape[0] * shape[1]
        self.channels, self.source = shape[1], shape[2:]
        self.first, self.second = taps
        self.up, self.down = factors
        left, right, top, bottom = padding
        self.pad = (top, left)
        self.raised = tuple(
            size * self.up + total - (len(self.first) - 1)
            for size, total in zip(self.source, (top + bottom, left + right), strict=True)
        )
        self.out = tuple(
            (size - (len(self.second) - 1) + self.down - 1) // self.down for size in self.raised
        )
        self.slope, self.clamp, self.gain = slope, clamp, math.sqrt(2) * self.up**2
        shape = (self.planes, self.raised[0], (self.raised[1] + 3) // 4)
        self.record = torch.full(shape, 255, dtype=torch.uint8)

    def call(self, x, out, bias, filters, factors, pad, offset, flip, act, threads):
        numbers = ints(
            self.planes, self.channels, tuple(x.shape[2:]), self.raised, tuple(out.shape[2:]),
            factors, tuple(len(f) for f in filters), pad, offset, flip, self.clamp is not None,
            DTYPES[self.dtype], act, threads,
        )  # fmt: skip
        forms = floats(self.gain, self.slope, self.clamp or 0)
        places = [at(t) for t in (x, bias, *filters, self.record, out)]
        answer = self.kernels.emulate_filtered(numbers, forms, *places)
        assert answer != 2, "a thread wrote outside of shared memory"
        return answer == 0

    def forward(self, x, bias, act=RECORD, threads=(32, False)):
        out = torch.full((*x.shape[:2], *self.out), math.nan, dtype=self.dtype)
        assert self.call(
            x, out, bias, (self.first, self.second), (self.up, self.down), self.pad, (0, 0),
            True, act, threads,
        )  # fmt: skip
        return out

    def backward(self, grad, threads=(32, False)):
        dx = torch.full((*grad.shape[:2], *self.source), math.nan, dtype=self.dtype)
        ahead = len(self.second) - 1
        offset = tuple(p - (len(self.first) - 1) for p in self.pad)
        assert self.call(
            grad, dx, None, (self.second, self.first), (self.down, self.up), (ahead, ahead),
            offset, False, DERIVATIVE, threads,
        )  # fmt: skip
        return dx


def near(got, want, dtype=torch.float32):
    assert got.isfinite().all()
    error = (got.to(want.dtype) - want).abs().max()
    assert float(error) <= TOLERANCE[dtype] * float(want.abs().max())


CASES = [
    # channels, height, width, up, down, taps, padding
    (3, 42, 42, 2, 2, 12, 12, (9, 8, 9, 8)),
    (2, 26, 26, 4, 2, 24, 12, (6, 3, 6, 3)),
    (2, 20, 37, 2, 4, 12, 24, (20, 21, 22, 23)),
    (2, 9, 70, 2, 2, 12, 12, (8, 9, 12, 10)),
    (2, 13, 11, 4, 2, 24, 12, (7, 21, 9, 20)),
    (2, 19, 18, 1, 1, 1, 1, (0, 0, 0, 0)),
    (2, 19, 18, 1, 2, 1, 12, (5, 6, 7, 8)),
    (2, 15, 14, 2, 1, 12, 1, (-3, 4, 5, -2)),
    (1, 15, 14, 3, 2, 8, 5, (5, 4, 3, 6)),
    (1, 40, 23, 1, 3, 5, 2, (2, 2, 2, 2)),
    (1, 9, 9, 4, 4, 32, 32, (30, 31, 32, 33)),
    (1, 1, 1, 2, 2, 12, 12, (21, 20, 19, 22)),
    (2, 33, 34, 2, 2, 12, 12, (-6, -7, -9, -4)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_filtered_lrelu(case, kernels, rng):
    channels, height, width, up, down, before, after, padding = case
    taps = tuple(torch.randn(n, generator=rng) / math.sqrt(n) for n in (before, after))
    for dtype, clamp in ((torch.float32, None), (torch.float32, 1.0)):
        x = torch.randn(2, channels, height, width, generator=rng).to(dtype)
        bias = torch.randn(channels, generator=rng).to(dtype).float()
        problem = Filtered(kernels, x.shape, dtype, taps, (up, down), padding, clamp=clamp)
        leaf = x.clone().requires_grad_()
        want = filtered_lrelu_reference(
            leaf, bias, up_kernel=taps[0], down_kernel=taps[1], up=up, down=down,
            padding=padding, clamp=clamp,
        )  # fmt: skip
        y = problem.forward(x, bias)
        near(y, want.detach())
        assert torch.equal(y, problem.forward(x, bias, ACTIVATE, (17, True)))
        written = problem.record.clone()
        assert torch.equal(y, problem.forward(x, bias, RECORD, (256, True)))
        assert torch.equal(written, problem.record)
        grad = torch.randn(want.shape, generator=rng)
        dx = problem.backward(grad)
        near(dx, torch.autograd.grad(want, leaf, grad)[0])
        assert torch.equal(dx, problem.backward(grad, (100, True)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [CASES[0], CASES[8]], ids=str)
def test_filtered_lrelu_at_16_bits(case, dtype, kernels, rng):
    channels, height, width, up, down, before, after, padding = case
    taps = tuple(torch.randn(n, generator=rng) / math.sqrt(n) for n in (before, after))
    x = torch.randn(1, channels, height, width, generator=rng).to(dtype)
    problem = Filtered(kernels, x.shape, dtype, taps, (up, down), padding, clamp=2.0)
    leaf = x.float().requires_grad_()
    want = filtered_lrelu_reference(
        leaf, up_kernel=taps[0], down_kernel=taps[1], up=up, down=down, padding=padding, clamp=2.0
    )
    near(problem.forward(x, None), want.detach(), dtype)
    grad = torch.randn(want.shape, generator=rng).to(dtype)
    near(problem.backward(grad), torch.autograd.grad(want, leaf, grad.float())[0], dtype)


def test_a_tile_that_fits_no_shared_memory_is_refused(kernels):
    taps = (torch.ones(300), torch.ones(300))
    problem = Filtered(kernels, (1, 1, 700, 700), torch.float32, taps, (1, 1), (0, 0, 0, 0))
    x = torch.zeros(1, 1, 700, 700)
    out = torch.zeros(1, 1, *problem.out)
    assert not problem.call(x, out, None, taps, (1, 1), (0, 0), (0, 0), True, ACTIVATE, (32, False))


@pytest.mark.parametrize("taps", [1, 4, 13, (4, 4), (3, 5)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (3, 2), (2, 3)])
def test_upfirdn2d(taps, up, down, kernels, rng):
    shape = taps if isinstance(taps, tuple) else (taps,)
    kernel = torch.randn(shape, generator=rng)
    size = (kernel.shape[0], kernel.shape[-1])
    for (height, width), padding, threads in (
        ((40, 75), (2, 1, 3, 0), (64, False)), ((14, 13), (-2, 9, 5, -1), (19, True)),
    ):  # fmt: skip
        left, right, top, bottom = padding
        x = torch.randn(1, 2, height, width, generator=rng).requires_grad_()
        if height * up + top + bottom < size[0] or width * up + left + right < size[1]:
            continue
        want = upfirdn2d_reference(x, kernel, up=up, down=down, padding=padding, gain=1.5)
        out = torch.full(want.shape, math.nan)

        def resample(source, result, pad, factors, flip, threads=threads):
            numbers = ints(
                2, tuple(source.shape[2:]), tuple(result.shape[2:]), size, pad, factors,
                kernel.ndim == 1, flip, threads,
            )  # fmt: skip
            gain = ctypes.c_float(1.5)
            places = [at(t) for t in (source, kernel, result)]
            answer = kernels.emulate_resample(numbers, gain, *places)
            assert answer == 0

        resample(x.detach(), out, (top, left), (up, down), True)
        near(out, want.detach())
        grad, dx = torch.randn(want.shape, generator=rng), torch.full(x.shape, math.nan)
        transposed = tuple(k - 1 - p for k, p in zip(size, (top, left), strict=True))
        resample(grad, dx, transposed, (down, up), False)
        near(dx, torch.autograd.grad(want, x, grad)[0])


@pytest.mark.parametrize(
    ("clamp", "last", "with_bias"),
    list(itertools.product([None, 0.8], [True, False], [True, False])),
)
def test_bias_act(clamp, last, with_bias, kernels, rng):
    x = torch.randn(3, 5, 7, 2, generator=rng)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(5, generator=rng) if with_bias else None
    leaf = x.clone().requires_grad_()
    want = bias_act_reference(leaf, bias, activation="lrelu", clamp=clamp)
    grad = want.detach().cos()
    scale = math.sqrt(2)
    forms = floats(scale, scale * 0.2, clamp or 0)
    count, inner = ctypes.c_int64(x.numel()), ctypes.c_int64(1 if last else 14)

    def run(grad, values, bias, of_result):
        y = torch.full_like(x, math.nan)
        kernels.emulate_bias_act(
            count, inner, ctypes.c_int64(5), forms, clamp is not None, of_result,
            at(grad), at(values), at(bias), at(y),
        )  # fmt: skip
        return y

    y = run(None, x, bias, False)
    near(y, want.detach())
    (dx,) = torch.autograd.grad(want, leaf, grad)
    near(run(grad, x, bias, False), dx)
    near(run(grad, y, None, True), dx)


@pytest.mark.parametrize("clamp", [None, 0.8])
def test_activation_of_raised_planes(clamp, kernels, rng):
    for width in (4, 7, 13):
        x = torch.randn(1, 3, 5, width, generator=rng).requires_grad_()
        want = filtered_lrelu_reference(x, slope=0.3, gain=-1.5, clamp=clamp)
        record = torch.zeros(3, 5, (width + 3) // 4, dtype=torch.uint8)
        grad = torch.randn(x.shape, generator=rng)
        for act, values, expected in (
            (RECORD, x.detach().clone(), want.detach()),
            (ACTIVATE, x.detach().clone(), want.detach()),
            (DERIVATIVE, grad.clone(), torch.autograd.grad(want, x, grad)[0]),
        ):
            kernels.emulate_raised(
                ctypes.c_int64(3), 5, width, floats(-1.5, 0.3, clamp or 0), clamp is not None,
                act, at(values), at(record),
            )  # fmt: skip
            near(values, expected)
