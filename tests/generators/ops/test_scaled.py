"""Scales inside filtered leaky ReLU: its derivatives, and networks that rest on it.

Operations of CUDA take the place of the CPU's here, with their kernels on the host.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from conftest import GOLDEN, Golden
from families import tiny_network
from host_kernels import OnHost, doubles, pretending_cuda
from native_ops import need_native
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from generators.checkpoints import read_checkpoint
from generators.checkpoints.families.stylegan3 import stylegan3_from_record
from generators.ops import filtered_lrelu
from generators.ops.cuda.launches import Operations
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from hpd.errors import ShapeError

ALIAS_FREE = ("stylegan3-t", "stylegan3-r", "stylegan_xl-stem", "stylegan_xl-super")


def values(rng, dtype=torch.float64):
    """x, bias, before, after."""
    shapes = ((2, 3, 5, 4), (3,), (2, 3), (2, 3))
    return [torch.randn(s, generator=rng, dtype=dtype).requires_grad_() for s in shapes]


def activated(x, bias, before, after, function=filtered_lrelu, matrix=False, clamp=0.8):
    taps = torch.tensor([0.4, 1.0, 0.7, -0.2], dtype=x.dtype)
    behind = torch.outer(taps, taps) + 0.1 * torch.eye(4, dtype=x.dtype) if matrix else taps
    return function(
        x, bias, before=before, after=after, up_kernel=taps, down_kernel=behind, up=2, down=2,
        padding=(2, 3, 1, 2), clamp=clamp,
    )  # fmt: skip


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("matrix", [False, True])
def test_derivatives_of_both_orders(matrix, clamp, monkeypatch, rng):
    def function(*inputs):
        return activated(*inputs, matrix=matrix, clamp=clamp)

    with pretending_cuda(monkeypatch, torch.float64) as start:
        inputs = values(rng)
        assert gradcheck(function, inputs)
        assert {name.split("_")[1] for name in start.names} == {"filtered", "totals"}
        probe = torch.randn(function(*inputs).shape, generator=rng, dtype=torch.float64)
        assert gradgradcheck(function, inputs, probe.requires_grad_())
        # each input alone, beside others that need no gradient
        for i in range(4):
            fixed = [v.detach() for v in inputs]

            def alone(value, i=i, fixed=fixed):
                return function(*fixed[:i], value, *fixed[i + 1 :])

            assert gradcheck(alone, (inputs[i],))
            assert gradgradcheck(alone, (inputs[i],), probe)


@pytest.mark.parametrize("missing", [(1,), (2,), (3,), (1, 2), (1, 3)])
def test_what_is_not_given_has_no_derivative(missing, monkeypatch, rng):
    with pretending_cuda(monkeypatch, torch.float64):
        inputs = [None if i in missing else v for i, v in enumerate(values(rng))]
        given = [v for v in inputs if v is not None]
        y, want = activated(*inputs), activated(*inputs, function=filtered_lrelu_reference)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-6)
        grads = torch.autograd.grad(y.sin().sum(), given)
        wanted = torch.autograd.grad(want.sin().sum(), given)
        # taps and gains are of float32 in a kernel
        for got, twin in zip(grads, wanted, strict=True):
            torch.testing.assert_close(got, twin, rtol=1e-5, atol=1e-5)


def test_both_ways_to_derive_agree(monkeypatch, rng):
    """The pass of its own, and the one that is derived again."""
    with pretending_cuda(monkeypatch, torch.float64) as start:
        inputs = values(rng)
        y = activated(*inputs)
        once = torch.autograd.grad(y.sin().sum(), inputs, retain_graph=True)
        assert "hpd_totals_float64" in start.names
        again = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        for got, twin in zip(once, again, strict=True):
            torch.testing.assert_close(got, twin, rtol=1e-6, atol=1e-7)


def test_x_is_kept_only_where_a_scale_needs_its_derivative(monkeypatch, rng):
    with pretending_cuda(monkeypatch, torch.float64):
        for wanted in (True, False):
            x, bias, before, after = values(rng)
            kept = []

            def keep(tensor, kept=kept):
                kept.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, keep):
                activated(x, bias, before.requires_grad_(wanted), after.detach())
            assert any(t.shape == x.shape and t.is_floating_point() for t in kept) == wanted


@pytest.mark.parametrize("native", [True, False])
def test_on_a_cpu_scales_come_one_after_another_and_to_the_same_bits(native, monkeypatch, rng):
    if native:
        need_native(monkeypatch, "cpu")
    else:
        monkeypatch.setenv("HPD_OPS", "reference")
    for dtype in (torch.float32, torch.bfloat16):
        x, bias, before, after = (v.detach() for v in values(rng, torch.float32))
        x = x.to(dtype)
        taps = {"up_kernel": torch.ones(4) / 4, "up": 2, "padding": (2, 1, 2, 1)}
        want = filtered_lrelu(x * before.to(dtype)[:, :, None, None], bias, **taps)
        want = want * after.to(dtype)[:, :, None, None]
        assert torch.equal(filtered_lrelu(x, bias, before=before, after=after, **taps), want)


@pytest.mark.parametrize("ops", ["native", "reference"])
def test_scales_that_do_not_fit_are_refused(ops, monkeypatch, rng):
    if ops == "native":
        need_native(monkeypatch, "cpu")
    monkeypatch.setenv("HPD_OPS", ops)
    x = torch.zeros(2, 3, 4, 4)
    for options in ({"before": torch.ones(3)}, {"after": torch.ones(2, 4)}):
        with pytest.raises(ShapeError, match=r"scales do not fit .* expected \[2, 3\]"):
            filtered_lrelu(x, **options)


def test_functional_gradients_exist(monkeypatch, rng):
    x, bias, before, after = (v.detach() for v in values(rng, torch.float32))
    with pretending_cuda(monkeypatch):

        def total(before):
            return activated(x, bias, before, after).square().sum()

        leaf = before.clone().requires_grad_()
        (want,) = torch.autograd.grad(total(leaf), leaf)
        torch.testing.assert_close(torch.func.grad(total)(before), want, rtol=1e-4, atol=1e-4)


def run(network, ws):
    leaf = ws.clone().requires_grad_()
    images = network(leaf)
    probe = torch.linspace(-1, 1, images.numel(), dtype=ws.dtype).reshape(images.shape)
    return images.detach(), torch.autograd.grad(images, leaf, probe)[0]


@pytest.mark.parametrize("name", ALIAS_FREE)
def test_networks_are_the_same_on_the_kernels_of_cuda(name, monkeypatch, rng):
    network = tiny_network(name).requires_grad_(False)
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)
    with pretending_cuda(monkeypatch) as start:
        found = run(network, ws)
    ran = Counter("_".join(key.split("_")[1:4:2]) for key in start.names)
    layers = network.spec.last_level
    # one pass a layer in either direction, and the sums of those that have scales
    assert ran == {
        "filtered_record": layers,
        "filtered_derivative": layers,
        "totals": layers - 1,
    } or ran == {"filtered_record": layers, "filtered_derivative": layers, "totals_": layers - 1}
    monkeypatch.setenv("HPD_OPS", "reference")
    for got, want, limit in zip(found, run(network, ws), (1e-4, 5e-3), strict=True):
        assert float((got - want).abs().max()) <= limit * float(want.abs().max())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ALIAS_FREE)
def test_levels_compose_to_the_bit_on_the_kernels_of_cuda(name, dtype, monkeypatch, rng):
    """A state at a level is not scaled by the styles of the next one, one in between is."""
    network = tiny_network(name).requires_grad_(False)
    network.compute_dtype = dtype
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)
    last = network.spec.last_level
    with pretending_cuda(monkeypatch, dtype or torch.float32), torch.no_grad():
        whole = network(ws)
        for level in range(1, last):
            state = network.advance((), ws, 0, level)
            assert torch.equal(network.images(state, ws, level), whole)


def test_an_official_network_of_matrices_is_the_same_in_one_pass_a_layer(monkeypatch):
    golden = Golden(GOLDEN / "sg3r_cond32")
    network = stylegan3_from_record(read_checkpoint(golden.folder / "network.pkl"))[0].build()
    network.load_state_dict(golden.weights, strict=True)
    network.requires_grad_(False)
    ws = golden.values["ws"][:1]
    with pretending_cuda(monkeypatch) as start:
        found = run(network, ws)
    assert not any("resample" in key or "raised" in key for key in start.names)
    matrices = [key for key in start.names if "_second_" in key or "_first_" in key]
    assert len(matrices) >= 8
    monkeypatch.setenv("HPD_OPS", "reference")
    for got, want, limit in zip(found, run(network, ws), (1e-4, 5e-3), strict=True):
        assert float((got - want).abs().max()) <= limit * float(want.abs().max())


class Passes(TorchDispatchMode):
    """Counts operations that read images or features, but for views."""

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        if not func.is_view and any(t.ndim == 4 and t.shape[-1] > 1 for t in tensors):
            self.counted[func.name().split("::")[1].split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_less_is_read_and_written_than_one_after_another(monkeypatch, rng):
    """What the operation is for: two passes less a layer forward, and more of them backward."""
    network = tiny_network("stylegan_xl-stem").requires_grad_(False)
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)
    with torch.no_grad():
        network(ws)  # prepares its weights
    passes = {}
    for fused in (True, False):
        with pretending_cuda(monkeypatch), monkeypatch.context() as patch:
            if not fused:
                patch.setattr("generators.ops.scaled.DEVICE_TYPES", set())
            with Passes() as mode:
                run(network, ws)
        passes[fused] = mode.counted
    layers = network.spec.last_level - 1
    saved = passes[False] - passes[True]
    # forward a product before and one behind; backward two products for either, and a sum
    assert (saved["mul"], saved["sum"]) == (6 * layers, 2 * layers)
    assert passes[True].total() == passes[False].total() - 8 * layers


def test_double_backward_through_a_network(monkeypatch, rng):
    network = tiny_network("stylegan_xl-stem").requires_grad_(False)
    ws = torch.randn(1, network.spec.num_ws, network.spec.w_dim, generator=rng)

    def second():
        leaf = ws.clone().requires_grad_()
        (grad,) = torch.autograd.grad(network(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), leaf)[0]

    with pretending_cuda(monkeypatch):
        found = second()
    monkeypatch.setenv("HPD_OPS", "reference")
    want = second()
    assert float((found - want).abs().max()) <= 1e-2 * float(want.abs().max())
    assert want.abs().sum() > 0


def test_clamped_values_are_counted_once_wherever_tiles_meet(monkeypatch, rng):
    """Rectangles of tiles overlap: a card with less shared memory has more of them."""
    x = torch.randn(1, 2, 60, 44, generator=rng, dtype=torch.float64)
    taps, scales = torch.rand(12, generator=rng) / 6, torch.ones(1, 2, dtype=torch.float64)
    options = (taps, taps, 2, 2, (9, 8, 9, 8), math.sqrt(2), 0.2, 0.05)
    found = []
    with doubles(monkeypatch):
        for kib in (48, 227):
            start = OnHost(torch.float64, shared_kib=kib, processors=1)
            operations = Operations(start)
            y, record = operations.filtered_scaled(x, None, scales, scales, *options, True)
            _, totals = operations.filtered_scaled_grad(
                torch.ones_like(y), record, x, x.shape[2:], None, scales, scales, *options
            )
            found.append((start.started[0].blocks, totals))
        # the sum of the result, if its gradient is 1
        torch.testing.assert_close(found[0][1][2], y.sum(dim=(2, 3)), rtol=1e-9, atol=0)
    assert found[0][0] > found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-9)
