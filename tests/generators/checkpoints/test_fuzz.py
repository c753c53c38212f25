"""Ten thousand damaged checkpoints: each loads or is refused, quickly and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TESTS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="limits of memory need Linux"
)


def fuzz(first, count, folder, kind="official"):
    worker = Path(__file__).with_name("fuzz_worker.py")
    paths = os.pathsep.join(map(str, (ROOT, TESTS)))
    done = subprocess.run(
        [sys.executable, str(worker), str(first), str(count), str(folder / "network.pkl"), kind],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    ends = {name: figures.get(name, 0) for name in ("refused", "loaded", "converted")}
    assert sum(ends.values()) == count
    # neither all refused, which would show too little, nor all loaded
    assert min(ends["refused"], ends["loaded"] + ends["converted"]) > count / 20
    assert figures["slowest_seconds"] < 2 and figures["more_mib"] < 1024
    return figures


def test_damaged_checkpoints(tmp_path):
    fuzz(0, 1000, tmp_path)


def test_damaged_torch_files_and_safetensors(tmp_path):
    fuzz(0, 500, tmp_path, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["official", "torch"])
def test_ten_thousand_damaged_checkpoints(tmp_path, kind):
    fuzz(1000, 5_000, tmp_path, kind)
