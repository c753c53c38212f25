"""Keeps a process under attack going: starts it, hears it, ends it where it hangs, notes all."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attacks import worker
from attacks.ledger import MOST_DETAILED, Ledger, Span, finding_line
from attacks.places import Place
from attacks.target import Target
from attacks.watch import MOST_BYTES

Told = dict[str, Any]
_TICKS = os.sysconf("SC_CLK_TCK")
_HPD = ("/hpd/", "/generators/")


@dataclass(frozen=True)
class Limits:
    """What one input may take.

    Args:
        processor_seconds: of processor time.
        seconds: by the clock, which includes waiting for others.
        more_bytes: than before it.
    """

    processor_seconds: float = 10.0
    seconds: float = 60.0
    more_bytes: int = MOST_BYTES


class Plan:
    """Which target comes next: each as often as its share says.

    Args:
        shares: of each target.
        start: the first number of each.
    """

    def __init__(self, shares: Mapping[str, float], start: Mapping[str, int]) -> None:
        self._shares, self._done = shares, dict.fromkeys(shares, 0)
        self._next = {name: start.get(name, 0) for name in shares}

    def take(self, count: int) -> tuple[str, range]:
        """Return the next target, and the numbers of its next inputs."""
        name = min(self._shares, key=lambda each: (self._done[each] / self._shares[each], each))
        self._done[name] += count
        first = self._next[name]
        self._next[name] = first + count
        return name, range(first, first + count)


class Supervisor:
    """Attacks targets, and keeps the ledger.

    Args:
        place: where it happens.
        targets: by name, prepared.
        ledger: gets spans and findings.
        sources: hash of the code that is attacked.
        limits: of one input.
        batch: inputs of one target, before the next target has its turn.
        save_seconds: between two lines of the ledger.
    """

    def __init__(
        self, place: Place, targets: Mapping[str, Target], ledger: Ledger, sources: str, *,
        limits: Limits | None = None, batch: int = 250, save_seconds: float = 5.0,
    ) -> None:  # fmt: skip
        self._place, self._targets, self._ledger = place, targets, ledger
        self._sources, self._limits = sources, limits or Limits()
        self._batch, self._save_seconds, self._saved = batch, save_seconds, time.monotonic()
        self._detailed = ledger.detailed()
        self._span, self._lines = Span("", 0, 0), list[Told]()
        shares = {name: target.share for name, target in targets.items()}
        self._plan = Plan(shares, ledger.next_numbers())
        self.told = Counter[str]()
        """How many inputs of each target were given."""

    def run(self, *, end: float = math.inf, inputs: int | None = None) -> None:
        """Attack until it is time to end, or for so many inputs.

        Args:
            end: as `time.monotonic` has it.
            inputs: of all targets together.
        """
        while time.monotonic() < end and (inputs is None or self.told.total() < inputs):
            left = self._batch if inputs is None else inputs - self.told.total()
            name, numbers = self._plan.take(min(self._batch, left))
            self._span = Span(name, numbers.start, numbers.start)
            while self._span.stop in numbers and time.monotonic() < end:
                self._give(name, range(self._span.stop, numbers.stop), end)
            self._save()

    def _give(self, name: str, numbers: range, end: float) -> None:
        """Have a process work on numbers until it has, hangs or crashes, or it is time to end."""
        process = _Process(self._work(name, iter(numbers)))
        try:
            while (lines := process.lines()) is not None:
                for told in lines:
                    self._hear(told)
                if time.monotonic() > end:
                    return
                if process.is_stuck(self._limits):
                    self._hear(self._hung(process))
                    return
                if time.monotonic() - self._saved > self._save_seconds:
                    self._save()
        finally:
            code = process.end()
        if self._span.stop in numbers:
            self._hear(self._crashed(code))

    def _work(self, name: str, numbers: Iterator[int]) -> Callable[[int], None]:
        def work(descriptor: int) -> None:
            worker.run(
                self._place, self._targets[name], numbers, lambda line: os.write(descriptor, line),
                self._limits.more_bytes,
            )  # fmt: skip

        return work

    def _hung(self, process: _Process) -> Told:
        seconds, waited = process.silent_for()
        process.stop(signal.SIGUSR1)
        # until it has written where it is
        time.sleep(0.3)
        lines = [f"{seconds:.1f} s of processor time, {waited:.1f} s in all", *self._trace()]
        return self._last_words("hang", "hang", lines, seconds)

    def _crashed(self, code: int) -> Told:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return self._last_words("crash", name, self._trace(), 0.0)

    def _last_words(self, kind: str, name: str, lines: list[str], seconds: float) -> Told:
        """Return what is told of an input for a process that cannot any more."""
        own = next((line for line in lines if any(part in line for part in _HPD)), None)
        group = f"{name} in {_frame(own) if own else 'outside of hpd'}"
        made = self._targets[self._span.target].input(self._span.stop)
        return {
            "name": "finding", "target": self._span.target, "number": self._span.stop,
            "seconds": seconds, "grown": 0, "message": 0, "what": worker.told_of(made, self._place),
            "digest": made.digest(self._place),
            "findings": [{"kind": kind, "group": group, "lines": lines}],
        }  # fmt: skip

    def _trace(self) -> list[str]:
        path = worker.trace_path(self._place)
        return path.read_text(errors="replace").splitlines()[:24] if path.exists() else []

    def _hear(self, told: Told) -> None:
        """Add what came of an input to the span, and what was found to the ledger's next lines."""
        self._span.add(told["number"], told)
        self.told[told["target"]] += 1
        for finding in told["findings"]:
            group = f"{finding['kind']}: {finding['group']}"
            self._detailed[self._sources, group] += 1
            if self._detailed[self._sources, group] <= MOST_DETAILED:
                self._lines.append(finding_line(told, finding, self._sources))

    def _save(self) -> None:
        """Write the span so far, and go on with a new one."""
        self._saved = time.monotonic()
        if self._span.stop > self._span.first:
            self._ledger.add(*self._lines, self._span.line(self._sources))
        self._span, self._lines = Span(self._span.target, self._span.stop, self._span.stop), []


