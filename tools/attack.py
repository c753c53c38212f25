"""Attack hpd's boundaries at scale: damaged inputs, and runs that are killed.

Each input follows from its target and its number alone. What came of it goes to a ledger, from
which the next start goes on. A finding is whatever is neither a result nor a short clear error:
see docs/reliability.md, which `page` writes.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from attacks.ledger import Ledger, groups_of, sources_hash
from attacks.places import Place, enter, new_place
from commands import Tool

_DOCS = Path(__file__).parents[1] / "docs"
_LEDGER = click.option(
    "--ledger", type=click.Path(path_type=Path), required=True, help="A file of JSON lines."
)
_HOURS = click.option("--hours", type=click.FloatRange(0), default=1.0, show_default=True)


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The commands."""


@contextmanager
def _attacking() -> Iterator[Place]:
    """Give a place of its own to this process, and take it away whatever ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = new_place()
    try:
        enter(place)
        yield place
    finally:
        shutil.rmtree(place.root, ignore_errors=True)


@main.command(cls=Tool)
@click.argument("targets", nargs=-1)
@_LEDGER
@_HOURS
@click.option("--inputs", type=click.IntRange(1), help="Stop after so many.")
@click.option("--batch", type=click.IntRange(1), default=250, help="Of a target, in its turn.")
def run(
    targets: tuple[str, ...], ledger: Path, hours: float, inputs: int | None, batch: int
) -> None:
    """Give damaged inputs to TARGETS, or to all of them."""
    book, sources, end = Ledger(ledger.absolute()), sources_hash(), _end(hours)
    with _attacking() as place:
        from attacks.supervisor import Supervisor
        from attacks.targets import prepared

        supervisor = Supervisor(place, prepared(place, targets), book, sources, batch=batch)
        supervisor.run(end=end, inputs=inputs)
    for name, count in supervisor.told.items():
        click.echo(f"{name:<18} {count:>9,}")


@main.command(cls=Tool)
@click.argument("works", nargs=-1)
@_LEDGER
@_HOURS
@click.option("--kills", type=click.IntRange(1), help="Stop after so many.")
def kill(works: tuple[str, ...], ledger: Path, hours: float, kills: int | None) -> None:
    """Kill WORKS, or all of them, at random moments, go on, and compare what comes of them."""
    book, sources, end = Ledger(ledger.absolute()), sources_hash(), _end(hours)
    with _attacking() as place:
        from attacks.kills import Killer
        from attacks.works import chosen

        killer, done = Killer(place, chosen(place.seeds, works), book, sources), Counter[str]()
        for name in itertools.cycle(killer.names):
            if time.monotonic() > end or (kills is not None and done.total() >= kills):
                break
            done[name] += killer.round(name)
    for name, count in done.items():
        click.echo(f"{name:<18} {count:>9,} kills")


def _end(hours: float) -> float:
    return time.monotonic() + 3600 * hours


@main.command(cls=Tool)
@click.argument("target")
@click.argument("number", type=click.IntRange(0))
@click.option("--save", type=click.Path(path_type=Path), help="Write the damaged file here.")
def once(target: str, number: int, save: Path | None) -> None:
    """Repeat input NUMBER of TARGET in this process; show it and what comes of it."""
    save = None if save is None else save.absolute()
    with _attacking() as place:
        from attacks import worker
        from attacks.targets import prepared

        outcome, made = worker.once(place, prepared(place, [target])[target], number)
        click.echo(worker.told_of(made, place))
    if save is not None:
        save.write_bytes(made.content)
    elif made.content:
        click.echo(repr(made.content[:1000]))
    click.echo(f"{outcome.name}, {outcome.seconds:.3f} s, {outcome.grown >> 20} MiB more")
    for finding in outcome.findings:
        click.echo(f"{finding.kind}: {finding.group}")
        click.echo("\n".join(f"    {line}" for line in finding.lines))


@main.command(cls=Tool)
@_LEDGER
@click.option("--all", "every", is_flag=True, help="Those that are mended, too.")
def findings(ledger: Path, every: bool) -> None:
    """List what was found, by its cause: the most frequent first."""
    groups = groups_of(Ledger(ledger).lines())
    for name, group in sorted(groups.items(), key=lambda pair: -pair[1].count):
        if group.mended and not every:
            continue
        click.echo(f"\n{group.count:>6}  {name}{'  (mended)' if group.mended else ''}")
        for example in group.examples[-2:]:
            click.echo(f"        {example['target']} {example['number']}: {example['what'][:160]}")
        for line in group.examples[-1]["lines"][-6:] if group.examples else ():
            click.echo(f"            {line[:160]}")


@main.command(cls=Tool)
@_LEDGER
def recheck(ledger: Path) -> None:
    """Repeat what was found with the present code, and note what does not show any more."""
    book, sources = Ledger(ledger.absolute()), sources_hash()
    with _attacking() as place:
        from attacks.recheck import recheck_all

        for name, shows in recheck_all(place, book, sources):
            click.echo(f"{ {True: 'shows', False: 'mended', None: 'unknown'}[shows]:<8} {name}")


@main.command(cls=Tool)
@_LEDGER
@click.option(
    "--docs", type=click.Path(path_type=Path), default=_DOCS, help="Folder of the page."
)  # fmt: skip
def page(ledger: Path, docs: Path) -> None:
    """Write reliability.json and reliability.md from the ledger."""
    from hpd.disk.files import write_bytes, write_json

    docs, book = docs.absolute(), Ledger(ledger.absolute())
    with _attacking():
        from attacks.page import figures, page_of
        from attacks.targets import TARGETS

        abouts = {name: target.about for name, target in TARGETS.items()}
        found = figures(book, sources_hash(), abouts)
    write_json(docs / "reliability.json", found)
    write_bytes(docs / "reliability.md", page_of(found).encode())


if __name__ == "__main__":
    main()
