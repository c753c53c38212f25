"""Kills work at random moments, goes on with it, and compares what comes of it in the end."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attacks.ledger import Ledger, Span, finding_line
from attacks.places import Place, empty
from attacks.ranks import Ranks
from attacks.works import Work, contents, differences

# a process must have ended by then, whatever happened to others
_PATIENCE_SECONDS = 120.0
# work is killed once more as often as not
_AGAIN, _MOST_KILLS = 0.5, 6
# how long the others may take to notice, until a launcher tells them to end
_LAUNCHERS = (0.2, 3.0)
_RANDOM = re.compile(r"\.[a-z0-9_]{8}\b")


@dataclass
class Round:
    """Work that is killed, goes on, is killed again, and ends.

    Args:
        kills: processes that were killed.
        moments: when, and with which exit codes.
        problem: what is not as it should be, if anything.
        lines: what is known of that.
    """

    kills: int = 0
    moments: list[str] = field(default_factory=list)
    problem: str = ""
    lines: list[str] = field(default_factory=list)

    def fails(self, problem: str, lines: list[str]) -> None:
        """Note a problem."""
        self.problem, self.lines = problem, lines


class Killer:
    """Kills work.

    Args:
        place: where it happens.
        works: by name.
        ledger: gets a line for each round.
        sources: hash of the code.

    Raises:
        RuntimeError: if work does not end well that nobody kills.
    """

    def __init__(
        self, place: Place, works: Mapping[str, Work], ledger: Ledger, sources: str
    ) -> None:  # fmt: skip
        self._place, self._works, self._ledger, self._sources = place, works, ledger, sources
        self._said, self._next = place.root / "said", ledger.next_numbers()
        self._whole = {name: self._run_whole(work) for name, work in works.items()}
        self._left()

    @property
    def names(self) -> list[str]:
        """Of the work that is killed."""
        return list(self._works)

    def _run_whole(self, work: Work) -> tuple[dict[str, object], float]:
        """Return what work comes to that nobody kills, and how many seconds it takes."""
        out, seconds = self._place.root / "whole" / work.name, 0.0
        # the second is not the first to read what it needs
        for _ in range(2):
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(exist_ok=True)
            work.begin(out)
            started = time.perf_counter()
            ranks = Ranks(work, out, self._said)
            ranks.wait(_PATIENCE_SECONDS)
            ranks.end()
            seconds = time.perf_counter() - started
            if any(ranks.codes):
                raise RuntimeError(f"{work.name} ends with {ranks.codes}: {self._complaints()}")
        return contents(out), seconds

    def round(self, name: str) -> int:
        """Do one round of a kind of work, write it to the ledger, and return its kills."""
        number = self._next.get(name, 0)
        self._next[name] = number + 1
        started = time.perf_counter()
        done = self._do(name, random.Random(f"{name}/{number}"))
        findings = [{"kind": "kill", "group": _group(name, done), "lines": done.lines}]
        told: dict[str, Any] = {
            "name": "finding" if done.problem else "the same bytes",
            "counts": {"kills": done.kills}, "seconds": time.perf_counter() - started, "grown": 0,
            "message": 0, "findings": findings if done.problem else [], "target": name,
            "number": number, "what": ", ".join(done.moments), "digest": "",
        }  # fmt: skip
        span = Span(name, number, number)
        span.add(number, told)
        lines = [finding_line(told, each, self._sources) for each in told["findings"]]
        self._ledger.add(*lines, span.line(self._sources))
        return done.kills

    def _do(self, name: str, rng: random.Random) -> Round:
        work, done = self._works[name], Round()
        whole, seconds = self._whole[name]
        out = self._place.outputs / "run"
        empty(self._place.outputs)
        work.begin(out)
        while done.kills < _MOST_KILLS and (not done.kills or rng.random() < _AGAIN):
            victim = None if work.ranks == 1 else rng.choice((None, *range(work.ranks)))
            if not self._kill(
                work, out, rng.uniform(0, seconds), victim, rng.choice(_LAUNCHERS), done
            ):
                break
        if not done.problem:
            self._end(work, out, done)
        if not done.problem:
            changed = differences(contents(out), whole) + self._left(out)
            if changed:
                done.fails(changed[0], changed[:20])
        return done

    def _kill(
        self, work: Work, out: Path, after: float, victim: int | None, launcher: float, done: Round,
    ) -> bool:  # fmt: skip
        """Go on with work and kill it after some seconds; return whether it was killed.

        Args:
            work: what.
            out: its folder.
            after: seconds.
            victim: rank of the process that is killed; None for all.
            launcher: seconds after which the others are told to end.
            done: gets what happened.
        """
        ranks = Ranks(work, out, self._said)
        ranks.wait(after)
        if ranks.send(signal.SIGKILL, victim) and not ranks.wait(launcher):
            ranks.send(signal.SIGTERM)
        in_time = ranks.wait(_PATIENCE_SECONDS)
        killed = ranks.codes.count(-signal.SIGKILL)
        done.moments.append(f"{after:.3f} s: {ranks.codes}")
        done.kills += killed
        if not in_time:
            done.fails("does not end when another process is killed", self._complaints())
        elif not killed and any(ranks.codes):
            done.fails(f"ends with {ranks.codes}", self._complaints())
        ranks.end()
        return bool(killed) and not done.problem

    def _end(self, work: Work, out: Path, done: Round) -> None:
        """Go on with work to its end."""
        ranks = Ranks(work, out, self._said)
        if not ranks.wait(_PATIENCE_SECONDS):
            done.fails("does not end", self._complaints())
        elif any(ranks.codes):
            done.fails(f"ends with {ranks.codes}", self._complaints())
        ranks.end()

    def _left(self, out: Path | None = None) -> list[str]:
        """Return what lies about, and remove it."""
        beside = [p.name for p in self._place.outputs.iterdir() if p != out]
        return [
            f"leaves {name}"
            for name in (*beside, *empty(self._place.current), *empty(self._place.temporary))
        ]

    def _complaints(self) -> list[str]:
        return self._said.read_text(errors="replace").splitlines()[-24:]

    def found(self, name: str) -> str:
        """Do one round that goes to no ledger, and return the group of what it found."""
        number = self._next.get(name, 0)
        self._next[name] = number + 1
        done = self._do(name, random.Random(f"{name}/{number}"))
        return f"kill: {_group(name, done)}" if done.problem else ""


def _group(name: str, done: Round) -> str:
    """Return what problems of one cause have in common."""
    return f"{_RANDOM.sub('.*', done.problem)} ({name.removeprefix('kill-')})"
