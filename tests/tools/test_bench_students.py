"""The benchmark of students asks each of its questions by every way, and gets one answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_students

TINY = ({"kind": "convnet", "width": 8}, (3, 16, 16), 6)


def test_all_ways_answer_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_students, "CASES", {"tiny": TINY})
    bench = bench_students.Bench(bench_students.STUDENTS.parse(dict(TINY[0])), *TINY[1:])
    exact = bench.exact()
    for what, ways in bench.ways(half=True).items():
        assert next(iter(ways)) == "float32" and list(ways)[-1] == "bfloat16"
        for name, work in ways.items():
            cosine = bench_students.least_cosine(work(), exact[what])
            low, high = (0.95, 1 - 1e-9) if name == "bfloat16" else (1 - 1e-6, 1.1)
            assert low < cosine < high, (what, name)


def test_figures_are_written_for_every_question(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_students, "CASES", {"tiny": TINY})
    path = tmp_path / "students.json"
    arguments = ["--seconds", "0", "--bfloat16", "--json", str(path)]
    result = CliRunner().invoke(bench_students.main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text(encoding="utf-8"))["tiny"]
    assert set(found) == {"embeddings", "weights", "images"}
    for ways in found.values():
        assert ways["float32"]["ratio"] == 1 and ways["float32"]["seconds"] > 0
        assert ways["bfloat16"]["ratio"] > 0 and ways["bfloat16"]["cosine"] > 0.9
    assert result.output.count("cosine") == 3


def test_without_bfloat16_it_is_left_out(monkeypatch):
    monkeypatch.setattr(bench_students, "CASES", {"tiny": TINY})
    monkeypatch.setattr(bench_students, "has_fast_bfloat16", lambda device: False)
    result = CliRunner().invoke(bench_students.main, ["--seconds", "0"])
    assert result.exit_code == 0 and "bfloat16" not in result.output
