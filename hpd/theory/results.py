"""What the experiment on multi-index tasks came to, and the claims that it is held to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.theory.settings import MultiIndexSettings

RECONSTRUCTION = (
    "A reconstruction: of Kinoshita, Nishikawa and Toyoizumi, arXiv 2603.14830 (2026), only the "
    "abstract could be read. Task, formulas and bounds are ours."
)
DISTILLED, TEACHER, UNLEARNED, REAL_POINTS = (
    "distilled", "one-step teacher", "random features", "real points"
)  # fmt: skip
SAME_START, OTHER_START, NETWORK, REAL = (
    "points and labels, same start", "points and labels, another start", "the network itself",
    "real examples",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One number.

    Args:
        part: ``alignment``, ``points`` or ``floats``.
        series: what was trained: ``distilled``, ``real``, ``one-step teacher``, ...
        rank: r.
        x: examples n, points m, or stored floats, by part.
        seed: of the task.
        value: alignment in [0, 1]; elsewhere mean squared error as a share of the variance.
    """

    part: str
    series: str
    rank: int
    x: int
    seed: int
    value: float


@dataclass(frozen=True)
class Check:
    """A claim about a mean over seeds.

    Args:
        claim: in words.
        value: the mean.
        worst: the number of the seed that is nearest to breaking it.
        bound: what the mean is held to.
        above: whether it must be above the bound, or below.
    """

    claim: str
    value: float
    worst: float
    bound: float
    above: bool

    @classmethod
    def of(cls, claim: str, values: Sequence[float], bound: float, *, above: bool) -> Check:
        """Check the mean of the numbers of all seeds."""
        worst = min(values) if above else max(values)
        return cls(claim, statistics.fmean(values), worst, bound, above)

    @property
    def holds(self) -> bool:
        """Whether the claim is true."""
        return self.value > self.bound if self.above else self.value < self.bound


@dataclass(frozen=True)
class MultiIndexResult:
    """All that was measured.

    Args:
        settings: sizes.
        seed: root of all randomness.
        measured: the numbers.
        checks: the claims.
    """

    settings: MultiIndexSettings
    seed: int
    measured: list[Measured]
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether all claims are true."""
        return all(check.holds for check in self.checks)

    def summary(self) -> dict[tuple[str, str, int, int], tuple[float, float]]:
        """Return mean and sample deviation over seeds by (part, series, rank, x)."""
        groups: dict[tuple[str, str, int, int], list[float]] = {}
        for one in self.measured:
            groups.setdefault((one.part, one.series, one.rank, one.x), []).append(one.value)
        return {
            key: (statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else 0.0)
            for key, own in groups.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return what `multi_index.json` holds."""
        return {
            "about": RECONSTRUCTION,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
            "checks": [{**vars(check), "holds": check.holds} for check in self.checks],
            "measured": [vars(one) for one in self.measured],
        }


def checks_of(settings: MultiIndexSettings, found: Sequence[Measured]) -> list[Check]:
    """Return the claims, held to what was measured."""

    def values(part: str, series: str, x: int | None = None) -> list[float]:
        """Return the numbers of one point of a curve, by seed."""
        own = [one for one in found if (one.part, one.series, one.rank) == (part, series, rank)]
        return [one.value for one in own if x in (None, one.x)]

    rank, n, m = settings.rank, settings.examples, settings.points
    floats = m * (settings.dimension + 1) + settings.width
    same, network = values("floats", SAME_START, floats), values("floats", NETWORK)
    lost = [a - b for a, b in zip(same, network, strict=True)]
    aligned, student = values("alignment", DISTILLED, n), values("points", DISTILLED, m)
    real, unlearned = values("points", REAL_POINTS), values("points", UNLEARNED)
    elsewhere = values("floats", OTHER_START, floats)
    alone = values("floats", REAL, m * (settings.dimension + 1))
    claims = [
        (f"alignment of {m} points of {n:,} examples", aligned, 0.5, True),
        (f"error of a student of {m} points", student, 0.2, False),
        (f"error of a student of {m} real points", real, 0.7, True),
        (f"error of a student of {m} real points and nothing else", alone, 0.9, True),
        ("error of random features", unlearned, 0.5, True),
        ("what labels lose to real data at their start", lost, 0.05, False),
        ("error of labels at another start", elsewhere, 0.9, True),
    ]
    checks = [
        Check.of(f"{claim}, r = {rank}", own, bound, above=above)
        for claim, own, bound, above in claims
        if own
    ]
    return [*checks, *_flattening(settings, found)]


def _flattening(settings: MultiIndexSettings, found: Sequence[Measured]) -> Iterator[Check]:
    """Yield the claim that r^2 points bring most of what the most points bring, for r of 2 and up.

    Of means over seeds alone, as what a single point brings is a matter of luck.
    """
    counts = settings.point_counts
    for rank in settings.ranks:
        if rank < 2 or rank**2 not in counts or not min(counts) < rank**2 < max(counts):
            continue
        own = [
            one for one in found if (one.part, one.series, one.rank) == ("points", DISTILLED, rank)
        ]
        first, middle, last = (
            statistics.fmean(one.value for one in own if one.x == count)
            for count in (min(counts), rank**2, max(counts))
        )
        claim = f"share of the gain of {max(counts)} points that {rank**2} bring, r = {rank}"
        yield Check.of(claim, [(first - middle) / (first - last)], 0.5, above=True)
