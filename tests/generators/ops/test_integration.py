"""Native operations inside torch: its own checks, its compiler, and whole networks."""

from __future__ import annotations

import pytest
import torch
from conftest import GOLDEN, Golden
from families import VARIANTS, tiny_network
from host_kernels import pretending_cuda
from native_ops import need_native
from torch.func import functional_call

from generators.checkpoints import read_checkpoint
from generators.checkpoints.families.stylegan3 import (
    is_stylegan_xl,
    stylegan3_from_record,
    stylegan_xl_from_record,
)
from generators.ops import bias_act, filtered_lrelu, upfirdn2d

OPERATIONS = sorted(
    name.removeprefix("hpd::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("hpd::")
)
"""All that `generators.ops` has told torch of; one that `calls` has no arguments for fails."""


@pytest.fixture
def native(monkeypatch):
    need_native(monkeypatch, "cpu")


ON_CUDA_ONLY = {"filtered_scaled", "filtered_scaled_grad"}


def calls(rng, layout=torch.contiguous_format):
    """Arguments of every operation, as the public functions give them."""
    x = torch.randn(2, 3, 6, 5, generator=rng).contiguous(memory_format=layout).requires_grad_()
    bias = torch.randn(3, generator=rng).requires_grad_()
    taps, matrix = torch.randn(4, generator=rng), torch.randn(3, 3, generator=rng)
    small = torch.randn(2, 3, 6, 4, generator=rng).requires_grad_()
    geometry = (2, 1, (2, 1, 2, 3), 1.4, 0.2, 256.0)
    y, record = torch.ops.hpd.filtered_lrelu(x, bias, taps, matrix, *geometry, True)
    grad = torch.randn(y.shape, generator=rng).requires_grad_()
    masked = (1, 2, (2, 2), (-1, -1), (14, 10), (6, 5), 5.6, 0.2, True, False)
    return {
        "bias_act": [(x, bias, 1.4, 0.2, 2.0), (small, None, 0.5, 1.0, None)],
        "bias_act_slope": [(x.detach().clone().requires_grad_(), x.detach(), bias.detach(),
                            1.4, 0.2, 2.0, False)],
        "upfirdn2d": [(x, taps, 2, 1, (1, 2), (11, 10), 1.0, True),
                      (x, matrix, 1, 2, (0, -1), (2, 2), 1.5, False)],
        "filtered_lrelu": [(x, bias, taps, matrix, *geometry, True),
                           (x.detach(), None, taps, matrix, *geometry[:-1], None, False)],
        "filtered_mask": [(grad, record, matrix, taps, *masked, sums) for sums in (True, False)],
        **calls_with_scales(rng, x, bias, (taps, matrix, *geometry), grad.detach(), record),
    }  # fmt: skip


def calls_with_scales(rng, x, bias, options, grad, record):
    before, after = (torch.randn(2, 3, generator=rng).requires_grad_() for _ in range(2))
    fixed = [t.detach() for t in (x, bias, before, after)]
    return {
        "filtered_scaled": [(x, bias, before, after, *options, True),
                            (x, None, before, None, *options, True),
                            (fixed[0], None, None, fixed[3], *options, False)],
        "filtered_scaled_grad": [(grad, record, fixed[0], (6, 5), *fixed[1:], *options),
                                 (grad, record, None, (6, 5), None, None, fixed[3], *options)],
    }  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", sorted({*OPERATIONS} - ON_CUDA_ONLY))
def test_operation_passes_the_checks_of_torch(name, layout, native, rng):
    for arguments in calls(rng, layout)[name]:
        torch.library.opcheck(getattr(torch.ops.hpd, name).default, arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_of_cuda_passes_them_on_the_host(name, layout, monkeypatch, rng):
    with pretending_cuda(monkeypatch) as start:
        for arguments in calls(rng, layout)[name]:
            torch.library.opcheck(getattr(torch.ops.hpd, name).default, arguments)
    assert start.started


def golden_network(name):
    golden = Golden(GOLDEN / name)
    record = read_checkpoint(golden.folder / "network.pkl")
    convert = stylegan_xl_from_record if is_stylegan_xl(record) else stylegan3_from_record
    network = convert(record)[0].build()
    network.load_state_dict(golden.weights, strict=True)
    return network.requires_grad_(False), golden.values["ws"]


def run(network, ws):
    leaf = ws.clone().requires_grad_()
    images = network(leaf)
    probe = torch.linspace(-1, 1, images.numel(), dtype=ws.dtype).reshape(images.shape)
    return images.detach(), torch.autograd.grad(images, leaf, probe)[0]


def compare(network, ws, monkeypatch):
    """The native path gives the images and gradients of the reference."""
    # float64 tells an error from float32 rounding a value across 0, where slopes jump
    for dtype, limits in ((torch.float32, (1e-4, 5e-3)), (torch.float64, (1e-9, 1e-9))):
        network.to(dtype)
        monkeypatch.setenv("HPD_OPS", "native")
        got = run(network, ws.to(dtype))
        monkeypatch.setenv("HPD_OPS", "reference")
        for value, twin, limit in zip(got, run(network, ws.to(dtype)), limits, strict=True):
            assert float((value - twin).abs().max()) <= limit * float(twin.abs().max())


@pytest.mark.parametrize("name", ["sg3t_uncond64", "sg3r_cond32", "xl_stem_cond"])
def test_official_networks_are_the_same(name, native, monkeypatch):
    network, ws = golden_network(name)
    compare(network, ws[:1], monkeypatch)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_is_the_same(name, native, monkeypatch, rng):
    network = tiny_network(name).requires_grad_(False)
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)
    compare(network, ws, monkeypatch)


def test_operations_can_be_compiled(native, rng):
    x = torch.randn(2, 8, 9, 9, generator=rng)
    bias, taps = torch.randn(8, generator=rng), torch.randn(4, generator=rng)

    def layer(x, bias):
        y = bias_act(x, bias, activation="lrelu", clamp=2.0)
        y = upfirdn2d(y, taps, up=2, padding=(2, 1, 2, 1))
        return filtered_lrelu(y, bias, up_kernel=taps, down_kernel=taps, up=2, down=2)

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for function in (layer, compiled):
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_networks_can_be_called_with_other_weights(native, rng):
    network = tiny_network("stylegan_xl-stem").requires_grad_(False)
    ws = torch.randn(2, network.spec.num_ws, network.spec.w_dim, generator=rng)
    state = {k: v * 1.1 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    got = functional_call(network, state, (ws,))
    network.load_state_dict(state)
    torch.testing.assert_close(got, network(ws))


def test_double_backward_through_a_network(native, rng):
    network = tiny_network("stylegan_xl-stem").requires_grad_(False)
    ws = torch.randn(1, network.spec.num_ws, network.spec.w_dim, generator=rng).requires_grad_()
    (grad,) = torch.autograd.grad(network(ws).square().sum(), ws, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), ws)
    assert second.isfinite().all() and second.abs().sum() > 0
