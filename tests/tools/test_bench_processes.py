"""The benchmark of processes measures steps of the runs that it names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_processes

from hpd.config import load_config


@pytest.mark.parametrize("work", bench_processes.WORKS)
def test_every_work_is_a_run_that_can_be_started(work, tmp_path):
    config = load_config(bench_processes.config_of(work, 7, tmp_path))
    assert config.source.steps == 7


def test_steps_are_timed(tmp_path):
    works = ["pixel, distribution", "pixel, gradient"]
    bench_processes.take_steps(works, 3, tmp_path, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == works
    assert all(0 < seconds < 60 for both in found.values() for seconds in both)
