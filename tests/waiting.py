"""One process works for long while the other waits: see test_processes.py.

Usage: ``accelerate launch ... waiting.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

import hpd.machine.device
import hpd.machine.exchange
from hpd.machine.device import Processes


def main(folder: Path) -> None:
    # of the group of tensors, to which nobody comes late
    hpd.machine.device._PATIENCE = timedelta(seconds=4)
    hpd.machine.exchange.LOOK = timedelta(seconds=1)
    processes = Processes.started(cpu=True)
    started = time.monotonic()
    processes.first(lambda: time.sleep(6))
    waited = time.monotonic() - started
    total = processes.sum(torch.ones(1))
    (folder / f"{processes.rank}.json").write_text(json.dumps([waited, int(total)]))
    processes.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
