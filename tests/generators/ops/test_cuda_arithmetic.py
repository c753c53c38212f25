"""The kernels of CUDA, run on the host thread by thread, give what the references give."""

from __future__ import annotations

import ctypes
import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from host_kernels import OnHost

from generators.ops.bias_act import bias_act_reference
from generators.ops.cuda.launches import Operations
from generators.ops.cuda.plans import Divider
from generators.ops.filtered_lrelu import filtered_lrelu_reference
from generators.ops.upfirdn2d import upfirdn2d_reference
from hpd.errors import OpsError

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LAST = torch.channels_last
LAYOUTS = (torch.contiguous_format, LAST)
CARDS = (48, 99, 163, 227)


@dataclass(frozen=True)
class Case:
    """A problem of filtered leaky ReLU; taps are [k] or [k, m]."""

    channels: int
    size: tuple[int, int]
    up: int
    down: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: tuple[int, int, int, int]
    images: int = 2
    clamp: float | None = None
    slope: float = 0.2
    gain: float = math.sqrt(2)
    layout: torch.memory_format = torch.contiguous_format
    dtype: torch.dtype = torch.float32

    def __str__(self):
        last = " last" if self.layout == LAST else ""
        return (
            f"{self.size} up {self.up} {self.before} down {self.down} {self.after} "
            f"{self.padding} {self.dtype}{last}"
        )


class Problem:
    """One case with its values, by the operations and by the reference."""

    def __init__(self, case, rng, start=None):
        self.case, self.start = case, start or OnHost(case.dtype)
        self.operations = Operations(self.start)
        shape = (case.images, case.channels, *case.size)
        self.x = torch.randn(shape, generator=rng).to(case.dtype)
        self.x = self.x.contiguous(memory_format=case.layout)
        self.taps = [
            torch.randn(shape, generator=rng) / math.sqrt(math.prod(shape))
            for shape in (case.before, case.after)
        ]
        self.bias = torch.randn(case.channels, generator=rng)
        self.scales = [torch.randn(shape[:2], generator=rng) for _ in range(2)]
        self.rng = rng

    def forward(self, act=True, scales=(None, None)):
        c = self.case
        return self.operations.filtered_scaled(
            self.x, self.bias, *scales, *self.taps, c.up, c.down, c.padding, c.gain, c.slope,
            c.clamp, act,
        )  # fmt: skip

    def reference(self, scales=(None, None)):
        """The result, and what leads from its gradient to that of all inputs."""
        c = self.case
        leaves = [self.x.detach().float(), self.bias, *self.scales]
        leaves = [t.to(c.dtype).float().requires_grad_() for t in leaves]
        used = [leaf if s is not None else None for leaf, s in zip(leaves[2:], scales, strict=True)]
        y = filtered_lrelu_reference(
            leaves[0], leaves[1], before=used[0], after=used[1], up_kernel=self.taps[0],
            down_kernel=self.taps[1], up=c.up, down=c.down, padding=c.padding, gain=c.gain,
            slope=c.slope, clamp=c.clamp,
        )  # fmt: skip
        wanted = [leaves[0], leaves[1], *(u for u in used if u is not None)]
        return y, lambda grad: torch.autograd.grad(y, wanted, grad.float())

    def mask(self, grad, record, sums=True):
        c, (first, second) = self.case, self.taps
        left, right, top, bottom = c.padding
        raised = (
            c.size[0] * c.up + top + bottom - (first.shape[0] - 1),
            c.size[1] * c.up + left + right - (first.shape[-1] - 1),
        )
        return self.operations.filtered_mask(
            grad, record, second, first, c.down, c.up,
            (second.shape[0] - 1, second.shape[-1] - 1),
            (top - (first.shape[0] - 1), left - (first.shape[-1] - 1)), raised, c.size,
            c.gain * c.up**2, c.slope, c.clamp is not None, False, sums,
        )  # fmt: skip

    def scaled_grad(self, grad, record, scales):
        c = self.case
        return self.operations.filtered_scaled_grad(
            grad, record, self.x, c.size, self.bias, *scales, *self.taps, c.up, c.down, c.padding,
            c.gain, c.slope, c.clamp,
        )  # fmt: skip

    def probe(self, like):
        probe = torch.randn(like.shape, generator=self.rng).to(self.case.dtype)
        return probe.contiguous(memory_format=self.case.layout)


