"""Ranking sets by scores: the sets of a walk, what is said of scores, and how a study goes on."""

from __future__ import annotations

import json

import pytest
import rank_selectors as tool
import torch
from click.testing import CliRunner
from conftest import SMALL_STUDENT

import hpd
from hpd.config import load_config
from hpd.engine import SELECTORS
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
NAMES = [*tool.SELECTIONS, "last"]


@pytest.fixture(scope="module")
def quick():
    """Small extractors, trained briefly."""
    small = {"student": SMALL_STUDENT}
    brief = {"trained": {"training": {"epochs": 1}}}
    extra = {"class_relevant": small, "ridge": {**small, "networks": 2}}
    with pytest.MonkeyPatch.context() as patch:
        selections = {
            name: {
                **options,
                **extra.get(options["kind"], {}),
                **(
                    brief.get(options.get("extractor", "trained"), {})
                    if options["kind"] == "class_relevant"
                    else {}
                ),
            }
            for name, options in tool.SELECTIONS.items()
        }
        patch.setattr(tool, "SELECTIONS", selections)
        yield


@pytest.fixture(scope="module")
def measured(quick, tmp_path_factory):
    """A study of one walk with the ends of its levels, and their picture."""
    folder = tmp_path_factory.mktemp("ranking")
    held = tool.study(CONFIG, [], folder / "r.json", name="digits", seeds=1, sets=3,
                      picture=folder / "l.png")  # fmt: skip
    return folder, held


def test_a_walk_is_a_run_without_selection():
    """Its sets are spread over all steps, the first is the start and the last the result."""
    settings = load_config(CONFIG)
    sights, labels, _ = tool.walk(settings, settings.data.build(), 5)
    assert [sight.steps for sight in sights] == [0, 2, 4, 6, 8]
    assert [sight.stage[0] for sight in sights] == list("s0033")
    assert labels.tolist() == [0, 1, 2]
    run = hpd.distill(load_config(CONFIG, ["selection=last"]))
    assert torch.equal(sights[0].images, run.initial.images)
    assert torch.equal(sights[-1].images, run.distilled.images)
    # what a stage ends with is what the run hands on, not what its own selection would restore
    short = hpd.distill(load_config(CONFIG, ["selection=last", "source.levels=[0]"]))
    assert torch.equal(sights[2].images, short.distilled.images)


def test_every_set_has_every_score(measured):
    folder, held = measured
    (walk,) = held.walks
    assert (walk["name"], walk["seed"]) == ("digits", 0)
    assert [row["steps"] for row in walk["sets"]] == [0, 4, 8]
    for row in walk["sets"]:
        assert list(row["scores"]) == list(row["seconds"]) == NAMES
        assert 0 <= row["accuracy"] <= 100
        assert all(seconds > 0 for name, seconds in row["seconds"].items() if name != "last")
    assert walk["verdicts"].keys() == walk["making_seconds"].keys() == set(NAMES)
    assert walk["verdicts"]["last"]["kept"] == walk["sets"][-1]["accuracy"]
    assert (folder / "l.png").stat().st_size > 1000
    stored = json.loads((folder / "r.json").read_text())
    assert stored["summary"] == tool.summary(held.walks)


def test_a_score_is_the_selectors_own(measured):
    settings = load_config(CONFIG, seed=0)
    dataset = settings.data.build()
    sights, labels, _ = tool.walk(settings, dataset, 3)
    streams = tool.Streams(0).fork("scores")
    selection = SELECTORS.parse(tool.SELECTIONS["ridge vote"])
    scorer = selection.build(dataset.train, torch.device("cpu"), streams, None)
    got = [row["scores"]["ridge vote"] for row in measured[1].walks[0]["sets"]]
    assert got == [scorer(sight.images, labels) for sight in sights]


def test_accuracy_is_the_mean_of_all_students():
    """Of all architectures, with the training of the config's evaluation."""
    other = {"kind": "convnet", "width": 3, "depth": 1}
    students = {**CONFIG["evaluation"], "students": [SMALL_STUDENT, other]}
    settings = load_config({**CONFIG, "evaluation": students})
    dataset = settings.data.build()
    sights, labels, _ = tool.walk(settings, dataset, 2)
    train = dataset.train
    part = tool.DistilledSet(sights[0].images, labels, train.classes, train.normalisation, 0)
    got = tool.accuracy_of(part, settings, dataset, torch.device("cpu"))
    rows = tool.compare(
        [tool.of_set("set", part, settings.evaluation.training)], dataset, settings.evaluation,
        device=torch.device("cpu"), streams=tool.Streams(0).fork("evaluation"),
    ).rows  # fmt: skip
    assert got["accuracy"] == pytest.approx(sum(row.accuracy_mean for row in rows) / 2, abs=1e-3)


def faked(monkeypatch, accuracies=(50.0, 60.0)):
    asked = []

    def measure(settings, sets, *, ends):
        asked.append((settings.seed, sets))
        rows = [row({"loss": -i, "last": -i}, value) for i, value in enumerate(accuracies)]
        return {"sets": rows, "making_seconds": {"loss": 2.0, "last": 0.0}, **tool.judged(rows)}

    monkeypatch.setattr(tool, "measure", measure)
    return asked


