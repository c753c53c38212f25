"""What a run takes, line by line, on a clock that the test turns, and over its parts."""

from __future__ import annotations

import json
import time

import pytest
import torch
from conftest import SMALL_STUDENT
from small_runs import SMALL_EVALUATION, EndsAfter, small_config

import hpd
from hpd.artifacts import RunFolder
from hpd.artifacts.checkpoints import CheckpointFolder
from hpd.artifacts.costs import EVALUATION_LINES, LINES, as_cost, seconds_of
from hpd.artifacts.report.story import cost_rows
from hpd.engine.watching.cost import Cost

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_moment_belongs_to_one_line():
    clock = Clock()
    cost = Cost(CPU, clock)
    with cost.line("data"):
        clock.now += 50
    with cost.line("steps"):
        clock.now += 5
        with cost.line("scores"):
            clock.now += 3
        clock.now += 7
    clock.now += 2
    assert cost.seconds == {"data": 50.0, "steps": 12.0, "scores": 3.0, "other": 2.0}
    told = cost.as_json()
    # the interpreter with torch takes more than this
    assert told["peak_bytes"] > 50 * 2**20
    assert (told["seconds"], told["total_seconds"]) == (67.0, 67.0)
    assert (told["selection_seconds"], told["selection_share"]) == (3.0, round(3 / 67, 4))


def test_what_fails_is_counted():
    clock = Clock()
    cost = Cost(CPU, clock)
    with pytest.raises(ValueError), cost.line("scores"):
        clock.now += 3
        raise ValueError
    assert cost.as_json()["selection_seconds"] == 3.0


def test_nothing_has_no_share():
    assert Cost(CPU, Clock()).as_json()["selection_share"] == 0.0


def test_parts_add_up():
    clock = Clock()
    cost = Cost(CPU, clock)
    clock.now += 1
    cost.go_on({"other": 10.0, "steps": 4.0}, 2)
    assert cost.seconds == {"other": 11.0, "steps": 4.0}
    assert cost.as_json()["parts"] == 3


def lines_of(cost):
    return {name: cost[f"{name}_seconds"] for name in (*LINES, *EVALUATION_LINES)}


def check_sums(cost):
    lines = lines_of(cost)
    assert sum(lines.values()) == pytest.approx(cost["total_seconds"], abs=1e-6)
    assert sum(lines[name] for name in LINES) == pytest.approx(cost["seconds"], abs=1e-6)


def test_a_cost_goes_to_lines_and_back():
    seconds = {name: 1.0 + i for i, name in enumerate((*LINES, *EVALUATION_LINES))}
    assert seconds_of(as_cost(seconds)) == seconds
    check_sums(as_cost(seconds))
    *rows, total = cost_rows(as_cost(seconds))
    assert len(rows) == len(seconds)
    assert (
        total.time == f"{int(sum(seconds.values()) // 60)} min {sum(seconds.values()) % 60:.0f} s"
    )
    assert cost_rows({}) == []


@pytest.mark.parametrize("selection", ["last", "loss"])
def test_a_run_tells_its_cost(selection, tmp_path, monkeypatch):
    write = CheckpointFolder.write_part

    def slow(*arguments):
        time.sleep(0.1)
        return write(*arguments)

    # they are written beside the run, which waits at its end
    monkeypatch.setattr(CheckpointFolder, "write_part", slow)
    config = {
        "data": "digits",
        "source": {"kind": "pixel", "steps": 3},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": {"kind": selection, "every": 1},
        "evaluation": SMALL_EVALUATION,
    }
    run = hpd.distill(config, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "cost.json").read_text()) == run.cost
    assert hpd.load_run(tmp_path / "run").cost == run.cost
    check_sums(run.cost)
    lines = lines_of(run.cost)
    assert (lines["scores"] > 0.01) == (selection == "loss")
    for name in ("data", "objective", "steps", "curves", "results"):
        assert lines[name] > 0, name
    assert lines["checkpoints"] > 0.05
    assert all(lines[name] == 0 for name in EVALUATION_LINES)

    hpd.evaluate(run)
    evaluated = hpd.load_run(tmp_path / "run").cost
    check_sums(evaluated)
    assert all(evaluated[f"{name}_seconds"] > 0 for name in EVALUATION_LINES)
    assert {n: evaluated[f"{n}_seconds"] for n in LINES} == {n: lines[n] for n in LINES}
    hpd.evaluate(run, "seeds=1")
    again = hpd.load_run(tmp_path / "run").cost
    assert again["students_seconds"] > evaluated["students_seconds"]
    assert again["parts"] == 1
    page = hpd.report(run).read_text("utf-8")
    for name in ("steps", "results", "students"):
        assert {**LINES, **EVALUATION_LINES}[name] in page


def test_parts_of_a_run_that_was_ended_are_summed(tmp_path, generator_folder):
    config = small_config(tmp_path / "data", generator_folder)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=out, observers=[EndsAfter(5)])
    told = RunFolder(out).checkpoints.newest().about["cost"]
    # as if the first part had been long
    long = {**told["seconds"], "data": 1000.0, "steps": 500.0}
    newest = RunFolder(out).checkpoints
    checkpoint = newest.newest()
    checkpoint.about["cost"]["seconds"] = long
    newest.write(checkpoint)
    run = hpd.distill(config, out=out, resume=True)
    assert run.cost["parts"] == 2
    assert run.cost["data_seconds"] > 1000
    assert 500 < run.cost["steps_seconds"] < 600
    check_sums(run.cost)
    assert hpd.load_run(out).cost == run.cost
    assert "over the 2 parts of the run" in hpd.report(run).read_text("utf-8")
