"""Matrices of taps that are products of two vectors: found out, once, and only where it is so."""

from __future__ import annotations

import pytest
import torch
from host_kernels import OnHost, pretending_cuda

from generators.families.filters import design_radial_lowpass
from generators.ops import lowpass_filter, upfirdn2d
from generators.ops.cuda import taps
from generators.ops.cuda.launches import Operations
from generators.ops.cuda.taps import factors_of, filter_of
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import OpsError


def test_products_of_two_vectors_are_found_out(rng):
    row, column = torch.randn(5, generator=rng), torch.randn(4, generator=rng)
    for matrix in (
        torch.outer(column, row), torch.zeros(4, 5), torch.outer(column, row * 0),
        torch.outer(column, torch.eye(5)[2]), torch.outer(column, row).double(),
        lowpass_filter(), torch.ones(1, 7), -torch.ones(3, 3),
    ):  # fmt: skip
        along, across = factors_of(matrix)
        torch.testing.assert_close(torch.outer(along, across), matrix.double(), rtol=1e-6, atol=0)
        assert not filter_of(matrix).full


def test_what_is_none_is_left_as_it_is(rng):
    radial = design_radial_lowpass(12, cutoff=8, width=8, sampling_rate=64)
    nearly = torch.outer(torch.ones(4), torch.ones(4))
    nearly[1, 2] += 1e-5
    infinite, unknown = torch.ones(2, 2), torch.ones(2, 2)
    infinite[0, 0], unknown[1, 1] = torch.inf, torch.nan
    for matrix in (radial, nearly, infinite, unknown, torch.eye(3)):
        assert factors_of(matrix) is None
        found = filter_of(matrix)
        assert found.full and found.along is found.across
        assert torch.equal(found.along, matrix.float()) or matrix is unknown


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 2, 2)])
def test_what_is_no_filter_is_refused(shape):
    with pytest.raises(OpsError, match="no filter"):
        filter_of(torch.ones(shape))


def test_the_device_is_asked_once_for_a_filter(monkeypatch):
    asked = []
    monkeypatch.setattr(taps, "on_host", lambda tensor: asked.append(tensor) or tensor)
    kernel = lowpass_filter()
    assert filter_of(kernel) is filter_of(kernel)
    assert len(asked) == 1
    # changed where it lies, or by laying it elsewhere
    kernel.mul_(2)
    doubled = filter_of(kernel)
    torch.testing.assert_close(torch.outer(doubled.along, doubled.across), kernel)
    assert len(asked) == 2
    kernel.data = torch.eye(4)
    assert filter_of(kernel).full
    assert len(asked) == 3
    with torch.inference_mode():
        filter_of(torch.ones(2, 2))
    assert len(asked) == 4


def test_a_layer_asks_no_more_in_its_derivatives(monkeypatch, rng):
    """What autograd keeps of a filter is the filter, whatever it hands over."""
    asked = []
    monkeypatch.setattr(taps, "on_host", lambda tensor: asked.append(tensor) or tensor)
    kernel = torch.nn.Module()
    kernel.register_buffer("taps", lowpass_filter())
    with pretending_cuda(monkeypatch) as start:
        for _ in range(2):
            x = torch.randn(1, 2, 8, 8, generator=rng).requires_grad_()
            y = upfirdn2d(x, kernel.taps, up=2, padding=(2, 1, 2, 1), gain=4)
            (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            torch.autograd.grad(grad.square().sum(), x)
    assert len(asked) == 1
    assert len(start.started) >= 6


@pytest.mark.parametrize(("tall", "wide"), [(4, 4), (3, 6), (6, 1)])
def test_a_product_is_filtered_as_such(tall, wide, rng):
    kernel = torch.outer(torch.randn(tall, generator=rng), torch.randn(wide, generator=rng))
    x, start = torch.randn(1, 3, 17, 15, generator=rng), OnHost()
    for up, down in ((1, 1), (2, 1), (1, 2), (3, 2)):
        want = upfirdn2d_reference(x, kernel, up=up, down=down, padding=(6, 5, 4, 6))
        y = Operations(start).upfirdn2d(x, kernel, up, down, (4, 6), want.shape[2:], 1.0, True)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
        plan = start.started[-1].arguments[0]
        assert (plan.full, tuple(plan.taps)) == (False, (tall, wide))
    for first, second in ((kernel, kernel), (kernel, kernel[0])):
        options = (2, 2, (8, 8, 8, 8), 1.0, 0.2, None, False)
        Operations(start).filtered_lrelu(x, None, first, second, *options)
        plan = start.started[-1].arguments[0]
        assert not plan.first_full and not plan.second_full
