"""Runs a small distillation in processes that are killed, and goes on with it: see test_kill.py.

One process imports everything once and forks a child for each attempt, since a start of its own
would cost each of them seconds. Usage: ``python kills.py FOLDER`` makes FOLDER/whole without a
kill, one folder for each way of being killed, and `report.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hpd.api
from hpd.artifacts import RunFolder

STUDENT = {"kind": "convnet", "width": 4, "depth": 2}
CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1", "8"]},
    "device": "cpu",
    "source": {
        "kind": "gan", "generator": "digits16", "levels": [0, 3, 6], "steps": 4,
        "average_draws": 2,
    },
    # its network goes through two steps with momentum, so there is something to remember
    "objective": {
        "kind": "gradient", "student": STUDENT, "real_batch": 4,
        "network": {"steps": 3, "epochs": 1, "momentum": 0.9},
    },
    "selection": {
        "kind": "class_relevant", "every": 2, "student": STUDENT, "training": {"epochs": 1},
    },
    "evaluation": {
        "students": [STUDENT], "seeds": 2, "training": {"epochs": 2}, "full_training": None,
    },
    "checkpoint_every": 2,
}  # fmt: skip
FORK = multiprocessing.get_context("fork")
# each stands for a moment before something happens to a file
EVENTS = {"open", "os.rename", "os.remove", "os.chmod", "os.truncate", "os.mkdir"}
SEED = 8
RUNS = 25


def distil(out: Path) -> None:
    """What `hpd distill CONFIG --out OUT --resume` does."""
    run = hpd.api.distill(CONFIG, out=out, resume=True)
    if not RunFolder(out).evaluated:
        hpd.api.evaluate(run)


def count_events(folder: Path, hear: Callable[[int], None]) -> None:
    """Call `hear` with 1, 2, ... before each change of a file in a folder, from now on."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            # a file that is read changes nothing
            if event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR):
                return
            count += 1
            hear(count)

    sys.addaudithook(hook)


def die_at(wanted: int) -> Callable[[int], None]:
    def hear(count: int) -> None:
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


def attempt(
    out: Path, *, event: int | None = None, after: float | None = None,
    work: Callable[[Path], object] = distil,
) -> bool:  # fmt: skip
    """Go on with a run in a child that is killed at an event or after some seconds.

    Returns whether it was killed before it was finished.
    """

    def child() -> None:
        if event is not None:
            count_events(out, die_at(event))
        work(out)

    process = FORK.Process(target=child)
    process.start()
    process.join(after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the child ended with {process.exitcode}")
    return process.exitcode != 0


def kept(out: Path) -> tuple[int, int]:
    """Return the steps that an interrupted run has taken, and those it has in a checkpoint."""
    metrics = out / "metrics.jsonl"
    # the last line may be half a line; one after each stage tells of no step
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    taken = sum(json.loads(line)["loss"] is not None for line in lines)
    steps = CONFIG["source"]["steps"]
    written = [json.loads(p.read_text()) for p in (out / "checkpoints").glob("step-*.json")]
    return taken, max((c["stage"] * steps + c["steps"] for c in written), default=0)


def main(folder: Path) -> None:
    """Make one run without interruption, and others with all kinds of kills."""
    draw, events = random.Random(SEED), []
    count_events(folder / "whole", events.append)
    # in this process, so that those forked off it have everything at hand
    distil(folder / "whole")
    started, report = time.perf_counter(), []
    distil(folder / "again")
    seconds = time.perf_counter() - started
    for run in range(RUNS):
        out = folder / f"killed-{run:02d}"
        by_event, by_time = draw.randint(1, len(events)), draw.uniform(0.02, 0.9 * seconds)
        killed = attempt(out, event=by_event) if run % 2 else attempt(out, after=by_time)
        report.append({"run": out.name, "killed": killed, "kept": kept(out)})
        attempt(out)
    # and one that is killed again and again
    out, kills = folder / "chased", 0
    while attempt(out, event=draw.randint(5, 40)):
        kills += 1
    report.append({"run": out.name, "killed": kills, "kept": kept(out)})
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
