"""Which part of an image a block of a GPU takes: as large a tile as its shared memory carries well.

A tile needs more of its source than it gives, so that larger ones compute less twice; but a block
that takes all of a processor's shared memory computes alone there, and nothing is done while its
threads wait for each other. So tiles take what lets two blocks stay on a processor, and more only
where a filter needs it. Among those that fit, the one that asks the fewest products of the
processor that gets the most of them is chosen. Nothing of this was measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from generators.ops.cuda.plans import FilteredPlan, ResamplePlan, Strides, set_pairs

Pair = tuple[int, int]

THREADS = 256
"""Of a block."""
GIVEN_BYTES = 48 * 1024
"""Shared memory that every GPU gives a block without being asked."""
_KEPT_BYTES = 1024  # what CUDA takes of a processor's shared memory for each block
_SECTOR_BYTES = 32  # what a GPU reads of memory at least
_RUN = 4  # of outputs, which a thread computes together
_LARGEST = 64
_FINE = 8  # sides of a tile below which whole sectors are not worth their room


@dataclass(frozen=True)
class Room:
    """What a GPU has.

    Args:
        shared_bytes: of shared memory that a block may ask for.
        processors: that blocks are shared out to.
    """

    shared_bytes: int = GIVEN_BYTES
    processors: int = 1

    @property
    def half_bytes(self) -> int:
        """What lets two blocks stay on a processor, and no less than every GPU gives."""
        return max(GIVEN_BYTES, (self.shared_bytes + _KEPT_BYTES) // 2 - _KEPT_BYTES)


@dataclass(frozen=True)
class Filtering:
    """A problem of filtered leaky ReLU; taps and all pairs are y, x.

    Args:
        shape: of the source, [N, C, H, W].
        last: whether source and result are channels-last.
        value_bytes: of a value of them.
        sum_bytes: of a value in shared memory.
        raised: height and width at the raised rate.
        result: of the result.
        up: factor before the activation.
        down: factor behind it.
        first: taps before.
        second: taps behind.
        full: whether each is a matrix.
        pad: zeros in front of the source, at the raised rate.
        offset: where the window of the first result starts.
        gain: factor on what is activated.
        slope: of negative values.
        clamp: largest magnitude, None for no limit.
        flip: whether to convolve, rather than correlate.
        sums: whether sums over planes are asked for.
    """

    shape: tuple[int, int, int, int]
    last: bool
    value_bytes: int
    sum_bytes: int
    raised: Pair
    result: Pair
    up: int
    down: int
    first: Pair
    second: Pair
    full: tuple[bool, bool]
    pad: Pair
    offset: Pair
    gain: float
    slope: float
    clamp: float | None
    flip: bool
    sums: bool = False

    @property
    def factors(self) -> tuple[int, int, int, int]:
        """What kernels are made for: factors, and taps where both directions have as many."""
        taps = [pair[0] if pair[0] == pair[1] else 0 for pair in (self.first, self.second)]
        return self.up, self.down, taps[0], taps[1]


@dataclass(frozen=True)
class Resampling:
    """A problem of upfirdn2d; fields as of `Filtering`, with `taps` of its one filter."""

    shape: tuple[int, int, int, int]
    last: bool
    value_bytes: int
    sum_bytes: int
    result: Pair
    up: int
    down: int
    taps: Pair
    full: bool
    pad: Pair
    gain: float
    flip: bool


def shared_bytes(plan: FilteredPlan | ResamplePlan, sum_bytes: int) -> int:
    """Return the shared memory that a block of a plan takes."""
    return _floats(plan) * sum_bytes


def _floats(plan: FilteredPlan | ResamplePlan) -> int:
    if isinstance(plan, ResamplePlan):
        rows, width = plan.source_tile[0], plan.source_tile[1] * plan.group
        between = 0 if plan.full else plan.tile[0] * width
        return int(rows * width + between + _taps(plan.taps, plan.full))
    taps = _taps(plan.first_taps, plan.first_full) + _taps(plan.second_taps, plan.second_full)
    tiles = plan.floats_a + plan.floats_b + (plan.floats_in + plan.floats_out) * plan.group
    return int(tiles + taps + (3 * THREADS if plan.sums else 0))


def _taps(pair: Pair, full: bool) -> int:
    return pair[0] * pair[1] if full else pair[0] + pair[1]


@lru_cache(maxsize=1024)
def plan_filtered(f: Filtering, room: Room) -> FilteredPlan | None:
    """Return the plan of a problem with its tiles; None where no tile fits.

    What comes back is shared by all who ask: it is read only.
    """
    plan = FilteredPlan(
        images=f.shape[0], channels=f.shape[1], up=f.up, down=f.down, flip=f.flip, gain=f.gain,
        slope=f.slope, clamp=f.clamp or 0.0, clamped=f.clamp is not None, first_full=f.full[0],
        second_full=f.full[1], sums=f.sums,
        source_at=Strides.of(*f.shape[1:], last=f.last),
        result_at=Strides.of(f.shape[1], *f.result, last=f.last),
    )  # fmt: skip
    set_pairs(
        plan, source=f.shape[2:], raised=f.raised, result=f.result, first_taps=f.first,
        second_taps=f.second, pad=f.pad, offset=f.offset,
    )  # fmt: skip
    for limit in (room.half_bytes, room.shared_bytes):
        for shift in _shifts(f.shape[1], f.value_bytes if f.last else None):
            least = _FINE if shift else _RUN
            if _choose(plan, f, limit, room.processors, shift, least):
                return plan
    return None


def _shifts(channels: int, value_bytes: int | None) -> Iterator[int]:
    """Give how many channels a block may take, as powers of two: whole sectors first."""
    if value_bytes is not None:
        most = min((_SECTOR_BYTES // value_bytes).bit_length() - 1, (channels - 1).bit_length())
        yield from range(most, 0, -1)
    yield 0


def _choose(
    plan: FilteredPlan, f: Filtering, limit: int, processors: int, shift: int, least: int
) -> bool:
    """Lay out the best tiles that fit; False where those of `least` a side do not."""
    best: tuple[int, int] | None = None
    plan.group_shift = shift
    for largest in range(least, _LARGEST + 1, _RUN):
        _lay_out(plan, largest)
        if shared_bytes(plan, f.sum_bytes) <= limit:
            blocks = -(-plan.blocks // processors)
            cost = blocks * products_of_block(plan)
            if best is None or cost < best[0]:
                best = cost, largest
    if best is not None:
        _lay_out(plan, best[1])
    return best is not None


def _ceil(value: int, step: int) -> int:
    return -(-value // step)


def _lay_out(plan: FilteredPlan, largest: int) -> None:
    """Set tiles of at most `largest` outputs a side."""
    for i in range(2):
        count = max(_ceil(plan.result[i], largest), 1)
        plan.tile[i] = max(_ceil(_ceil(plan.result[i], count), _RUN) * _RUN, _RUN)
        plan.tiles[i] = _ceil(plan.result[i], plan.tile[i])
        needed = (plan.tile[i] - 1) * plan.down + plan.second_taps[i]
        # columns round to whole bytes at both ends, rows and columns to whole sources
        rounded = needed + (6 if i == 1 else 0) + plan.up - 1
        plan.raised_tile[i] = _ceil(rounded, plan.up * _RUN) * plan.up * _RUN
        plan.source_tile[i] = plan.raised_tile[i] // plan.up + _ceil(plan.first_taps[i], plan.up)
    # odd, so that neighbours in a column lie in different banks
    plan.pitch_source = plan.source_tile[1] | 1
    plan.pitch_raised = plan.raised_tile[1] | 1
    plan.pitch_tile = plan.tile[1] | 1
    sources, raised = plan.source_tile[0] * plan.pitch_source, plan.raised_tile[0]
    between = 0 if plan.first_full else raised * plan.pitch_source
    lowered = 0 if plan.second_full else raised * plan.pitch_tile
    grouped = plan.group_shift > 0
    plan.floats_a = max(raised * plan.pitch_raised, 0 if plan.first_full or grouped else sources)
    plan.floats_b = max(between, lowered, sources if plan.first_full and not grouped else 0)
    plan.floats_in = sources | 1 if grouped else 0
    plan.floats_out = plan.tile[0] * plan.pitch_tile | 1 if grouped else 0


def products_of_block(plan: FilteredPlan) -> int:
    """Return how many products a block computes."""
    rows, columns = plan.raised_tile
    tall, wide = plan.tile
    first, second = plan.first_taps, plan.second_taps
    before = [_ceil(first[i], plan.up) for i in range(2)]
    if plan.first_full:
        found = rows * columns * before[0] * before[1]
    else:
        found = plan.source_tile[1] * rows * before[0] + rows * columns * before[1]
    if plan.second_full:
        found += tall * wide * second[0] * second[1]
    else:
        found += rows * wide * second[1] + tall * wide * second[0]
    return int(found * plan.group)


@lru_cache(maxsize=1024)
def plan_resampled(r: Resampling, room: Room) -> ResamplePlan | None:
    """Return the plan of a problem with its tiles; None where no tile fits. It is read only."""
    plan = ResamplePlan(
        images=r.shape[0], channels=r.shape[1], up=r.up, down=r.down, full=r.full, flip=r.flip,
        gain=r.gain, source_at=Strides.of(*r.shape[1:], last=r.last),
        result_at=Strides.of(r.shape[1], *r.result, last=r.last),
    )  # fmt: skip
    set_pairs(plan, source=r.shape[2:], result=r.result, taps=r.taps, pad=r.pad)
    for limit in (room.half_bytes, room.shared_bytes):
        for shift in _shifts(r.shape[1], r.value_bytes if r.last else None):
            plan.group_shift = shift
            for tile in _sides(_FINE if shift else 1):
                _lay_out_resampled(plan, tile)
                if shared_bytes(plan, r.sum_bytes) <= limit:
                    return plan
    return None


def _sides(least: int) -> Iterator[Pair]:
    yield from ((32, 64), (32, 32))
    side = 16
    while side >= least:
        yield side, side
        side //= 2


def _lay_out_resampled(plan: ResamplePlan, tile: Pair) -> None:
    for i in range(2):
        plan.tile[i] = min(tile[i], max(plan.result[i], 1))
        plan.tiles[i] = _ceil(plan.result[i], plan.tile[i])
        reach = (plan.tile[i] - 1) * plan.down + plan.up - 1 + plan.taps[i] - 1
        plan.source_tile[i] = reach // plan.up + 1
