"""Native kernels against the references: every dtype, layout, factor, padding and filter."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from native_ops import need_native
from torch.autograd import gradcheck, gradgradcheck

from generators.ops import bias_act, filtered_lrelu, upfirdn2d
from generators.ops.bias_act import bias_act_reference
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import ShapeError

DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: x.repeat_interleave(2, dim=3)[:, :, :, ::2],
    "channels_first_of_all": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:, :, :1].expand_as(x),
}


@pytest.fixture(autouse=True)
def native(monkeypatch):
    need_native(monkeypatch, "cpu")


def agree(native, reference, dtype, *inputs):
    """Compare results and gradients with those of the reference on the same values.

    The reference of 16-bit inputs runs in float32, as the kernels do their sums.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = [t.detach().requires_grad_() for t in inputs]
    twins = [t.detach().to(exact).requires_grad_() for t in inputs]
    got, want = native(*leaves), reference(*twins)
    assert "hpd" in got.grad_fn.name().lower(), "the reference ran"
    assert (got.dtype, got.shape) == (dtype, want.shape)
    assert_near(got, want, dtype)
    if got.numel() == 0:
        return
    probe = torch.linspace(-1, 1, got.numel()).reshape(got.shape).to(dtype)
    grads = torch.autograd.grad(got, leaves, probe)
    for leaf, grad, twin in zip(
        leaves, grads, torch.autograd.grad(want, twins, probe.to(exact)), strict=True
    ):
        assert (grad.dtype, grad.shape) == (leaf.dtype, leaf.shape)
        assert_near(grad, twin, dtype)


def assert_near(got, want, dtype):
    scale = float(want.detach().abs().max()) if want.numel() else 0.0
    error = float((got.detach().to(want.dtype) - want.detach()).abs().max()) if scale else 0.0
    assert error <= DTYPES[dtype] * scale, f"{error} of {scale}"


def draw(shape, dtype, rng, layout="contiguous"):
    return LAYOUTS[layout](torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype))


# up, down, padding, taps before, taps after: 0 for none, (h, w) for a matrix
CASES = [
    (2, 2, (9, 8, 9, 8), 12, 12),
    (4, 2, (6, 3, 6, 3), 24, 12),
    (2, 2, (9, 8, 9, 8), 12, (12, 12)),
    (2, 4, (9, 8, 2, 5), 8, 6),
    (1, 1, (0, 0, 0, 0), 0, 0),
    (1, 2, (2, 3, 1, 0), 3, 0),
    (3, 1, (4, 3, 2, 5), 4, 3),
    (2, 3, (5, 2, 8, 4), 5, 7),
    (2, 1, (-2, 3, 4, -3), (4, 4), 3),
    (4, 4, (7, 7, 7, 7), 3, 3),
    (1, 4, (3, 3, 3, 3), (3, 3), (2, 2)),
    (2, 2, (-6, -5, -3, -6), 3, 2),
]


def kernel_of(taps, rng):
    if taps == 0:
        return None
    shape = taps if isinstance(taps, tuple) else (taps,)
    return torch.randn(shape, generator=rng) / taps_total(shape)


def taps_total(shape):
    return math.sqrt(math.prod(shape))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_filtered_lrelu_equals_reference(case, dtype, rng):
    up, down, padding, before, after = case
    layouts = itertools.cycle(LAYOUTS)
    options = {
        "up_kernel": kernel_of(before, rng), "down_kernel": kernel_of(after, rng),
        "up": up, "down": down, "padding": padding,
    }  # fmt: skip
    if dtype == torch.float64:
        options = {k: v.double() if torch.is_tensor(v) else v for k, v in options.items()}
    for clamp, slope, gain, channels in (
        (None, 0.2, math.sqrt(2), 3), (0.9, 0.2, math.sqrt(2), 9), (0.9, 1.0, 1.0, 16),
        (1.1, 1.5, -0.7, 17), (None, 0.0, 0.8, 5), (256.0, 0.2, 1.0, 8),
    ):  # fmt: skip
        x = draw((2, channels, 11, 10), dtype, rng, next(layouts))
        bias = draw((channels,), dtype, rng)
        both = [
            functools.partial(f, clamp=clamp, slope=slope, gain=gain, **options)
            for f in (filtered_lrelu, filtered_lrelu_reference)
        ]
        agree(*both, dtype, x, bias)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_filtered_lrelu_in_every_layout(layout, rng):
    options = {"up_kernel": kernel_of(6, rng), "down_kernel": kernel_of(4, rng)}
    options |= {"up": 2, "down": 2, "padding": (4, 3, 4, 3), "clamp": 1.0}
    both = [functools.partial(f, **options) for f in (filtered_lrelu, filtered_lrelu_reference)]
    for dtype, shape in itertools.product(
        (torch.float32, torch.bfloat16),
        ((1, 1, 7, 9), (3, 8, 6, 17), (2, 24, 8, 8), (1, 33, 1, 5)),
    ):
        agree(*both, dtype, draw(shape, dtype, rng, layout), draw((shape[1],), dtype, rng))
    x = draw((2, 16, 6, 6), torch.float32, rng, layout)
    y = both[0](x)
    last = layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize(("up", "down"), [(2, 2), (4, 2), (1, 3)])
