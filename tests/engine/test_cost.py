"""What a run and its selection take, on a clock that the test turns."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import SMALL_STUDENT

from hpd import distill
from hpd.engine.cost import Cost

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_share_is_that_of_building_and_scoring():
    clock = Clock()
    cost = Cost(CPU, clock)
    clock.now += 50  # the data and the source

    def build():
        clock.now += 6
        return score

    def score(images, labels):
        clock.now += 0.5
        return 7.0

    selector = cost.selector(build)
    for _ in range(8):
        assert selector(torch.zeros(1), torch.zeros(1)) == 7.0
        clock.now += 5  # the steps
    told = cost.as_json()
    # the interpreter with torch takes more than this
    assert told.pop("peak_bytes") > 50 * 2**20
    assert told == {"seconds": 100.0, "selection_seconds": 10.0, "selection_share": 0.1}


def test_a_score_that_fails_is_counted():
    clock = Clock()
    cost = Cost(CPU, clock)

    def score(images, labels):
        clock.now += 3
        raise ValueError

    selector = cost.selector(lambda: score)
    with pytest.raises(ValueError):
        selector(torch.zeros(1), torch.zeros(1))
    assert cost.as_json()["selection_seconds"] == 3.0


def test_nothing_has_no_share():
    assert Cost(CPU, Clock()).as_json()["selection_share"] == 0.0


@pytest.mark.parametrize("selection", ["last", "loss"])
def test_a_run_tells_its_cost(selection, tmp_path):
    config = {
        "data": "digits",
        "source": {"kind": "pixel", "steps": 3},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": {"kind": selection, "every": 1},
    }
    run = distill(config, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "cost.json").read_text()) == run.cost
    assert 0 <= run.cost["selection_share"] < 1
    assert (run.cost["selection_seconds"] > 0.01) == (selection == "loss")
