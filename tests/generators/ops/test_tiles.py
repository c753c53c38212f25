"""Tiles: whole, within the card's shared memory, and no smaller than they need be."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
from host_kernels import host_kernels

from generators.ops.cuda import plans
from generators.ops.cuda.tiles import (
    Filtering,
    Resampling,
    Room,
    plan_filtered,
    plan_resampled,
    products_of_block,
    shared_bytes,
)

CARDS = (48, 99, 163, 227)


def room(kib, processors=132):
    return Room(kib * 1024, processors)


def layer(size=36, up=2, down=2, first=12, second=12, full=(False, False), **changed):
    raised = (size - 1) * down + second
    source = -(-(raised + first) // up)
    whole = Filtering(
        shape=(10, 256, source, source), last=False, value_bytes=4, sum_bytes=4,
        raised=(raised, raised), result=(size, size), up=up, down=down, first=(first, first),
        second=(second, second), full=full, pad=(9, 9), offset=(0, 0), gain=1.0, slope=0.2,
        clamp=None, flip=True,
    )  # fmt: skip
    return replace(whole, **changed)


def products(problem, card):
    """Of one result."""
    plan = plan_filtered(problem, card)
    return products_of_block(plan) * plan.blocks / (10 * 256 * problem.result[0] ** 2)


LAYERS = [
    layer(), layer(52, 4, 2, 24, 12), layer(148), layer(84, 2, 4, 12, 24), layer(5),
    layer(52, full=(False, True)), layer(52, full=(True, False), sums=True), layer(36, last=True),
    layer(84, last=True, value_bytes=2, full=(False, True)), layer(36, 1, 1, 1, 1),
    layer(40, 4, 4, 32, 32),
]  # fmt: skip


@pytest.mark.parametrize("kib", CARDS)
@pytest.mark.parametrize("problem", LAYERS, ids=range(len(LAYERS)))
def test_tiles_cover_the_image_and_fit_the_card(problem, kib):
    plan = plan_filtered(problem, room(kib))
    for i in range(2):
        assert plan.tile[i] % 4 == 0
        assert plan.tiles[i] * plan.tile[i] >= problem.result[i]
        assert (plan.tiles[i] - 1) * plan.tile[i] < problem.result[i]
    assert shared_bytes(plan, 4) <= kib * 1024
    if shared_bytes(plan, 4) > 48 * 1024:
        # two blocks, and what CUDA keeps of each, on a processor: it has 1 KiB more than a block
        assert 2 * (shared_bytes(plan, 4) + 1024) <= (kib + 1) * 1024


def test_more_shared_memory_saves_products():
    """Figures that a sheet of paper gives, too: a tile of 20 px, and the whole of 36 px."""
    small, large = plan_filtered(layer(), room(48)), plan_filtered(layer(), room(163))
    assert (small.tile[0], large.tile[0]) == (20, 36)
    assert (round(products(layer(), room(48))), round(products(layer(), room(163)))) == (162, 102)
    assert 51 * 1024 < shared_bytes(large, 4) < 53 * 1024
    for problem in LAYERS[:5]:
        needed = [products(problem, room(kib, 1)) for kib in CARDS]
        assert needed == sorted(needed, reverse=True)


def test_a_card_that_has_no_more_gets_what_every_card_has():
    assert Room() == room(48, 1)
    assert Room().half_bytes == 48 * 1024
    assert [room(kib).half_bytes // 1024 for kib in CARDS] == [48, 49, 81, 113]


def test_what_does_not_fit_half_takes_the_whole_and_what_fits_nothing_is_refused():
    long = layer(64, 1, 1, 60, 60)
    plan = plan_filtered(long, room(99))
    assert 49 * 1024 < shared_bytes(plan, 4) <= 99 * 1024
    assert plan_filtered(layer(64, 1, 1, 300, 300), room(227)) is None
    assert plan_filtered(long, room(48)) is None


def test_few_planes_are_shared_out_to_all_processors():
    few = layer(36, 1, 1, 1, 1, shape=(10, 3, 36, 36))
    assert plan_filtered(few, room(227, 1)).blocks == 30
    assert 30 < plan_filtered(few, room(227, 132)).blocks <= 132


@pytest.mark.parametrize(("value_bytes", "channels", "group"), [
    (4, 256, 8), (2, 256, 16), (4, 3, 4), (4, 1, 1), (2, 5, 8),
])  # fmt: skip
def test_channels_last_are_read_in_whole_sectors(value_bytes, channels, group):
    problem = layer(36, last=True, value_bytes=value_bytes, shape=(2, channels, 38, 38))
    assert plan_filtered(problem, room(227)).group == group
    assert plan_filtered(replace(problem, last=False), room(227)).group == 1
    resampling = Resampling(
        shape=(2, channels, 64, 64), last=True, value_bytes=value_bytes, sum_bytes=4,
        result=(64, 64), up=1, down=1, taps=(4, 4), full=False, pad=(1, 1), gain=1.0, flip=True,
    )  # fmt: skip
    assert plan_resampled(resampling, room(48)).group == group


def test_fewer_channels_at_a_time_where_tiles_would_be_tiny():
    problem = layer(40, 4, 4, 32, 32, last=True, value_bytes=2, shape=(2, 64, 60, 60))
    plan = plan_filtered(problem, room(48))
    assert 1 <= plan.group < 16
    assert shared_bytes(plan, 4) <= 48 * 1024


def test_plans_are_laid_out_as_in_the_kernels():
    library = host_kernels()
    structures = (
        plans.FilteredPlan, plans.FilteredTensors, plans.ResamplePlan, plans.ResampleTensors,
        plans.BiasActPlan, plans.RaisedPlan, plans.TotalsPlan,
    )  # fmt: skip
    sizes = [ctypes.sizeof(structure) for structure in structures]
    assert sizes == [library.plan_size(i) for i in range(len(structures))]