def test_filtered_lrelu_of_wide_images(up, down, rng):
    """They are done in strips, whose records overlap and whose sums add up."""
    taps = kernel_of(6 * max(up, 1), rng), kernel_of(6 * down, rng)
    options = {"up_kernel": taps[0], "down_kernel": taps[1], "up": up, "down": down}
    options |= {"padding": (7, 8, 6, 5), "clamp": 0.7}
    both = [functools.partial(f, **options) for f in (filtered_lrelu, filtered_lrelu_reference)]
    for layout, width in (("contiguous", 231), ("channels_last", 400)):
        x = draw((1, 9, 7 + 3 * down, width), torch.float32, rng, layout)
        agree(*both, torch.float32, x, draw((9,), torch.float32, rng))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("taps", [1, 4, (4, 4), (3, 5), 13])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (3, 2), (2, 3)])
def test_upfirdn2d_equals_reference(dtype, taps, up, down, rng):
    kernel = kernel_of(taps, rng)
    if dtype == torch.float64:
        kernel = kernel.double()
    for padding, layout, shape in (
        ((2, 1, 2, 1), "contiguous", (2, 3, 13, 12)),
        ((0, 3, 5, 2), "channels_last", (1, 8, 12, 14)),
        ((-1, 2, 3, -2), "strided", (3, 5, 15, 13)),
        ((9, -3, -2, 9), "contiguous", (1, 19, 14, 11)),
    ):
        both = [
            functools.partial(f, kernel=kernel, up=up, down=down, padding=padding, gain=1.5)
            for f in (upfirdn2d, upfirdn2d_reference)
        ]
        agree(*both, dtype, draw(shape, dtype, rng, layout))


