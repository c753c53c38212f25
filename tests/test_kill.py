"""A run that is killed anywhere goes on to the same bytes, and leaves nothing lying about."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import TESTS
from kills import CONFIG, RUNS
from small_runs import contents, metrics

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
# what differs between two runs of the same seed: times, and what seals them
OF_ITS_TIME = (
    "metrics.jsonl", "cost.json", "evaluation.json", "checkpoints/step-03-000000.json"
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, str(TESTS / "kills.py"), str(folder)],
        # no waiting for others that build native operations
        env={**os.environ, "OMP_NUM_THREADS": "1", "HPD_OPS": "reference"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "report.json").read_text()), done.stderr


def test_every_killed_run_ends_like_the_whole_one(runs):
    folder, report, _ = runs
    whole = contents(folder / "whole")
    assert "evaluation.json" in whole
    # twelve steps, and what each of three stages came to
    assert len(metrics(folder / "whole")) == 15
    assert len(report) == RUNS + 1
    for entry in report:
        killed = contents(folder / entry["run"])
        assert set(killed) == set(whole), entry
        for name in set(whole) - set(OF_ITS_TIME):
            assert killed[name] == whole[name], (entry, name)
        assert metrics(folder / entry["run"]) == metrics(folder / "whole"), entry
        evaluations = (json.loads(files["evaluation.json"])["rows"] for files in (killed, whole))
        assert next(evaluations) == next(evaluations), entry


def test_kills_did_happen_at_all_ages_of_a_run(runs):
    """Or the test above would show nothing."""
    _, report, _ = runs
    assert sum(bool(entry["killed"]) for entry in report[:-1]) >= 0.8 * RUNS
    assert report[-1]["killed"] >= 5
    taken = {entry["kept"][0] for entry in report}
    assert 12 in taken
    assert len(taken) >= 5


def test_nothing_is_lost_but_the_steps_since_the_last_checkpoint_but_one(runs):
    _, report, _ = runs
    for entry in report:
        taken, kept = entry["kept"]
        # one is written beside the steps, while the next is not begun
        assert 0 <= taken - kept <= 2 * CONFIG["checkpoint_every"], entry


def test_no_kill_breaks_a_checkpoint(runs):
    """They are there whole or not at all, so none is ever passed over."""
    _, _, said = runs
    assert "broken" not in said
    assert "changed" not in said
