"""Starts programs in surroundings that are not those of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HPD = [sys.executable, "-m", "hpd"]
FULL = Path("/dev/full")
# seconds that nothing here takes, on however busy a machine
LONG = 600
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a full device")
posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX alone")


def start(command, *, changes=(), removed=(), **options):
    """Run a command in this environment with some changes, and return how it ended."""
    environ = {k: v for k, v in os.environ.items() if k not in removed}
    environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict(changes)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": LONG} | options
    return subprocess.run(command, env=environ, check=False, **options)


def lines(content):
    return content.decode().splitlines()
