"""The ledger of attacks: lines of JSON that are only ever added, and what they come to."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
# of one group, with one code; the rest are counted
MOST_DETAILED = 12
_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = frozenset({".py", ".j2", ".js", ".css", ".cpp", ".cu", ".h"})


def sources_hash() -> str:
    """Return a short hash of the code under attack."""
    digest = hashlib.sha256()
    for folder in ("hpd", "generators"):
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in _SOURCES and path.is_file():
                digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass
class Span:
    """Numbers of a target that follow each other, and what came of them.

    Args:
        target: its name.
        first: first number.
        stop: the number after the last.
        outcomes: how often what came of one.
        groups: how often what was found.
        seconds: of processor time in all.
        slowest: processor seconds of the slowest, and its number.
        largest: bytes more of the largest, and its number.
        longest: characters of the longest message, and its number.
    """

    target: str
    first: int
    stop: int
    outcomes: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    longest: tuple[int, int] = (0, -1)

    def add(self, number: int, told: Mapping[str, Any]) -> None:
        """Add what came of the next number.

        Raises:
            ValueError: if it is not the next.
        """
        if number != self.stop:
            raise ValueError(f"{self.target}: number {number} came after {self.stop - 1}")
        self.stop += 1
        self.outcomes[told["name"]] += 1
        self.outcomes.update(told.get("counts", {}))
        self.groups.update(f"{f['kind']}: {f['group']}" for f in told["findings"])
        self.seconds += told["seconds"]
        self.slowest = max(self.slowest, (round(told["seconds"], 3), number))
        self.largest = max(self.largest, (told["grown"], number))
        self.longest = max(self.longest, (told["message"], number))

    def line(self, sources: str) -> Line:
        """Return the line of the ledger."""
        return {
            "line": "span", "target": self.target, "sources": sources, "first": self.first,
            "stop": self.stop, "outcomes": dict(self.outcomes), "groups": dict(self.groups),
            "seconds": round(self.seconds, 3), "slowest": self.slowest, "largest": self.largest,
            "longest": self.longest, "at": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }  # fmt: skip


def finding_line(told: Mapping[str, Any], finding: Mapping[str, Any], sources: str) -> Line:
    """Return the line that tells of a finding in full."""
    return {
        "line": "finding", "target": told["target"], "number": told["number"],
        "group": f"{finding['kind']}: {finding['group']}", "sources": sources,
        "what": told["what"], "digest": told["digest"], "lines": finding["lines"],
    }  # fmt: skip


class Ledger:
    """A ledger on disk.

    Args:
        path: the file; half a line at its end, of a process that was killed, is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)

    def lines(self) -> Iterator[Line]:
        """Yield every line."""
        if self.path.exists():
            with self.path.open() as file:
                for line in file:
                    yield json.loads(line)

    def add(self, *lines: Line) -> None:
        """Add lines, in one piece."""
        said = "".join(json.dumps(line) + "\n" for line in lines)
        with self.path.open("a") as file:
            file.write(said)

    def next_numbers(self) -> dict[str, int]:
        """Return the number after the last one of each target."""
        found: dict[str, int] = {}
        for line in self.lines():
            if line["line"] == "span":
                found[line["target"]] = max(found.get(line["target"], 0), line["stop"])
        return found

    def detailed(self) -> Counter[tuple[str, str]]:
        """Return how often each group of findings is told in full, by code."""
        found = (line for line in self.lines() if line["line"] == "finding")
        return Counter((line["sources"], line["group"]) for line in found)


@dataclass
class Group:
    """Findings of one cause.

    Args:
        count: how many.
        targets: how many in which.
        sources: the code of the last.
        examples: some in full, the newest last.
        mended: whether a later look did not show it any more.
    """

    count: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    sources: str = ""
    examples: list[Line] = field(default_factory=list)
    mended: bool = False


def groups_of(lines: Iterable[Line]) -> dict[str, Group]:
    """Return what is known of each group of findings."""
    found: dict[str, Group] = {}
    for line in lines:
        if line["line"] == "span":
            for name, count in line["groups"].items():
                group = found.setdefault(name, Group())
                group.count += count
                group.targets[line["target"]] += count
                group.sources, group.mended = line["sources"], False
        elif line["line"] == "finding":
            found.setdefault(line["group"], Group()).examples.append(line)
        elif line["line"] == "recheck":
            found.setdefault(line["group"], Group()).mended = not line["shows"]
    return found
