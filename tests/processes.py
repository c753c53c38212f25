"""Distils small sets in several processes that a launcher started: see test_processes.py.

Usage: ``accelerate launch ... processes.py CONFIGS.json FOLDER``; CONFIGS.json maps names to
configs, and FOLDER gets the set of each as NAME.safetensors. Many in one start, since each process
takes seconds to import everything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hpd
from hpd.device import Processes
from hpd.files import write_tensors
from hpd.seals import digest_tensor


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
    if processes.is_first:
        (folder / "count").write_text(str(processes.count))
    processes.end()
    check_alone()


def check_alone() -> None:
    """Check that no thread exchanges any more: one that frees a tensor at the exit aborts it."""
    threads = Path("/proc/self/task")  # of Linux alone
    names = [(thread / "comm").read_text() for thread in threads.glob("*")]
    assert not [name for name in names if "gloo" in name], names


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
