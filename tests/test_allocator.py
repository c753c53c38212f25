"""What the process does with freed memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from hpd.machine.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**22)  # 16 MiB, 4,096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(before, keep_freed_memory(), faults(), faults())
"""


def run(**environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    before, took, _, after = result.stdout.split()
    return int(before), took == "True", int(after)


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc"
)
def test_large_tensors_get_the_same_pages_again():
    before, took, after = run()
    assert took
    assert after < before / 4


def test_the_environment_goes_first():
    _, took, _ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not took
