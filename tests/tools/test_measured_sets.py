"""Measuring configurations: what is kept, what comes out again, and what is measured anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import measured_sets
import pytest
import results as tool
from click.testing import CliRunner

import hpd

SMALL = (
    "digits-pixel-dm source.steps=2 selection=last curve_every=0 objective.real_batch=4"
    " 'evaluation.students=[{kind: convnet, width: 4}]' evaluation.training.epochs=1"
    " evaluation.training.min_steps=1 evaluation.full_training=null evaluation.scores=false"
)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Sets are measured in this process: a fresh one takes seconds to import torch."""
    monkeypatch.setattr(tool, "in_a_process", tool.measured)


def measure(tmp_path, *configs, sets=2, students=2):
    call = [
        *configs, "--out", str(tmp_path / "configs.json"), "--runs", str(tmp_path / "runs"),
        "--sets", str(sets), "--students", str(students),
    ]  # fmt: skip
    done = CliRunner().invoke(tool.main, call, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "configs.json").read_text()), done.output


def test_sets_of_several_seeds_are_measured_once_and_as_evaluate_does(tmp_path, monkeypatch):
    held, output = measure(tmp_path, SMALL)
    first, second = held["sets"]
    assert [first["seed"], second["seed"]] == [0, 1]
    assert {row["name"] for row in second["rows"]} == {"distilled"}
    assert {"distilled", "random_real"} <= {row["name"] for row in first["rows"]}
    assert first["cost"]["seconds"] > 0

    run = hpd.load_run(next((tmp_path / "runs").glob("digits-pixel-dm-1-*")))
    row = hpd.evaluate(run).row("distilled")
    assert second["rows"][0]["accuracies"] == pytest.approx(row.accuracies, abs=0.005)

    (mean,) = [row for row in held["rows"] if row["name"] == "distilled"]
    of_sets = [sum(one["rows"][0]["accuracies"]) / 2 for one in held["sets"]]
    assert mean["mean"] == pytest.approx(sum(of_sets) / 2, abs=0.01)
    assert f"distilled, convnet: {mean['mean']:.1f} +- {mean['std']:.1f} (2 sets, 4" in output

    monkeypatch.setattr(hpd, "distill", lambda *a, **k: pytest.fail("measured again"))
    again, _ = measure(tmp_path, SMALL)
    assert again == held


def test_other_settings_are_measured_anew_and_other_students_on_the_same_runs(tmp_path):
    held, _ = measure(tmp_path, SMALL, sets=1, students=1)
    folders = sorted((tmp_path / "runs").iterdir())
    more, _ = measure(tmp_path, SMALL, sets=1, students=2)
    assert sorted((tmp_path / "runs").iterdir()) == folders
    assert [len(one["rows"][0]["accuracies"]) for one in more["sets"]] == [2]
    assert more["sets"][0]["rows"][0]["accuracies"][:1] == held["sets"][0]["rows"][0]["accuracies"]
    both, _ = measure(tmp_path, SMALL.replace("steps=2", "steps=3", 1), sets=1, students=1)
    assert len(both["sets"]) == 2


def test_baselines_are_left_out_where_they_are_not_wanted(tmp_path):
    held, _ = measure(tmp_path, SMALL, "--alone", sets=1, students=1)
    assert [row["name"] for row in held["sets"][0]["rows"]] == ["distilled"]


def test_the_deviation_is_that_between_sets():
    assert measured_sets.spread([[50.0, 52.0, 54.0]]) == {
        "sets": 1, "students": 3, "mean": 52.0, "std": 2.0, "error": 1.155,
    }  # fmt: skip
    assert measured_sets.spread([[50.0], [50.0]])["std"] == 0.0


def test_a_set_has_a_process_of_its_own_with_one_thread(tmp_path):
    code = (
        "import os, sys, torch, results as tool\n"
        "class Told:\n"
        "    def measure(self, runs, baselines):\n"
        "        return os.getpid(), torch.get_num_threads(), runs, baselines\n"
        "if __name__ == '__main__':\n"
        "    pid, *found = tool.in_a_process(Told(), 'x', True)\n"
        "    print(pid != os.getpid(), found)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    tools = Path(__file__).parents[2] / "tools"
    told = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tools), "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert told.stdout.strip() == "True [1, 'x', True]"
