"""What a check says: a line for each thing that holds, and an error for the first that does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpd.errors import CheckError, HpdError
from hpd.machine.memory import is_out_of_memory
from hpd.plugins import reason_of
from hpd.rng import no_global_draws

_STREAMS = "Draw from the streams that it is built with: streams.generator('what for')."


@dataclass(frozen=True)
class Finding:
    """One thing that holds.

    Args:
        what: it is.
        measured: by how much; None where there is nothing to measure.
        bound: that it was held to.
    """

    what: str
    measured: float | None = None
    bound: float | None = None

    def __str__(self) -> str:
        if self.measured is None:
            return self.what
        return f"{self.what}: {self.measured:.2g}, at most {self.bound:.2g}"


@dataclass(frozen=True)
class CheckReport:
    """What was found of a component that does all that is asked of its kind.

    Args:
        subject: what was checked, as messages name it.
        findings: in the order in which they were made.
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def lines(self) -> list[str]:
        """A line for each finding."""
        return [str(finding) for finding in self.findings]

    def __str__(self) -> str:
        return "\n".join([f"{self.subject}:", *(f"  {line}" for line in self.lines)])


@dataclass
class Examiner:
    """Makes findings, one after another, and stops at the first thing that is wrong.

    Args:
        subject: what is checked, as messages name it.
    """

    subject: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def report(self) -> CheckReport:
        """What was found so far."""
        return CheckReport(self.subject, tuple(self.findings))

    def within(self, what: str, measured: float, bound: float, fix: str = "") -> None:
        """Find that a number is small enough.

        Args:
            what: holds, as a statement.
            measured: how far it is from holding: 0 is best.
            bound: the most that is allowed.
            fix: what to do, as a sentence.

        Raises:
            CheckError: if it is larger, or none.
        """
        if not measured <= bound:
            raise CheckError(
                f"{self.subject} is not as asked: {what}",
                got=f"a difference of {measured:.3g}", expected=f"at most {bound:.2g}", fix=fix,
            )  # fmt: skip
        # of several stages the worst is told
        before = [f.measured for f in self.findings if f.what == what and f.measured is not None]
        self.findings = [finding for finding in self.findings if finding.what != what]
        self.findings.append(Finding(what, max([measured, *before]), bound))

    def holds(
        self, what: str, condition: bool, *, got: object = None, expected: object = None,
        fix: str = "",
    ) -> None:  # fmt: skip
        """Find that something is so.

        Raises:
            CheckError: if it is not.
        """
        if not condition:
            problem = f"{self.subject} is not as asked: {what}"
            raise CheckError(problem, got=got, expected=expected, fix=fix)
        if Finding(what) not in self.findings:
            self.findings.append(Finding(what))

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Run code of the component, and say what failed; see that it draws from nothing global.

        Args:
            what: it is asked for.

        Raises:
            CheckError: with file and line of what it raises; if it draws from torch's global
                random numbers, which are put back.
        """
        drew = CheckError(
            f"{self.subject} draws from torch's global random numbers, asked for {what}",
            fix=_STREAMS,
        )
        with no_global_draws(lambda: drew):
            try:
                yield
            except HpdError:
                raise
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise CheckError(
                    f"{self.subject} fails when asked for {what}", got=reason_of(error)
                ) from error


def slope_error(
    value_at: Callable[[int, float], float], slopes: Sequence[float], steps: Sequence[float]
) -> float:
    """Return how far slopes are from central differences, as a share of their length.

    Of several step sizes the best counts, for each direction: a small one drowns in rounding, a
    large one bends, and one across a kink is of neither side.

    Args:
        value_at: value of the function, so far along one of the directions.
        slopes: along each direction, as the gradient has them.
        steps: sizes to try.
    """
    wrong = 0.0
    total = max(sum(slope**2 for slope in slopes), 1e-300)
    for number, slope in enumerate(slopes):
        best = math.inf
        for step in steps:
            found = (value_at(number, step) - value_at(number, -step)) / (2 * step)
            best = min(best, (found - slope) ** 2)
            if best <= 1e-8 * total:
                break
        wrong += best
    return math.sqrt(wrong / total)


def gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, as a share of the largest value; inf for other shapes.

    >>> gap(torch.tensor([1.0, 3.9]), torch.tensor([1.0, 4.0]))  # doctest: +ELLIPSIS
    0.02...
    """
    if a.shape != b.shape:
        return math.inf
    if not a.numel() or torch.equal(a, b):
        return 0.0
    largest = float(b.abs().max())
    found = float((a.to(b) - b).abs().max()) / (largest or 1.0)
    return found if math.isfinite(found) else math.inf


def relative(a: float, b: float) -> float:
    """Return how far two numbers are from each other, as a share of the larger one.

    >>> relative(9.0, 10.0), relative(0.0, 0.0)
    (0.1, 0.0)
    """
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(a), abs(b), 1e-300)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors be of a dtype for the length of a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
