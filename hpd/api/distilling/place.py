"""The place of a run: its folder, who holds it, signals that end it, where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from hpd.api.distilling.built import Built
from hpd.api.distilling.resuming import GO_ON, facts_of, open_run
from hpd.artifacts import RunFolder
from hpd.artifacts.places import writing_to
from hpd.disk.locks import held
from hpd.engine.keeper import RunKeeper
from hpd.engine.snapshot import Snapshot
from hpd.machine.device import Processes
from hpd.machine.interrupts import Interrupts


@dataclass(frozen=True)
class Place:
    """Where a run is kept; nowhere without a folder.

    Args:
        folder: held by this run.
        keeper: writes it down on its way.
        since: where it goes on; None from the start.
        interrupts: that wait for the end of a step.
    """

    folder: RunFolder | None = None
    keeper: RunKeeper | None = None
    since: Snapshot | None = None
    interrupts: Interrupts | None = None

    def deferred(self) -> AbstractContextManager[object]:
        """Let signals wait for the end of a step, where the run is kept."""
        return nullcontext() if self.interrupts is None else self.interrupts.deferred()


@contextmanager
def place_of(
    folder: RunFolder | None, built: Built, processes: Processes, holder: ExitStack | None
) -> Iterator[Place]:
    """Make or open the folder of a run, hold it, and let go of it in the end.

    Args:
        folder: of the run; None for a run that is not kept.
        built: what it rests on.
        processes: that share it, and call this at once.
        holder: holds the folder beyond this, until it is closed; None: nobody does.

    Raises:
        RunError: if another process works in the folder, if it cannot be written to, or if the run
            in it rests on something else.
    """
    if folder is None:
        yield Place()
        return
    settings = built.settings
    with ExitStack() as stack:
        hold = held(folder.path, "distil into", lends=holder is not None)
        processes.first(lambda: (holder or stack).enter_context(hold))
        stack.enter_context(writing_to(folder.path, GO_ON))
        # the launcher of several passes on what the terminal tells each of them, too
        interrupts = stack.enter_context(Interrupts(repeated=processes.count > 1))
        facts = facts_of(built.images, built.source, built.objective)
        since = open_run(folder, settings, facts, processes)
        if since is not None:
            built.cost.go_on(since.seconds, since.parts)
        keeper = RunKeeper(
            folder, every=settings.checkpoint_every, interrupts=interrupts, facts=facts,
            processes=processes, minutes=settings.checkpoint_minutes,
        )  # fmt: skip
        yield Place(folder, keeper, since, interrupts)
