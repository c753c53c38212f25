"""Read files that claim to be large, in a process with little memory and an alarm.

Run as a script: ``claims_worker.py FOLDER``. Prints one JSON object: for each entry of the folder
how reading it ended, processor time, and by how much the peak of memory rose.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from test_rosinality import make_weights

from generators import read_generator
from generators.checkpoints import inspect_checkpoint
from hpd.errors import GeneratorError

# files are mapped into it, which costs nothing
SECONDS, EXTRA_BYTES = 20, 3 * 2**30


def alarm(signum, frame):
    raise TimeoutError("too slow")


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(path):
    before, start = peak_mib(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read_generator(path)
        message = "read"
    except GeneratorError as error:
        message = str(error)
    if path.is_file():
        inspect_checkpoint(path)
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - start
    return {"message": message, "seconds": seconds, "more_mib": peak_mib() - before}


def main(folder):
    # what torch takes for itself at the first use is not what is measured
    warm = folder / "warm.pt"
    torch.save({"g_ema": make_weights(8)}, warm)
    read_generator(warm)
    warm.unlink()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, used + EXTRA_BYTES))
    signal.signal(signal.SIGPROF, alarm)
    found = {path.name: attempt(path) for path in sorted(folder.iterdir())}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
