"""Ranking sets by scores: what is kept on the way, and that the path is that of the run."""

from __future__ import annotations

import json

import pytest
import rank_selectors as tool
import torch
from conftest import SMALL_STUDENT

import hpd
from hpd.config import load_config
from hpd.errors import RunError

CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1", "2"]},
    "source": {"kind": "gan", "generator": "digits16", "average_draws": 10, "levels": [0, 3],
               "steps": 4},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": {"kind": "class_relevant", "student": SMALL_STUDENT, "training": {"epochs": 1},
                  "every": 2},
    "evaluation": {"students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    held = tool.rank(CONFIG, [], folder / "r.json", folder / "l.png", seeds=1, sets=3)
    return folder, held


def test_the_sets_are_those_of_the_run():
    settings = load_config(CONFIG)
    gallery, _ = tool.walk(settings, settings.data.build(), 3)
    # at steps 0 and 2 of each level, and at its end
    assert [kept.stage[0] for kept in gallery.sets] == list("000333")
    assert sum(kept.best for kept in gallery.sets) == 2
    run = hpd.distill(settings)
    final = min((kept for kept in gallery.sets), key=lambda kept: kept.score)
    assert torch.equal(final.images, run.distilled.images)
    assert torch.equal(gallery.sets[0].images, run.initial.images)


def test_every_set_has_every_score(ranked):
    folder, held = ranked
    assert json.loads((folder / "r.json").read_text()) == held
    (run,) = held["runs"]
    assert 4 <= len(run) <= 6
    for row in run:
        assert row["scores"].keys() == tool.SCORES.keys()
        assert 0 <= row["accuracy"] <= 100
    assert held["correlations"].keys() == tool.SCORES.keys()
    assert (folder / "l.png").stat().st_size > 1000


def test_seeds_are_added_and_none_is_measured_twice(ranked, monkeypatch):
    folder, held = ranked
    asked = []

    def measure(settings, sets):
        asked.append(settings.seed)
        return held["runs"][0]

    monkeypatch.setattr(tool, "measure", measure)
    again = tool.rank(CONFIG, [], folder / "r.json", None, seeds=3, sets=3)
    assert (asked, len(again["runs"])) == ([1, 2], 3)
    with pytest.raises(RunError, match="other settings"):
        tool.rank(CONFIG, [], folder / "r.json", None, seeds=3, sets=4)


def test_correlations_are_over_all_sets_and_within_runs():
    def row(score, accuracy):
        return {"scores": dict.fromkeys(tool.SCORES, score), "accuracy": accuracy}

    # within each run the lower score is better; between them the higher
    runs = [[row(1, 60), row(2, 50)], [row(3, 90), row(4, 80)]]
    value = tool.correlations(runs)["loss"]
    assert value == {"together": 0.6, "within": -1.0}


def test_levels_begin_with_the_start():
    def row(stage, accuracy, best):
        scores = {"class-relevant distance": accuracy / 10}
        return {"stage": stage, "best": best, "accuracy": accuracy, "std": 1.0, "scores": scores}

    run = [row("0 ws", 50.0, False), row("0 ws", 60.0, True), row("3 b8", 70.0, True)]
    got = [(p.name, p.accuracy_mean, p.distance) for p in tool.levels(run)]
    assert got == [("start", 50.0, 5.0), ("0 ws", 60.0, 6.0), ("3 b8", 70.0, 7.0)]
