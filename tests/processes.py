"""Distils small sets in several processes that a launcher started: see test_processes.py.

Usage: ``accelerate launch ... processes.py CONFIGS.json FOLDER``; CONFIGS.json maps names to
configs, and FOLDER gets the set of each as NAME.safetensors. Then signals come at random. All in
one start, since each process takes seconds to import everything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Timer

import torch

import hpd
from hpd.artifacts import RunFolder
from hpd.disk.files import write_tensors
from hpd.disk.seals import digest_tensor
from hpd.engine.keeper import RunKeeper
from hpd.machine.device import Processes
from hpd.machine.interrupts import Interrupted, Interrupts

SIGNALS = 60


class Seen:
    """Counts the reports that come to this process."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, report):
        self.steps += 1

    def on_stage(self, report):
        pass


def main(configs: Path, folder: Path) -> None:
    processes = Processes.started(cpu=True)
    for name, config in json.loads(configs.read_text()).items():
        seen = Seen()
        run = hpd.distill(config, observers=[seen])
        # every process has the whole result, and one hears of the steps
        found = processes.objects((digest_tensor(run.distilled.images), seen.steps > 0))
        assert found == [(found[0][0], rank == 0) for rank in range(processes.count)]
        if processes.is_first:
            tensors = {"images": run.distilled.images, "initial": run.initial.images}
            write_tensors(folder / f"{name}.safetensors", tensors)
    check_signals(processes, RunFolder.create(folder / f"signals-{processes.rank}", ""))
    if processes.is_first:
        (folder / "count").write_text(str(processes.count))
    processes.end()
    check_alone()


class Counts(RunKeeper):
    """Counts steps, and exchanges something where a run would take a snapshot."""

    steps = 0

    def step(self):
        """What a run does: ask, agree, and hear what was agreed."""
        self.steps += 1
        agreed = self._processes.largest(self.asks())
        self.after_step(self.steps, lambda: None, agreed)

    def _begin(self, take):
        found = self._processes.sum(torch.ones(3))
        assert found.tolist() == [self._processes.count] * 3


def check_signals(processes: Processes, folder: RunFolder) -> None:
    """Check that all end after the same step, whoever hears SIGTERM at whatever moment."""
    random = Random(processes.rank)
    for i in range(SIGNALS):
        interrupts = Interrupts(repeated=True)
        keeper = Counts(folder, every=10**9, interrupts=interrupts, facts={}, processes=processes)
        seconds = random.uniform(0, 0.02)
        timer = Timer(seconds, os.kill, [os.getpid(), signal.SIGTERM])
        with interrupts, suppress(Interrupted), interrupts.deferred():
            # in turn one of them alone, and all of them
            if i % (processes.count + 1) in (processes.rank, processes.count):
                timer.start()
            with suppress(Interrupted):
                while True:
                    keeper.step()
            if timer.is_alive():
                timer.join()
        found = processes.objects(keeper.steps)
        assert len(set(found)) == 1, found


def check_alone() -> None:
    """Check that no thread exchanges any more: one that frees a tensor at the exit aborts it."""
    threads = Path("/proc/self/task")  # of Linux alone
    names = [(thread / "comm").read_text() for thread in threads.glob("*")]
    assert not [name for name in names if "gloo" in name], names


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
