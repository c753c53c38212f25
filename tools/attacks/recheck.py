"""Repeats what was found, with the code of now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from attacks.kills import Killer
from attacks.ledger import Group, Ledger, Line, groups_of
from attacks.places import Place
from attacks.supervisor import Supervisor
from attacks.target import Target
from attacks.targets import TARGETS, prepared
from attacks.works import works

# a kill finds a moment, which is another one each time
_ROUNDS = 6


def recheck_all(
    place: Place, ledger: Ledger, sources: str
) -> Iterator[tuple[str, bool | None]]:  # fmt: skip
    """Repeat the findings of each group that is not mended, and note what came of it.

    Yields:
        name of a group, and whether it still shows; None where its inputs are others by now, as
        after a change of their seeds or of how they are made.
    """
    groups = {n: g for n, g in groups_of(ledger.lines()).items() if not g.mended and g.examples}
    names = {example["target"] for group in groups.values() for example in group.examples}
    targets = prepared(place, sorted(names & set(TARGETS))) if names & set(TARGETS) else {}
    killed = {n: work for n, work in works(place.seeds).items() if n in names} if any(
        name.startswith("kill-") for name in names) else {}  # fmt: skip
    for name, group in groups.items():
        known = [e for e in _newest(group) if e["target"] in targets]
        if known:
            shows = _shows(place, targets, ledger, sources, name, known)
        else:
            kinds = {e["target"] for e in group.examples if e["target"] in killed}
            shows = None
            for kind in sorted(kinds):
                killer = Killer(place, {kind: killed[kind]}, Ledger(place.root / "again"), sources)
                shows = bool(shows) or any(name in killer.found(kind) for _ in range(_ROUNDS))
        if shows is not None:
            at = time.strftime("%Y-%m-%dT%H:%M:%S")
            ledger.add(
                {"line": "recheck", "group": name, "sources": sources, "shows": shows, "at": at}
            )
        yield name, shows


def _newest(group: Group) -> Sequence[Line]:
    return group.examples[:-9:-1]


def _kind(group: str) -> str:
    return group.partition(":")[0]


def _shows(
    place: Place, targets: dict[str, Target], ledger: Ledger, sources: str, name: str,
    examples: Sequence[Line],
) -> bool | None:  # fmt: skip
    """Return whether one of the examples shows; None where all inputs are others by now."""
    same = 0
    for example in examples:
        target, number = targets[example["target"]], example["number"]
        if target.input(number).digest(place) != example["digest"]:
            continue
        same += 1
        again = Ledger(place.root / "again")
        again.path.unlink(missing_ok=True)
        again.add({"line": "span", "target": target.name, "first": 0, "stop": number,
                   "groups": {}, "sources": sources})  # fmt: skip
        supervisor = Supervisor(place, {target.name: target}, again, sources, batch=1)
        supervisor.run(inputs=1)
        # a function may have another name by now
        if any(_kind(found) == _kind(name) for found in groups_of(again.lines())):
            return True
    return False if same else None