def test_products_of_two_vectors_are_found_out(rng):
    row, column = torch.randn(5, generator=rng), torch.randn(4, generator=rng)
    x = draw((1, 2, 9, 9), torch.float32, rng)
    for kernel in (torch.outer(column, row), torch.zeros(4, 5), torch.outer(column, row * 0)):
        agree(
            lambda x, k=kernel: upfirdn2d(x, k, up=2),
            lambda x, k=kernel: upfirdn2d_reference(x, k, up=2),
            torch.float32, x,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bias_act_equals_reference(dtype, layout, rng):
    for shape, clamp, gain, activation in (
        ((2, 3, 5, 7), None, 1.0, "lrelu"), ((1, 8, 4, 4), 0.8, 1.0, "lrelu"),
        ((3, 19, 6, 5), None, 0.3, "lrelu"), ((2, 16, 3, 9), 0.5, 2.0, "linear"),
        ((2, 4, 5, 3), 0.7, -1.5, "lrelu"), ((2, 4, 1, 1), None, 1.0, "lrelu"),
    ):  # fmt: skip
        options = {"activation": activation, "clamp": clamp, "gain": gain}
        x, bias = draw(shape, dtype, rng, layout), draw((shape[1],), dtype, rng)
        both = [functools.partial(f, **options) for f in (bias_act, bias_act_reference)]
        agree(*both, dtype, x, bias)
        agree(*both, dtype, x)
        assert both[0](x).stride() == both[1](x).stride() or layout not in list(LAYOUTS)[:2]
    options = {"activation": "lrelu", "clamp": 1.0}
    both = [functools.partial(f, **options) for f in (bias_act, bias_act_reference)]
    for shape in ((6, 37), (2, 5, 3), (2, 3, 4, 2, 5)):
        x = torch.randn(shape, generator=rng).to(dtype)
        agree(*both, dtype, x, draw((shape[1],), dtype, rng))


def test_empty_batches(rng):
    x = torch.empty(0, 3, 6, 6, requires_grad=True)
    bias, kernel = torch.zeros(3), torch.ones(4)
    assert bias_act(x, bias, activation="lrelu").shape == x.shape
    assert upfirdn2d(x, kernel, up=2, padding=(2, 1, 2, 1)).shape == (0, 3, 12, 12)
    y = filtered_lrelu(x, bias, up_kernel=kernel, up=2, padding=(2, 1, 2, 1))
    assert y.shape == (0, 3, 12, 12)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_derivatives_of_both_orders(float64, rng):
    x = torch.randn(2, 3, 5, 4, generator=rng).requires_grad_()
    bias = torch.randn(3, generator=rng).requires_grad_()
    taps, matrix = torch.randn(4, generator=rng), torch.randn(3, 3, generator=rng)
    wide = {"up": 2, "down": 2, "padding": (2, 3, 1, 2), "clamp": 2.0}

    def resample(x):
        return upfirdn2d(x, matrix, up=2, down=3, padding=(1, 2, 0, 3), gain=1.3).square()

    def activate(x, bias, **options):
        return bias_act(x, bias, **options).square()

    def activate_raised(x, bias, **options):
        return filtered_lrelu(x, bias, **options, **wide).square()

    clamped = functools.partial(activate, activation="lrelu", clamp=1.5)
    separable = functools.partial(activate_raised, up_kernel=taps, down_kernel=taps)
    for function, inputs in (
        (resample, (x,)), (clamped, (x, bias)),
        (functools.partial(activate, activation="lrelu"), (x, bias)),
        (separable, (x, bias)),
        (functools.partial(activate_raised, up_kernel=taps, down_kernel=matrix), (x, bias)),
        (lambda bias: separable(x.detach(), bias), (bias,)),
    ):  # fmt: skip
        assert gradcheck(function, inputs)
        probe = torch.randn(function(*inputs).shape, generator=rng).requires_grad_()
        assert gradgradcheck(function, inputs, probe)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clamp", [None, 2.0])
def test_infinities_and_nan_pass_as_in_the_reference(value, clamp, rng):
    x = torch.randn(1, 3, 9, 9, generator=rng)
    x[0, 1, 4, 3] = value
    taps = torch.rand(4, generator=rng) + 0.1
    shared = {"up": 2, "down": 2, "padding": (2, 2, 2, 2), "clamp": clamp}
    for kernels in ((taps, taps), (taps, taps[:, None] * taps + torch.eye(4))):
        options = {"up_kernel": kernels[0], "down_kernel": kernels[1], **shared}
        agree_where_not_finite(filtered_lrelu, filtered_lrelu_reference, x, options)
    agree_where_not_finite(upfirdn2d, upfirdn2d_reference, x, {"kernel": taps, "up": 2})
    options = {"activation": "lrelu", "clamp": clamp}
    agree_where_not_finite(bias_act, bias_act_reference, x, options)


def agree_where_not_finite(native, reference, x, options):
    twins = [x.clone().requires_grad_() for _ in range(2)]
    got, want = native(twins[0], **options), reference(twins[1], **options)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    grads = [torch.autograd.grad(y.sum(), leaf)[0] for y, leaf in zip((got, want), twins)]  # noqa: B905
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_slope_at_zero_is_that_of_the_reference():
    x = torch.zeros(1, 2, 6, 6, requires_grad=True)
    taps = torch.ones(4)
    options = {"up_kernel": taps, "up": 2, "padding": (2, 1, 2, 1)}
    grads = [
        torch.autograd.grad(f(x, **options).sum(), x)[0]
        for f in (filtered_lrelu, filtered_lrelu_reference)
    ]
    torch.testing.assert_close(*grads)


def test_threads_do_not_change_a_bit(rng):
    x, bias = torch.randn(3, 21, 20, 20, generator=rng), torch.randn(21, generator=rng)
    taps = torch.randn(12, generator=rng)
    probe = torch.randn(3, 21, 20, 20, generator=rng)
    before = torch.get_num_threads()

    def everything():
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        padding = (11, 10, 11, 10)
        y = filtered_lrelu(
            *leaves, up_kernel=taps, down_kernel=taps, up=2, down=2, padding=padding, clamp=9.0
        )
        z = upfirdn2d(bias_act(*leaves, activation="lrelu", clamp=2.0), taps, padding=padding)
        total = (y * probe).sum() + z.square().sum()
        return [y.detach(), z.detach(), *torch.autograd.grad(total, leaves)]

    try:
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(2)
        together = everything()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_nothing_left_of_an_image_is_an_error():
    x, taps = torch.zeros(1, 1, 4, 4), torch.ones(9)
    for call in (
        lambda: upfirdn2d(x, taps),
        lambda: filtered_lrelu(x, up_kernel=taps[:3], down_kernel=taps[:3]),
        lambda: upfirdn2d(x[0, 0], taps[:1]),
        lambda: filtered_lrelu(x[0, 0]),
    ):
        with pytest.raises(ShapeError, match=r"expected \[N, C, H, W\]"):
            call()


@pytest.mark.parametrize("factors", [{"up": 0}, {"down": 0}, {"up": -1}])
def test_factors_below_one_are_errors(factors):
    x = torch.zeros(1, 1, 4, 4)
    for call in (
        lambda: upfirdn2d(x, torch.ones(1), **factors),
        lambda: filtered_lrelu(x, **factors),
    ):
        with pytest.raises(ShapeError, match="cannot resample"):
            call()


def test_functional_gradients_exist(rng):
    x, taps = torch.randn(1, 3, 8, 8, generator=rng), torch.ones(4)

    def total(x):
        y = bias_act(upfirdn2d(x, taps, up=2), activation="lrelu")
        return filtered_lrelu(y, up_kernel=taps, up=2, clamp=1.0).square().sum()

    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), want)


def test_a_filter_that_needs_a_gradient_gets_it(rng):
    x = torch.randn(1, 2, 6, 6, generator=rng)
    for kernel in (torch.randn(4, generator=rng), torch.randn(4, 4, generator=rng)):
        kernel.requires_grad_()
        for y in (upfirdn2d(x, kernel, up=2), filtered_lrelu(x, up_kernel=kernel, up=2)):
            assert torch.autograd.grad(y.square().sum(), kernel)[0].abs().sum() > 0