def row(scores, accuracy):
    return {"scores": scores, "accuracy": accuracy, "seconds": dict.fromkeys(scores, 0.5)}


def test_walks_are_added_and_none_is_measured_twice(tmp_path, monkeypatch):
    asked, out = faked(monkeypatch), tmp_path / "r.json"
    tool.study(CONFIG, [], out, name="a", seeds=2, sets=3)
    tool.study(CONFIG, [], out, name="a", seeds=3, sets=3)
    other = ["source.steps=5"]
    held = tool.study(CONFIG, other, out, name="b", seeds=1, sets=3)
    assert asked == [(0, 3), (1, 3), (2, 3), (0, 3)]
    walks = [(walk["name"], walk["seed"]) for walk in held.walks]
    assert walks == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    with pytest.raises(RunError, match="another walk 'a' of seed 0"):
        tool.study(CONFIG, other, out, name="a", seeds=1, sets=3)
    with pytest.raises(RunError, match="other settings"):
        tool.study(CONFIG, [], out, name="a", seeds=1, sets=4)


def test_a_study_goes_on_after_the_walk_that_was_stopped(tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    faked(monkeypatch)
    fake = tool.measure

    def stopped(settings, **rest):
        if settings.seed == 1:
            raise KeyboardInterrupt
        return fake(settings, **rest)

    monkeypatch.setattr(tool, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        tool.study(CONFIG, [], out, name="a", seeds=3, sets=3)
    asked = faked(monkeypatch)
    assert len(tool.study(CONFIG, [], out, name="a", seeds=3, sets=3).walks) == 3
    assert asked == [(1, 3), (2, 3)]


def test_what_is_said_of_a_score():
    scores = [{"good": 3, "bad": 1, "flat": 5}, {"good": 1, "bad": 3, "flat": 5},
              {"good": 2, "bad": 2, "flat": 5}]  # fmt: skip
    rows = [row(s, a) for s, a in zip(scores, (40.0, 60.0, 50.0), strict=True)]
    said = tool.judged(rows)
    assert said["best"] == 60
    assert said["verdicts"] == {
        "good": {"correlation": -1.0, "kept": 60.0, "lowest": 60.0, "seconds": 0.5},
        "bad": {"correlation": 1.0, "kept": 40.0, "lowest": 40.0, "seconds": 0.5},
        "flat": {"correlation": None, "kept": 40.0, "lowest": 40.0, "seconds": 0.5},
    }


def test_what_is_kept_is_what_a_run_keeps():
    """By the same rule as the loop's, with margins and without."""
    assert tool.kept_of([5, 3, 3, 4], [0, 0, 0, 0]) == 1
    assert tool.kept_of([5, 3, 3.5, 4.5], [1, 1, 1, 1]) == 2
    rows = [{**row({"a": s}, a), "margins": {"a": 1.0}} for s, a in ((3, 60.0), (3.5, 70.0))]
    verdict = tool.judged(rows)["verdicts"]["a"]
    assert (verdict["kept"], verdict["lowest"]) == (70.0, 60.0)


def test_the_summary_is_the_mean_over_walks():
    """Correlations are within walks: between them the higher score may well be the better."""
    runs = [[row({"loss": 1}, 60), row({"loss": 2}, 50)], [row({"loss": 4}, 90),
            row({"loss": 3}, 80)], [row({"loss": 1}, 70), row({"loss": 1}, 75)]]  # fmt: skip
    walks = [{"making_seconds": {"loss": 1.0}, "sets": run, **tool.judged(run)} for run in runs]
    assert tool.summary(walks) == {
        "loss": {"correlation": 0.0, "kept": 70.0, "lowest": 70.0, "lost": 5.0, "seconds": 0.5,
                 "making_seconds": 1.0}
    }  # fmt: skip


def test_levels_are_the_last_sets_of_stages():
    names = ["start", "0 ws", "0 ws", "3 b8"]
    rows = [
        {"stage": name, "accuracy": 50.0 + i, "std": 1.0,
         "scores": {"class-relevant, trained": i / 10}}
        for i, name in enumerate(names)
    ]  # fmt: skip
    got = [(p.name, p.accuracy_mean, p.distance) for p in tool.levels(rows)]
    assert got == [("start", 50.0, 0.0), ("0 ws", 52.0, 0.2), ("3 b8", 53.0, 0.3)]


def test_the_command_prints_the_tables_of_all_walks(tmp_path, monkeypatch):
    asked, out = faked(monkeypatch), str(tmp_path / "r.json")
    arguments = ["digits", "source.steps=3", "--seeds", "2", "--out", out]
    first = CliRunner().invoke(tool.main, arguments, catch_exceptions=False)
    assert "| loss | -1.00 | 60.0 | 0.0 | 60.0 | 0.500 | 2.0 |" in first.output
    assert "| digits source.steps=3 | 1 | 2 | -1.00 | -1.00 |" in first.output
    assert "| digits source.steps=3 | 0 | 2 | 60.0 | 60.0 | 60.0 |" in first.output
    again = CliRunner().invoke(tool.main, ["--out", out], catch_exceptions=False)
    assert (again.output, len(asked)) == (first.output, 2)
    nothing = CliRunner().invoke(tool.main, ["--out", str(tmp_path / "x.json")])
    assert (nothing.exit_code, "there is no" in nothing.output) == (1, True)
