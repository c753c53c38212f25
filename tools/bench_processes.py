"""Time the steps of runs on one process and on several, with one thread each.

    OMP_NUM_THREADS=1 python tools/bench_processes.py --json processes.json

Each work is an ordinary run of the ten digits without selection: what is optimised, and what it is
matched to. Processes are started by torchrun and share out the classes; the median of the first
one's steps counts, which includes all waiting for the others. There should be a core for each.

What the machine allows is measured beside it: as many runs at once that share nothing. Cores have
caches, memory and clocks in common, so that they too take fewer steps in sum than one run times
their number.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from commands import tool

DM = {"kind": "distribution", "real_batch": 64}
STUDENT = {"kind": "convnet", "width": 64}
WORKS: dict[str, dict[str, Any]] = {
    "pixel, distribution": {"source": {"kind": "pixel"}, "objective": DM},
    "pixel, gradient": {
        "source": {"kind": "pixel"}, "objective": {"kind": "gradient", "real_batch": 64},
    },
    "gan level 0, distribution": {
        "source": {"kind": "gan", "generator": "digits16", "levels": [0], "images_per_class": 10},
        "objective": DM,
    },
    "hmn, distribution": {
        "source": {"kind": "hmn", "budget_images": 10, "decoder": {"kind": "conv", "fit_steps": 1}},
        "objective": DM,
    },
    "pixel, trajectory": {
        "source": {"kind": "pixel"},
        "objective": {
            "kind": "trajectory", "expert_epochs": 1, "max_start_epoch": 1, "student_steps": 5,
            "expert_training": {"count": 1, "training": {"epochs": 2, "batch_size": 64}},
        },
    },
}  # fmt: skip


def config_of(work: str, steps: int, folder: Path) -> dict[str, Any]:
    """Return the configuration of a work."""
    own = WORKS[work]
    objective = own["objective"] | {"student": STUDENT}
    if objective["kind"] == "trajectory":
        objective["experts"] = str(folder / "experts")
    return {
        "data": {"kind": "digits"}, "device": "cpu", "source": own["source"] | {"steps": steps},
        "objective": objective, "selection": {"kind": "last"},
    }  # fmt: skip


class Times:
    """An observer that keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, report: Any) -> None:
        """Keep a step's."""
        self.seconds.append(report.seconds)

    def on_stage(self, report: Any) -> None:
        """Hear of a stage."""


def take_steps(works: Sequence[str], steps: int, folder: Path, result: Path) -> None:
    """Take the steps of all works in one of several processes, and write their medians."""
    import hpd
    from hpd.config import load_config
    from hpd.machine.allocator import keep_freed_memory
    from hpd.machine.device import Processes

    keep_freed_memory()  # as the command line does
    processes = Processes.started(cpu=True)
    found = {}
    for work in works:
        config = load_config(config_of(work, steps, folder))
        if WORKS[work]["objective"]["kind"] == "trajectory" and processes.is_first:
            hpd.train_experts(config)
        found[work] = []
        for sharing in (processes, Processes())[: processes.count]:
            processes.any(False)  # all start at once
            times = Times()
            hpd.distill(config, processes=sharing, observers=[times])
            # the first step also prepares what all of them need
            found[work].append(statistics.median(times.seconds[1:] or [0.0]))
    if processes.is_first:
        result.write_text(json.dumps(found))
    processes.end()


def measure(works: Sequence[str], count: int, steps: int) -> dict[str, dict[str, float]]:
    """Return the steps per second of each work: of one process, of several, and of runs apart."""
    found: dict[str, dict[str, float]] = {work: {} for work in works}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for processes in (1, count):
            result = folder / "result.json"
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc_per_node", str(processes), __file__, "--folder", str(folder)),
                *("--steps", str(steps), *(f"--work={work}" for work in works)),
            ]
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            subprocess.run(command, check=True, env=environment)
            for work, seconds in json.loads(result.read_text()).items():
                if processes == 1:
                    found[work]["one"] = 1 / seconds[0]
                else:
                    found[work] |= {"several": 1 / seconds[0], "apart": processes / seconds[1]}
    return found


@tool(__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--count", type=click.IntRange(2), default=2, show_default=True)
@click.option("--work", "works", type=click.Choice([*WORKS]), multiple=True, default=[*WORKS])
@click.option("--steps", type=click.IntRange(2), default=12, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    path: Path | None, count: int, works: Sequence[str], steps: int, folder: Path | None
) -> None:
    """Print a table, and write it as JSON."""
    if folder is not None:  # in one of the processes
        take_steps(works, steps, folder, folder / "result.json")
        return
    found = measure(works, count, steps)
    click.echo(f"{'steps per second':26}  {1:>6}  {count:>6}   ratio  ratio of {count} runs apart")
    for work, rates in found.items():
        ratios = [rates[name] / rates["one"] for name in ("several", "apart")]
        shown = [rates["one"], rates["several"], *ratios]
        click.echo("  ".join([f"{work:26}", *(f"{value:6.2f}" for value in shown)]))
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
