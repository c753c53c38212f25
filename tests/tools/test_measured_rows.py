"""Rows on disk: they are kept, told apart, and refused where they are of something else."""

from __future__ import annotations

import json
import statistics

import measured_rows as tool
import pytest

from hpd.errors import RunError


def test_rows_are_on_disk_at_once_and_found_again(tmp_path):
    path = tmp_path / "table.json"
    table = tool.Table(path, {"steps": 3})
    table.add({"row": "a", "seed": 0, "accuracy": 1.5})
    again = tool.Table(path, {"steps": 3})
    assert again.rows == [{"row": "a", "seed": 0, "accuracy": 1.5}]
    assert again.has(row="a", seed=0)
    assert not again.has(row="a", seed=1)


def test_a_file_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "table.json"
    tool.Table(path, {"steps": 3}).add({"row": "a"})
    before = path.read_bytes()
    with pytest.raises(RunError, match="other settings"):
        tool.Table(path, {"steps": 4})
    assert path.read_bytes() == before
    assert json.loads(before)["settings"] == {"steps": 3}


def test_several_seeds_are_pooled_as_one_sample():
    values = [[90.0, 94.0, 92.0], [80.0, 85.0, 84.0]]
    parts = [
        {"mean": statistics.fmean(v), "std": statistics.stdev(v), "students": 3} for v in values
    ]
    mean, std = tool.pooled(parts)
    together = values[0] + values[1]
    assert mean == pytest.approx(statistics.fmean(together))
    assert std == pytest.approx(statistics.stdev(together))
