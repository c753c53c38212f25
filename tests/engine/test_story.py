"""A run tells every score, which state it kept, and its loss on fixed draws, and is the same."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import STEPS, EndsAfter, Hears, KeepsSnapshots, contents, metrics, small_config
from threads import together

import hpd
from hpd.artifacts import RunFolder
from hpd.artifacts.metrics import read_metrics
from hpd.artifacts.report.charts import loss_chart, score_chart
from hpd.engine import SELECTORS, OptimizerSettings, optimise
from hpd.engine.curve import FIXED, fixed_loss
from hpd.engine.sharing import Share
from hpd.errors import NumericError
from hpd.machine.device import Processes
from hpd.objectives import ADD_ONS, OBJECTIVES
from hpd.objectives.adjustment import TeacherAdjustment
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import Matched

DM = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
# with memory, of every kind
REMEMBERS = {
    "gradient": {"network": {"steps": 3, "epochs": 1, "momentum": 0.9}},
    "trajectory": {"student_lr_rate": 1e-3},
    "recovery": {"adjustment": {"mode": "directed", "steps": 2}},
}


@pytest.fixture
def run(images):
    """Runs fresh parts, and returns the outcome and what was heard."""

    def go(
        source, objective=DM, *, curve=1, select=2, selector="last", processes=None, **options
    ):  # fmt: skip
        streams, hears = Streams(0), Hears()
        built = OBJECTIVES.parse(objective).build_whole(images, CPU, streams.fork("objective"))
        chosen = SELECTORS.parse(selector)
        outcome = optimise(
            SOURCES.parse(source).build(images, CPU, streams.fork("source")), built,
            chosen.build(images, CPU, streams.fork("selection"), built), OptimizerSettings(),
            hears, select_every=select, curve_every=curve, processes=processes, **options,
        )  # fmt: skip
        return SimpleNamespace(**vars(outcome), heard=hears)

    return go


def curve_of(outcome):
    return [
        (s.index, m.step, m.fixed_loss)
        for s in outcome.heard.stages
        for m in s.measured
        if m.fixed_loss is not None
    ]


def check_changes_nothing(run, source, objective):
    without, some, every = (run(source, objective, curve=n) for n in (0, 2, 1))
    assert curve_of(without) == []
    for outcome in (some, every):
        assert torch.equal(outcome.images, without.images)
        assert [s.loss for s in outcome.heard.steps] == [s.loss for s in without.heard.steps]
    # however often it is measured, and beside other scores, a state has the same loss
    often, seldom = curve_of(every), curve_of(some)
    assert set(seldom) < set(often)
    steps = [stage.stage.steps for stage in every.heard.stages]
    assert [k[:2] for k in often] == [(i, k) for i, n in enumerate(steps) for k in range(n + 1)]
    scored = run(source, objective, curve=1, select=1, selector="loss")
    assert curve_of(scored)[0] == often[0]
    return often


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_the_curve_changes_no_objective(run, kind, objective_options, source_settings):
    objective = {"kind": kind, **objective_options[kind], **REMEMBERS.get(kind, {})}
    source = source_settings("gan", levels=[0, 2], steps=4)
    check_changes_nothing(run, source, objective)


@pytest.mark.parametrize("kind", list(SOURCES))
def test_the_curve_changes_no_source(run, kind, source_settings):
    check_changes_nothing(run, source_settings(kind, images_per_class=2, steps=4), DM)


@pytest.mark.parametrize("kind", list(ADD_ONS))
def test_the_curve_changes_no_add_on(run, kind, source_settings):
    # the student of the add-on is that of its host
    objective = {**DM, "add_ons": [{"kind": kind}]}
    check_changes_nothing(run, source_settings("pixel", images_per_class=2, steps=4), objective)


def test_a_state_that_is_not_changed_has_the_same_loss_at_every_step(run, source_settings):
    source = source_settings("pixel", steps=6) | {"lr": 1e-30}
    outcome = run(source)
    assert len({loss for *_, loss in curve_of(outcome)}) == 1
    # as those of its steps have not: each is of draws of its own
    assert len({step.loss for step in outcome.heard.steps}) == 6


def test_a_fixed_loss_is_the_objective_at_the_fixed_step(images, source_settings):
    streams = Streams(0)
    objective = OBJECTIVES.parse(DM).build(images, CPU, streams.fork("objective"))
    source = SOURCES.parse(source_settings("pixel")).build(images, CPU, streams.fork("source"))
    source.enter(0)
    rendered, _ = source.render(torch.arange(len(source.labels)))
    wanted = objective(rendered, source.labels, FIXED).loss
    share = Share(Processes(), source)
    assert fixed_loss(source, objective, share, Processes()) == wanted
    assert fixed_loss(source, objective, share, Processes(), rendered) == wanted


@pytest.mark.parametrize("ends", ["raises", "nan"])
def test_what_cannot_be_measured_ends_no_run(images, ends, source_settings):
    class Sick:
        loaded = 0

        def __call__(self, batch, labels, step):
            if ends == "raises":
                raise NumericError("too large")
            return Matched(math.nan, torch.zeros_like(batch))

        def state(self):
            return {}

        def load_state(self, state):
            self.loaded += 1

    sick = Sick()
    source = SOURCES.parse(source_settings("pixel")).build(images, CPU, Streams(0))
    source.enter(0)
    assert fixed_loss(source, sick, Share(Processes(), source), Processes()) is None
    assert sick.loaded == 1


def test_weights_found_once_are_kept_while_their_images_are(
    images, monkeypatch, run, source_settings, objective_options
):
    """Else every measurement would cost the way of the adjusted teacher once more."""
    moved, move = [], TeacherAdjustment._move
    monkeypatch.setattr(TeacherAdjustment, "_move", lambda *a: moved.append(a[2]) or move(*a))
    objective = {"kind": "recovery", **objective_options["recovery"], **REMEMBERS["recovery"]}
    run(source_settings("pixel", steps=6), objective, curve=1)
    blocks = len(set(moved))
    # before the first step, whose images are not kept for the run, and at the first step
    assert len(moved) == 2 * blocks


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_several_processes_come_to_the_same_curve(run, kind, objective_options, source_settings):
    objective = {"kind": kind, **objective_options[kind], **REMEMBERS.get(kind, {})}
    source = source_settings("pixel", images_per_class=2, steps=3)
    wanted = run(source, objective)
    for found in together(2, lambda p: run(source, objective, processes=p)):
        assert torch.equal(found.images, wanted.images)
        (got, known) = curve_of(found), curve_of(wanted)
        assert [g[:2] for g in got] == [k[:2] for k in known]
        assert [g[2] for g in got] == pytest.approx([k[2] for k in known], rel=1e-5)


@pytest.mark.parametrize("kind", ["gradient", "trajectory"])
def test_a_run_tells_the_same_from_every_snapshot(
    run, kind, objective_options, source_settings, tmp_path
):
    objective = {"kind": kind, **objective_options[kind], **REMEMBERS[kind]}
    source, keeper = source_settings("gan", levels=[0, 2], steps=3), KeepsSnapshots(tmp_path)
    whole = run(source, objective, selector="loss", keeper=keeper)
    assert len(keeper.snapshots) == 8
    for snapshot in keeper.snapshots:
        again = run(source, objective, selector="loss", since=snapshot)
        assert list(again.stages) == list(whole.stages)


# whole runs -------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, generator_folder):
    return small_config(tmp_path / "data", generator_folder, curve_every=2)


def test_scores_are_the_same_in_the_metrics_the_report_and_python(config, tmp_path):
    hears = Hears()
    run = hpd.distill(config, out=tmp_path / "run", observers=[hears])
    assert list(run.stages) == hears.stages
    assert list(hpd.load_run(tmp_path / "run").stages) == hears.stages

    ends = [line for line in metrics(run.folder) if line["loss"] is None]
    for stage, end in zip(run.stages, ends, strict=True):
        steps = STEPS // 2
        assert [m.step for m in stage.measured] == [*range(0, steps, 2), steps]
        assert (end["best_step"], end["best_score"]) == (stage.best_step, stage.score)
        assert (end["step"], end["score"]) == (steps, stage.measured[-1].score)
        assert end["fixed_loss"] == stage.measured[-1].fixed_loss
        # what decided is among what is told
        (kept,) = [m for m in stage.measured if m.step == stage.best_step]
        assert kept.score == stage.score == min(m.score for m in stage.measured)
    # a selector of the same draws gives the same numbers
    assert all(m.score == m.fixed_loss for stage in run.stages for m in stage.measured)

    page = hpd.report(run).read_text("utf-8")
    for stage in run.stages:
        assert f"<td>after {stage.best_step} steps</td><td>{stage.score:.4g}</td>" in page
        for measured in stage.measured:
            assert f"<td>{measured.step}</td><td>{measured.score:.4g}</td>" in page


def test_the_plots_show_every_score_and_mark_the_kept_one(config, tmp_path):
    run = hpd.distill(config, out=tmp_path / "run")
    stages = read_metrics(RunFolder(run.folder))
    chart, steps = score_chart(stages), STEPS // 2
    wanted = [
        round(100 * (stage.index * steps + m.step) / STEPS, 3)
        for stage in run.stages
        for m in stage.measured
    ]
    assert [point.left for point in chart.points] == wanted
    assert [dot.left for dot in chart.dots] == [
        round(100 * (stage.index * steps + stage.best_step) / STEPS, 3) for stage in run.stages
    ]
    losses = loss_chart(stages)
    assert [len(line.split()) for line in losses.front] == [3, 3]
    assert [len(line.split()) for line in losses.lines] == [steps, steps]
    assert "always the same" in losses.note


def test_the_set_has_the_same_bytes_with_and_without_the_curve(config, tmp_path):
    hpd.distill(config, "curve_every=0", out=tmp_path / "without")
    hpd.distill(config, "curve_every=1", out=tmp_path / "with")
    without, curve = (contents(tmp_path / name) for name in ("without", "with"))
    for name in (
        "distilled.safetensors",
        "initial.safetensors",
        "checkpoints/stage-00.safetensors",
    ):
        assert without[name] == curve[name]
    lines = metrics(tmp_path / "without")
    assert all(line["fixed_loss"] is None for line in lines)
    page = hpd.report(tmp_path / "without").read_text("utf-8")
    assert "always the same; behind" not in page


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_resumed_run_has_the_same_story(config, tmp_path, step):
    whole = hpd.distill(config, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=tmp_path / "run", observers=[EndsAfter(step)])
    again = hpd.distill(config, out=tmp_path / "run", resume=True)
    assert metrics(again.folder) == metrics(whole.folder)
    assert list(again.stages) == list(whole.stages)
    # how often it is measured may change on the way
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=tmp_path / "other", observers=[EndsAfter(step)])
    other = hpd.distill(config, "curve_every=0", out=tmp_path / "other", resume=True)
    assert torch.equal(other.distilled.images, whole.distilled.images)


def test_runs_of_earlier_versions_still_load_and_report(config, tmp_path):
    run = hpd.distill(config, out=tmp_path / "run")
    path = run.folder / "metrics.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()]
    new = ("fixed_loss", "curve_seconds")
    kept = [{k: v for k, v in line.items() if k not in new} for line in old if line["loss"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (run.folder / "cost.json").write_text('{"seconds": 3.0, "selection_seconds": 1.0}')
    again = hpd.load_run(run.folder)
    assert (again.stages, again.cost) == ((), {"seconds": 3.0, "selection_seconds": 1.0})
    assert "3.0 s" in hpd.report(run).read_text("utf-8")
    path.write_text("{")
    assert hpd.load_run(run.folder).stages == ()
