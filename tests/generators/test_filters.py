"""Filter design: closed properties, and an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch

from generators.families.filters import design_lowpass, design_radial_lowpass, kaiser_beta

CASES = [(12, 2.0, 12.0, 32), (12, 8.0, 7.0, 32), (24, 4.6, 6.8, 64), (11, 3.0, 5.0, 32)]


def response(kernel, frequency, sampling_rate):
    """Gain of a symmetric filter [k] at a frequency."""
    times = (torch.arange(len(kernel)) - (len(kernel) - 1) / 2) / sampling_rate
    return float((kernel * torch.cos(2 * math.pi * frequency * times)).sum())


@pytest.mark.parametrize("case", CASES)
def test_separable_filter_equals_scipy(case):
    signal = pytest.importorskip("scipy.signal")
    taps, cutoff, width, rate = case
    want = signal.firwin(taps, cutoff=cutoff, width=width, fs=rate)
    got = design_lowpass(taps, cutoff=cutoff, width=width, sampling_rate=rate)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), torch.as_tensor(want), rtol=1e-6, atol=1e-8)
    attenuation = signal.kaiser_atten(taps, width / (rate / 2))
    assert kaiser_beta(taps, width, rate) == pytest.approx(signal.kaiser_beta(attenuation))


def test_each_piece_of_the_empirical_fit():
    """The window falls from none to narrow as the transition band narrows."""
    betas = [kaiser_beta(12, width, 32) for width in (0.1, 3, 12)]
    assert betas[0] == 0 < betas[1] < betas[2]
    assert kaiser_beta(12, 12, 32) == pytest.approx(
        0.1102 * (2.285 * 11 * math.pi * 0.75 + 7.95 - 8.7)
    )


@pytest.mark.parametrize("case", CASES)
def test_passes_below_and_stops_above(case):
    taps, cutoff, width, rate = case
    kernel = design_lowpass(taps, cutoff=cutoff, width=width, sampling_rate=rate)
    torch.testing.assert_close(kernel, kernel.flip(0))
    assert response(kernel, 0, rate) == pytest.approx(1, abs=1e-6)
    if cutoff > width / 2:
        # the ideal step, smoothed by the window, is at its half at the cutoff
        assert response(kernel, cutoff, rate) == pytest.approx(0.5, abs=0.06)
    ripple = 10 ** (-(2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95) / 20)
    for step in range(20):
        stop = cutoff + width / 2
        frequency = stop + (rate / 2 - stop) * step / 20
        assert abs(response(kernel, frequency, rate)) <= max(2 * ripple, 0.02)


@pytest.mark.parametrize("case", CASES)
def test_radial_filter_is_the_same_in_all_directions(case):
    taps, cutoff, width, rate = case
    kernel = design_radial_lowpass(taps, cutoff=cutoff, width=width, sampling_rate=rate)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    for same in (kernel.t(), kernel.flip(0), kernel.flip(1)):
        torch.testing.assert_close(kernel, same)
    row = design_lowpass(taps, cutoff=cutoff, width=width, sampling_rate=rate)

    def spread(k):
        """Largest difference between the gains along an axis and along the diagonal."""
        times = (torch.arange(taps) - (taps - 1) / 2) / rate
        worst = 0.0
        for step in range(1, 20):
            f = rate / 2 * step / 20
            across = torch.cos(2 * math.pi * f * times)[:, None]
            slanted = torch.cos(2 * math.pi * f / 2**0.5 * (times[:, None] + times[None, :]))
            worst = max(worst, abs(float((k * across).sum() - (k * slanted).sum())))
        return worst

    assert spread(kernel) < max(0.06, 0.5 * spread(torch.outer(row, row)))


def test_filters_of_one_tap():
    for design in (design_lowpass, design_radial_lowpass):
        kernel = design(1, cutoff=2.0, width=4.0, sampling_rate=16)
        assert kernel.flatten().tolist() == [1.0]