def near(got, want, dtype=torch.float32, factor=1):
    assert got.isfinite().all()
    error = (got.detach().to(want.dtype) - want.detach()).abs().max()
    assert float(error) <= factor * TOLERANCE[dtype] * float(want.detach().abs().max())


CASES = [
    Case(3, (42, 42), 2, 2, (12,), (12,), (9, 8, 9, 8)),
    Case(2, (26, 26), 4, 2, (24,), (12,), (6, 3, 6, 3)),
    Case(2, (20, 37), 2, 4, (12,), (24,), (20, 21, 22, 23)),
    Case(2, (9, 70), 2, 2, (12,), (12,), (8, 9, 12, 10)),
    Case(2, (13, 11), 4, 2, (24,), (12,), (7, 21, 9, 20)),
    Case(2, (19, 18), 1, 1, (1,), (1,), (0, 0, 0, 0)),
    Case(2, (19, 18), 1, 2, (1,), (12,), (5, 6, 7, 8)),
    Case(2, (15, 14), 2, 1, (12,), (1,), (-3, 4, 5, -2)),
    Case(1, (15, 14), 3, 2, (8,), (5,), (5, 4, 3, 6)),
    Case(1, (40, 23), 1, 3, (5,), (2,), (2, 2, 2, 2)),
    Case(1, (9, 9), 4, 4, (32,), (32,), (30, 31, 32, 33)),
    Case(1, (1, 1), 2, 2, (12,), (12,), (21, 20, 19, 22)),
    Case(2, (33, 34), 2, 2, (12,), (12,), (-6, -7, -9, -4)),
    # matrices that are none of two vectors: StyleGAN3-R's, odd ones, and both
    Case(2, (36, 36), 2, 2, (12,), (12, 12), (9, 8, 9, 8)),
    Case(2, (17, 20), 4, 2, (24,), (12, 12), (6, 3, 6, 3)),
    Case(1, (15, 14), 3, 2, (8, 3), (5, 7), (5, 4, 3, 6)),
    Case(1, (18, 13), 1, 3, (3, 5), (2,), (2, 1, 3, 4)),
]