class _Process:
    """A process that was forked off.

    Args:
        work: what it does with a descriptor to write lines of JSON to, until it ends.
    """

    def __init__(self, work: Callable[[int], None]) -> None:
        self._reads, writes = os.pipe()
        self._pid, self._rest = os.fork(), b""
        if not self._pid:
            code = 1
            try:
                os.close(self._reads)
                work(writes)
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        self._heard = (0.0, time.monotonic())

    def lines(self) -> list[Told] | None:
        """Return what it told, after a while of waiting; None if it has ended and told all."""
        ready, _, _ = select.select([self._reads], [], [], 0.2)
        if not ready:
            return []
        # a line each would wake this process a hundred times a second
        time.sleep(0.05)
        content = os.read(self._reads, 2**20)
        self._heard = (self._computed(), time.monotonic())
        if not content:
            return None
        *whole, self._rest = (self._rest + content).split(b"\n")
        return [json.loads(line) for line in whole]

    def is_stuck(self, limits: Limits) -> bool:
        """Return whether it has told nothing for too long."""
        computed, waited = self.silent_for()
        return computed > limits.processor_seconds or waited > limits.seconds

    def silent_for(self) -> tuple[float, float]:
        """Return for how many seconds it has told nothing: of processor time, and in all."""
        computed, at = self._heard
        return self._computed() - computed, time.monotonic() - at

    def _computed(self) -> float:
        with open(f"/proc/{self._pid}/stat", "rb") as file:  # noqa: PTH123 - many times a second
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def stop(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid, number)

    def end(self) -> int:
        """End it where it has not ended, and return its exit code, or minus a signal."""
        done, status = os.waitpid(self._pid, os.WNOHANG)
        # its pipe may close a moment before it has ended
        if not done and select.select([self._reads], [], [], 0)[0] and not os.read(self._reads, 1):
            done, status = os.waitpid(self._pid, 0)
        if not done:
            self.stop(signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
        os.close(self._reads)
        return os.waitstatus_to_exitcode(status)


def _frame(line: str) -> str:
    """Return file and function of a line of a trace, without the line's number."""
    file, _, rest = line.partition('", line ')
    for part in _HPD:
        if part in file:
            file = file[file.rindex(part) + 1 :]
    return f"{file}:{rest.rpartition(' in ')[2]}".strip()
