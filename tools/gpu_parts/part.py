"""What a part is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["good", "bad", "skipped", "told"]
"""``told``: a figure that nothing is asked of."""

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One finding of a part.

    Args:
        what: was looked at.
        verdict: see `Verdict`.
        says: the finding, or the reason, for people.
        figures: the same as JSON.
    """

    what: str
    verdict: Verdict
    says: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a part runs.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        folder: for what the part writes.
        limit_seconds: after which it is ended.
    """

    device: str
    folder: Path
    limit_seconds: float = 600.0

    @property
    def tiny(self) -> bool:
        """Return whether sizes are small: on a CPU it is only seen that all runs."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Part:
    """What is run in a process of its own.

    Args:
        title: of its section.
        run: ``module:function``, which takes a `Place` and gives rows one by one.
        limit_seconds: after which it is ended.
        asked: what makes it good.
    """

    title: str
    run: str
    limit_seconds: float
    asked: str


def judged(good: bool) -> Verdict:
    """Return the verdict of a finding."""
    return "good" if good else "bad"


def verdict_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of a part: the first of bad, good, told and skipped that it has.

    >>> verdict_of(["good", "skipped"]), verdict_of(["good", "bad"]), verdict_of(["told"])
    ('good', 'bad', 'told')
    """
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("bad", "good", "told")
    return next((verdict for verdict in order if verdict in found), "skipped")


def failure(what: str, error: BaseException) -> Row:
    """Return the finding that something failed."""
    from hpd.machine.memory import is_out_of_memory

    said = " ".join(str(error).split())[:400]
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return Row(what, "bad", f"{kind}: {said}")


def guarded(what: str, look: Callable[[], Row]) -> Iterator[Row]:
    """Give a finding, or that looking failed: the next one is looked at all the same."""
    try:
        yield look()
    # anything at all, of torch, of a driver or of ours, is a finding
    except Exception as error:
        yield failure(what, error)