@pytest.mark.parametrize("clamp", [None, 1.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_filtered_lrelu(case, clamp, rng):
    problem = Problem(replace(case, clamp=clamp), rng)
    y, record = problem.forward()
    want, pull = problem.reference()
    near(y, want)
    grad = problem.probe(want)
    dx, sums = problem.mask(grad, record)
    by_x, by_bias = pull(grad)
    near(dx, by_x, factor=2)
    near(sums.sum(dim=0), by_bias, factor=10)
    # all of it in one pass
    assert all(name.startswith("hpd_filtered") for name in problem.start.names)
    assert len(problem.start.names) == 2
    # whichever thread comes first, and however many there are
    library = problem.start.library
    for threads, backwards in ((17, True), (100, False), (256, True)):
        library.pretend_threads(threads, backwards)
        again, written = problem.forward()
        assert torch.equal(again, y) and torch.equal(written, record)
        assert torch.equal(problem.forward(act=False)[0], y)
        assert torch.equal(problem.mask(grad, record)[0], dx)


@pytest.mark.parametrize("shared_kib", CARDS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("index", [0, 1, 13])
def test_filtered_lrelu_in_the_tiles_of_every_card(index, layout, shared_kib, rng):
    """Tiles change what is computed where, and no bit of what comes out of it."""
    case = replace(CASES[index], clamp=0.9, layout=layout, channels=11, images=1)
    problem = Problem(case, rng, OnHost(shared_kib=shared_kib, processors=1))
    small = Problem(case, torch.Generator().manual_seed(0), OnHost(shared_kib=48))
    small.x, small.taps, small.bias = problem.x, problem.taps, problem.bias
    (y, record), (twin, theirs) = problem.forward(), small.forward()
    assert torch.equal(y, twin) and torch.equal(record, theirs)
    want, pull = problem.reference()
    near(y, want)
    grad = problem.probe(want)
    dx, _ = problem.mask(grad, record, sums=False)
    near(dx, pull(grad)[0], factor=2)
    assert dx.is_contiguous(memory_format=layout) and y.is_contiguous(memory_format=layout)
    shared = max(launch.shared_bytes for launch in problem.start.started)
    assert shared <= shared_kib * 1024
    if shared_kib == 227:
        assert shared > 48 * 1024


SCALED = [
    *(replace(CASES[i], layout=layout) for i in (0, 8, 13, 14, 15) for layout in LAYOUTS),
    replace(CASES[1], channels=19, images=1, layout=LAST),
    CASES[6],
    CASES[9],
]


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("case", SCALED, ids=str)
def test_scales_of_planes(case, which, clamp, rng):
    problem = Problem(replace(case, clamp=clamp), rng)
    scales = [s if used else None for s, used in zip(problem.scales, which, strict=True)]
    y, record = problem.forward(scales=scales)
    want, pull = problem.reference(scales)
    near(y, want)
    grad = problem.probe(want)
    dx, totals = problem.scaled_grad(grad, record, scales)
    by_x, by_bias, *by_scales = pull(grad)
    near(dx, by_x, factor=2)
    near(totals[0].sum(dim=0), by_bias, factor=10)
    found = [totals[1 + i] for i, used in enumerate(which) if used]
    for got, wanted in zip(found, by_scales, strict=True):
        near(got, wanted, factor=10)
    assert [name.split("_")[1] for name in problem.start.names] == [
        "filtered",
        "filtered",
        "totals",
    ]
    assert dx.is_contiguous(memory_format=case.layout)
    library = problem.start.library
    library.pretend_threads(256, True)
    again = problem.scaled_grad(grad, record, scales)
    assert torch.equal(again[0], dx) and torch.equal(again[1], totals)


def test_what_a_scale_of_zero_hides_still_has_its_derivative(rng):
    problem = Problem(replace(CASES[0], clamp=0.6), rng)
    problem.scales[1][:, 1] = 0
    y, record = problem.forward(scales=problem.scales)
    want, pull = problem.reference(problem.scales)
    grad = problem.probe(want)
    _, totals = problem.scaled_grad(grad, record, problem.scales)
    assert (y[:, 1] == 0).all() and (totals[2][:, 1] != 0).all()
    near(totals[2], pull(grad)[3], factor=10)


def test_a_plane_that_is_scaled_where_it_is_made_is_what_it_would_be_scaled_later(rng):
    """Generators cut into levels rest on it: a state at a level is not scaled yet."""
    for dtype in (torch.float32, torch.bfloat16):
        problem = Problem(replace(CASES[0], dtype=dtype), rng)
        plain, _ = problem.forward()
        both, _ = problem.forward(scales=(None, problem.scales[1]))
        assert torch.equal(both, plain * problem.scales[1].to(dtype)[:, :, None, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("index", [0, 8, 13])
def test_16_bits(index, layout, dtype):
    # with this seed no value is rounded across 0, where slopes jump
    rng = torch.Generator().manual_seed(1)
    case = replace(CASES[index], channels=18, images=1, dtype=dtype, layout=layout, clamp=2.0)
    problem = Problem(case, rng)
    y, record = problem.forward(scales=problem.scales)
    want, pull = problem.reference(problem.scales)
    near(y, want, dtype)
    grad = problem.probe(want)
    dx, totals = problem.scaled_grad(grad, record, problem.scales)
    by_x, by_bias, by_before, by_after = pull(grad)
    near(dx, by_x, dtype)
    near(totals[0].sum(dim=0), by_bias, dtype)
    near(totals[1], by_before, dtype)
    near(totals[2], by_after, dtype)


LONG = Case(1, (40, 40), 1, 1, (100,), (100,), (100, 99, 100, 99), images=1)
ODD = [
    replace(CASES[0], slope=-0.5, gain=-1.0, clamp=0.9),
    replace(CASES[13], gain=-1.0, clamp=0.9, layout=LAST),
    replace(LONG, clamp=0.5),
]


@pytest.mark.parametrize("case", ODD, ids=str)
def test_long_filters_and_signs_that_change_go_through_memory(case, rng):
    problem = Problem(case, rng, OnHost(case.dtype, shared_kib=48))
    y, record = problem.forward(scales=problem.scales)
    want, pull = problem.reference(problem.scales)
    near(y, want, case.dtype, factor=2)
    assert problem.start.names[1] == "hpd_raised"
    grad = problem.probe(want)
    dx, totals = problem.scaled_grad(grad, record, problem.scales)
    by_x, by_bias, by_before, by_after = pull(grad)
    near(dx, by_x, case.dtype, factor=5)
    near(totals[0].sum(dim=0), by_bias, case.dtype, factor=20)
    near(totals[1], by_before, case.dtype, factor=20)
    near(totals[2], by_after, case.dtype, factor=20)
    assert dx.is_contiguous(memory_format=case.layout)
    assert torch.equal(problem.forward(act=False, scales=problem.scales)[0], y)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("taps", [1, 4, 13, (4, 4), (3, 5)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (3, 2), (2, 3)])
def test_upfirdn2d(taps, up, down, layout, rng):
    shape = taps if isinstance(taps, tuple) else (taps,)
    kernel = torch.randn(shape, generator=rng)
    tall, wide = kernel.shape[0], kernel.shape[-1]
    start = OnHost()
    for (height, width), channels, padding, threads in (
        ((40, 75), 3, (2, 1, 3, 0), (64, 0)), ((14, 13), 10, (-2, 9, 5, -1), (19, 1)),
    ):  # fmt: skip
        left, right, top, bottom = padding
        x = torch.randn(1, channels, height, width, generator=rng)
        x = x.contiguous(memory_format=layout).requires_grad_()
        if height * up + top + bottom < tall or width * up + left + right < wide:
            continue
        start.library.pretend_threads(*threads)
        want = upfirdn2d_reference(x, kernel, up=up, down=down, padding=padding, gain=1.5)
        run = Operations(start).upfirdn2d
        y = run(x.detach(), kernel, up, down, (top, left), want.shape[2:], 1.5, True)
        near(y, want)
        grad = torch.randn(want.shape, generator=rng).contiguous(memory_format=layout)
        pad = (tall - 1 - top, wide - 1 - left)
        dx = run(grad, kernel, down, up, pad, (height, width), 1.5, False)
        near(dx, torch.autograd.grad(want, x, grad)[0])
        assert y.is_contiguous(memory_format=layout) and dx.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_upfirdn2d_at_16_bits(dtype, layout, rng):
    x = torch.randn(2, 21, 19, 18, generator=rng).to(dtype).contiguous(memory_format=layout)
    kernel = torch.rand(4, generator=rng)
    want = upfirdn2d_reference(x.float(), kernel, up=2, padding=(2, 1, 2, 1))
    y = Operations(OnHost(dtype)).upfirdn2d(x, kernel, 2, 1, (2, 2), want.shape[2:], 1.0, True)
    near(y, want, dtype)


@pytest.mark.parametrize("shared_kib", CARDS)
def test_upfirdn2d_in_the_tiles_of_every_card(shared_kib, rng):
    x, kernel = torch.randn(1, 2, 150, 140, generator=rng), torch.randn(4, generator=rng)
    want = upfirdn2d_reference(x, kernel, down=2, padding=(1, 1, 1, 1))
    start = OnHost(shared_kib=shared_kib)
    y = Operations(start).upfirdn2d(x, kernel, 1, 2, (1, 1), want.shape[2:], 1.0, True)
    near(y, want)
    (launch,) = start.started
    assert launch.shared_bytes <= shared_kib * 1024
    # twice the tile where two blocks of it find room on a processor
    assert (launch.shared_bytes > 48 * 1024) == (shared_kib > 99)


def test_a_filter_that_fits_no_tile_is_refused(rng):
    x, kernel = torch.zeros(1, 1, 4, 4), torch.randn(300, 300, generator=rng)
    with pytest.raises(OpsError, match="too large"):
        Operations(OnHost()).upfirdn2d(x, kernel, 1, 1, (150, 150), (4, 4), 1.0, True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("clamp", "last", "with_bias"),
    list(itertools.product([None, 0.8], [True, False], [True, False])),
)
def test_bias_act(clamp, last, with_bias, dtype, rng):
    for shape in ((3, 5, 7, 2), (2, 16, 4, 8), (1, 3, 1, 1), (2, 3, 1, 5)):
        x = torch.randn(shape, generator=rng).to(dtype)
        x = x.contiguous(memory_format=LAST) if last else x
        bias = torch.randn(shape[1], generator=rng) if with_bias else None
        leaf = x.float().requires_grad_()
        rounded = None if bias is None else bias.to(dtype).float()
        want = bias_act_reference(leaf, rounded, activation="lrelu", clamp=clamp)
        grad = want.detach().cos().to(dtype)
        (by_x,) = torch.autograd.grad(want, leaf, grad.float())
        operations = Operations(OnHost(dtype))
        y = operations.bias_act(x, bias, math.sqrt(2), 0.2, clamp)
        near(y, want, dtype)
        # what is rounded to the clamp has another slope
        inside = (want.detach().abs() - (clamp or 99)).abs() > 0.02
        for given in ((x, bias, False), *([(y, None, True)] if dtype == torch.float32 else [])):
            values, offsets, of_result = given
            dx = operations.bias_act_slope(
                grad, values, offsets, math.sqrt(2), 0.2, clamp, of_result
            )
            near(dx * inside, by_x * inside, dtype)
            assert dx.stride() == x.stride()


@pytest.mark.parametrize("shape", [(2, 3, 1, 3), (3, 5, 1, 7), (1, 7, 2, 2), (2, 2, 1, 1)])
def test_values_beside_packs_of_bias_act(shape, rng):
    """Where packs end inside a channel, and what lies where no pack can begin."""
    room = torch.randn(math.prod(shape) + 1, generator=rng)
    bias = torch.randn(shape[1], generator=rng)
    for x in (room[:-1].view(shape), room[1:].view(shape)):
        y = Operations(OnHost()).bias_act(x, bias, 1.0, 0.2, None)
        near(y, torch.nn.functional.leaky_relu(x + bias[:, None, None], 0.2))


def test_a_product_divides(rng):
    quotient = OnHost().library.quotient
    quotient.argtypes, quotient.restype = [ctypes.c_void_p, ctypes.c_uint64], ctypes.c_uint64
    divisors = [1, 2, 3, 5, 7, 48, 1023, 1024, 1025, 65537, 2**30, 2**30 + 1, 2**31 - 1]
    divisors += torch.randint(1, 2**31, (200,), generator=rng).tolist()
    for divisor in divisors:
        divider, most = Divider.by(divisor), min(2**64 // divisor, 2**62)
        numbers = torch.randint(0, most, (20,), generator=rng).tolist()
        multiples = [k * divisor for k in {1, 2, most // divisor} if k * divisor <= most]
        beside = [m + d for m in multiples for d in (-1, 0, 1) if m + d <= most]
        for number in (0, 1, most, *beside, *numbers):
            assert quotient(ctypes.byref(divider), number) == number // divisor, (number, divisor)


def test_nothing_is_started_for_nothing():
    start, empty = OnHost(), torch.empty(0, 3, 4, 4)
    operations = Operations(start)
    assert operations.bias_act(empty, None, 1.0, 0.2, None).shape == empty.shape
    assert operations.upfirdn2d(empty, torch.ones(1), 1, 1, (0, 0), (4, 4), 1.0, True).numel() == 0
    one, options = torch.ones(1), (1, 1, (0, 0, 0, 0), 1.0, 0.2, None)
    y, record = operations.filtered_lrelu(empty, None, one, one, *options, True)
    assert (y.shape, record.numel()) == (empty.shape, 0)
    none = torch.empty(0, 3)
    dx, totals = operations.filtered_scaled_grad(
        y, record, empty, (4, 4), None, none, none, one, one, *options
    )
    assert (dx.shape, totals.shape) == (empty.shape, (3, 0, 3))
    assert not start.started
