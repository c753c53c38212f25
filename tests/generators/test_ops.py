"""Operations against their naive twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import upfirdn_loops
from torch.autograd import gradcheck, gradgradcheck

from generators.layers import up_convolve
from generators.ops import bias_act, lowpass_filter, upfirdn2d, upsample2d


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


def test_second_derivatives(float64, rng):
    x = torch.randn(1, 2, 4, 4, generator=rng).requires_grad_()
    kernel = torch.randn(3, 3, generator=rng)
    bias = torch.randn(2, generator=rng).requires_grad_()

    def resample(x):
        return upfirdn2d(x, kernel, up=2, padding=(1, 1, 1, 1)).square()

    def activate(x, bias):
        return bias_act(x, bias, activation="lrelu", clamp=3.0).square()

    for function, inputs in ((resample, (x,)), (activate, (x, bias))):
        assert gradcheck(function, inputs)
        # gradgradcheck would draw its own from the global generator
        probe = torch.randn(function(*inputs).shape, generator=rng).requires_grad_()
        assert gradgradcheck(function, inputs, probe)
