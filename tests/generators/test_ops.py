"""Operations against their naive twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import filtered_lrelu_loops, upfirdn_loops
from torch.autograd import gradcheck, gradgradcheck

from generators.families.layers import up_convolve
from generators.ops import bias_act, filtered_lrelu, lowpass_filter, upfirdn2d, upsample2d


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 0, 3), (-1, 2, 1, -1)])
def test_upfirdn2d_equals_loops(up, down, padding, float64, rng):
    x = torch.randn(2, 3, 5, 4, generator=rng)
    kernel = torch.randn(3, 3, generator=rng)
    got = upfirdn2d(x, kernel, up=up, down=down, padding=padding, gain=1.7)
    if min(padding) < 0:
        left, right, top, bottom = padding
        wide = [max(p, 0) for p in padding]
        want = upfirdn_loops(
            F.pad(_stuffed(x, up), (min(left, 0), min(right, 0), min(top, 0), min(bottom, 0))),
            kernel, up=1, down=down, padding=wide, gain=1.7,
        )  # fmt: skip
    else:
        want = upfirdn_loops(x, kernel, up=up, down=down, padding=padding, gain=1.7)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 0, 3), (-1, 2, 1, -1)])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_separable_kernel_equals_its_outer_product(up, down, padding, size, float64, rng):
    x, taps = torch.randn(2, 3, 6, 5, generator=rng), torch.randn(size, generator=rng)
    options = {"up": up, "down": down, "padding": padding, "gain": 1.7}
    got = upfirdn2d(x, taps, **options)
    want = upfirdn2d(x, torch.outer(taps, taps), **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def _stuffed(x, up):
    """Follow every value by up - 1 zeros."""
    wide = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    wide[:, :, ::up, ::up] = x
    return wide


def test_upsampling_keeps_mean_and_centre(float64):
    kernel = lowpass_filter().double()
    assert float(kernel.sum()) == 1
    flat = upsample2d(torch.ones(1, 1, 8, 8), kernel)
    torch.testing.assert_close(flat[:, :, 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    middle = upsample2d(ramp, kernel)[0, 0, 8, 4:12]
    torch.testing.assert_close(middle, torch.arange(8) / 2 + 1.75)


@pytest.mark.parametrize("k", [1, 3])
def test_up_convolution_is_convolution_of_the_stuffed_image(k, float64, rng):
    x, weight = torch.randn(2, 3, 5, 4, generator=rng), torch.randn(4, 3, k, k, generator=rng)
    kernel = lowpass_filter().double()
    got = up_convolve(x, weight, kernel)
    assert got.shape == (2, 4, 10, 8)
    # a true convolution with the weight, at a size where no border is cut, then the filter
    full = F.conv2d(_stuffed(x, 2), weight.flip(2, 3), padding=k - 1)
    filtered = upfirdn2d(full, kernel, padding=(3, 3, 3, 3), gain=4)
    start = 1 + k // 2
    torch.testing.assert_close(got, filtered[:, :, start : start + 10, start : start + 8])


def test_bias_act_in_closed_form():
    x = torch.tensor([[-2.0, 3.0]])
    torch.testing.assert_close(bias_act(x), x)
    torch.testing.assert_close(
        bias_act(x, torch.tensor([1.0, 1.0]), activation="lrelu", gain=0.5),
        torch.tensor([[-0.2, 4.0]]) * 0.5 * 2**0.5,
    )
    torch.testing.assert_close(bias_act(x, gain=2, clamp=5.0), torch.tensor([[-4.0, 5.0]]))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 2), (4, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (4, 3, 2, 5), (-1, 3, 4, -2)])
def test_filtered_lrelu_equals_loops(up, down, padding, float64, rng):
    x, bias = torch.randn(2, 2, 6, 5, generator=rng), torch.randn(2, generator=rng)
    before, after = torch.randn(4, generator=rng), torch.randn(3, generator=rng)
    options = {"up": up, "down": down, "padding": padding, "gain": 1.5, "slope": 0.3, "clamp": 2.0}
    want = filtered_lrelu_loops(x, bias, before, after, **options)
    for kernels in ((before, after), (torch.outer(before, before), torch.outer(after, after))):
        got = filtered_lrelu(x, bias, up_kernel=kernels[0], down_kernel=kernels[1], **options)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_filtered_lrelu_in_closed_form():
    x = torch.tensor([-2.0, 3.0])[None, :, None, None].expand(1, 2, 3, 3)
    got = filtered_lrelu(x, torch.tensor([1.0, -1.0]), clamp=2.5)
    assert got[0, :, 1, 1].tolist() == pytest.approx([-0.2 * 2**0.5, 2.5])
    assert torch.equal(filtered_lrelu(x, slope=1.0, gain=1.0), x)
    stuffed = filtered_lrelu(x, up=2, padding=(1, 0, 0, 1), slope=1.0, gain=1.0)
    assert stuffed.shape == (1, 2, 7, 7)
    assert stuffed[0, 1, 0].tolist() == [0, 12, 0, 12, 0, 12, 0]
    assert torch.equal(filtered_lrelu(stuffed[:, :, :6, 1:], down=2, slope=1.0, gain=0.25), x)
    # filters of sum 1 keep a constant away from the borders
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    flat = filtered_lrelu(
        torch.ones(1, 1, 9, 9), up_kernel=taps, down_kernel=taps, up=2, down=2, padding=(3, 3, 3, 3)
    )
    torch.testing.assert_close(flat[:, :, 3:-3, 3:-3], torch.full((1, 1, 3, 3), 2**0.5))


def test_second_derivatives(float64, rng):
    x = torch.randn(1, 2, 4, 4, generator=rng).requires_grad_()
    kernel = torch.randn(3, 3, generator=rng)
    bias = torch.randn(2, generator=rng).requires_grad_()

    def resample(x):
        return upfirdn2d(x, kernel, up=2, padding=(1, 1, 1, 1)).square()

    def activate(x, bias):
        return bias_act(x, bias, activation="lrelu", clamp=3.0).square()

    def activate_smoothly(x, bias):
        taps = {"up_kernel": kernel[0], "down_kernel": kernel}
        wide = {"up": 2, "down": 2, "padding": (2, 2, 3, 1)}
        return filtered_lrelu(x, bias, **taps, **wide, clamp=9.0).square()

    for function, inputs in (
        (resample, (x,)), (activate, (x, bias)), (activate_smoothly, (x, bias))
    ):  # fmt: skip
        assert gradcheck(function, inputs)
        # gradgradcheck would draw its own from the global generator
        probe = torch.randn(function(*inputs).shape, generator=rng).requires_grad_()
        assert gradgradcheck(function, inputs, probe)
