"""Low-pass filters of alias-free generators, designed by Kaiser's window method.

Source: Kaiser, Nonrecursive digital filter design using the I0-sinh window function, 1974, and
Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021, appendix C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kaiser_beta(taps: int, width: float, sampling_rate: float) -> float:
    """Return the shape parameter of the window for a filter of given length and transition.

    Kaiser's attenuation in decibels, ``A = 2.285 (n - 1) pi w + 7.95`` with the width w relative
    to half the sampling rate, gives beta by his empirical fit.

    Args:
        taps: length n of the filter.
        width: width of the transition band, in the units of `sampling_rate`.
        sampling_rate: sampling rate at which the filter runs.

    >>> round(kaiser_beta(12, 12.0, 32.0), 4)
    6.4437
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width / (sampling_rate / 2) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def design_lowpass(taps: int, *, cutoff: float, width: float, sampling_rate: float) -> Tensor:
    """Design a separable low-pass filter: a sinc under a Kaiser window, of sum 1.

    ``h[m] = sinc(2 c t_m) kaiser(m)`` at the times ``t_m = (m - (n - 1) / 2) / s``, normalised.

    Args:
        taps: length n.
        cutoff: cutoff frequency c, below half the sampling rate.
        width: width of the transition band, in the same units.
        sampling_rate: sampling rate s.

    Returns:
        [n], float32.
    """
    window = _window(taps, width, sampling_rate)
    kernel = torch.sinc(2 * cutoff * _times(taps, sampling_rate)) * window
    return (kernel / kernel.sum()).float()


def design_radial_lowpass(
    taps: int, *, cutoff: float, width: float, sampling_rate: float
) -> Tensor:
    """Design a low-pass filter that is (nearly) the same in all directions.

    ``h[i, j] = J1(2 pi c r) / (pi r) * kaiser(i) kaiser(j)`` with the distance r from the centre,
    normalised: the ideal disc in frequency instead of the ideal square.

    Args:
        taps: length n in either direction.
        cutoff: cutoff frequency, below half the sampling rate.
        width: width of the transition band, in the same units.
        sampling_rate: sampling rate.

    Returns:
        [n, n], float32, symmetric, of sum 1.
    """
    times = _times(taps, sampling_rate)
    radius = torch.hypot(times[:, None], times[None, :])
    # at the centre, which odd lengths have, the quotient tends to the cutoff
    safe = torch.where(radius > 0, radius, 1.0)
    jinc = torch.special.bessel_j1(2 * math.pi * cutoff * safe) / (math.pi * safe)
    window = _window(taps, width, sampling_rate)
    kernel = torch.where(radius > 0, jinc, cutoff) * torch.outer(window, window)
    return (kernel / kernel.sum()).float()


def _times(taps: int, sampling_rate: float) -> Tensor:
    """Return the times of the taps, centred on 0: [n], float64."""
    return (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / sampling_rate


def _window(taps: int, width: float, sampling_rate: float) -> Tensor:
    """Return the Kaiser window: [n], float64."""
    beta = kaiser_beta(taps, width, sampling_rate)
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
