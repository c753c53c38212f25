"""One process under attack: takes numbers, gives each input to hpd, tells what came of it."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from attacks.places import Place, empty
from attacks.target import Input, Target
from attacks.watch import MOST_BYTES, Outcome, Watch


def run(
    place: Place, target: Target, numbers: Iterator[int], tell: Callable[[bytes], object],
    most_bytes: int = MOST_BYTES,
) -> None:  # fmt: skip
    """Give inputs to hpd, one after another, and tell of each in a line of JSON.

    Args:
        place: of this process.
        target: prepared.
        numbers: of its inputs.
        tell: hears a line.
        most_bytes: see `Watch`.
    """
    _be_quiet(place)
    for folder in (place.current, place.temporary, place.outputs):
        empty(folder)
    watch = Watch(place, target.name, most_bytes)
    watch.limit()
    for number in numbers:
        made = target.input(number)
        outcome = watch.give(made.feed, named=made.named)
        told = asdict(outcome) | {"target": target.name, "number": number}
        if outcome.findings:
            told |= {"what": told_of(made, place), "digest": made.digest(place)}
        tell((json.dumps(told) + "\n").encode())


def told_of(made: Input, place: Place) -> str:
    """Return what an input is, wherever it takes place."""
    return made.what.replace(str(place.root), "PLACE")


def once(place: Place, target: Target, number: int) -> tuple[Outcome, Input]:
    """Give one input to hpd, in this process, and return what came of it, and the input."""
    watch, made = Watch(place, target.name), target.input(number)
    return watch.give(made.feed, named=made.named), made


def _be_quiet(place: Place) -> None:
    """Say nothing; where a process is when it is stopped or crashes goes to a file."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the whole process
    trace = trace_path(place).open("w")
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace, all_threads=False)


def trace_path(place: Place) -> Path:
    """Return the file that says where a process was when it ended."""
    return place.root / "trace"
