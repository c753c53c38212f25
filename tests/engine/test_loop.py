"""The loop: the best state is kept, as a clone, and nothing that is broken goes on."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import CPU
from small_runs import Hears

from hpd.engine import OptimizerSettings, optimise
from hpd.engine.rendered import render_all
from hpd.errors import NumericError
from hpd.sources import SOURCES
from hpd.typing import Matched, Score


def brighten(images, labels, step):
    """An objective that wants every pixel brighter, without end."""
    return Matched(-float(images.mean()), -torch.ones_like(images) / images.numel())


def distance_to(target):
    """A selector that wants images of this mean."""
    return lambda images, labels: abs(float(images.mean()) - target)


def keep_last(images, labels):
    return None


@pytest.fixture
def source(images, streams):
    return SOURCES.parse({"kind": "pixel", "steps": 20, "lr": 0.1}).build(images, CPU, streams)


@pytest.fixture
def levels(images, streams, generator_folder):
    options = {"kind": "gan", "generator": generator_folder, "steps": 6, "lr_ws": 0.05}
    return SOURCES.parse(options).build(images, CPU, streams)


def run(source, selector, objective=brighten, select_every=1, observer=None):
    observer = observer or Hears()
    settings = OptimizerSettings()
    return optimise(source, objective, selector, settings, observer, select_every=select_every)


def test_the_best_is_a_clone_and_not_the_last(source):
    """The last step is worse than an earlier one; what comes back is the earlier one."""
    seen = []

    def selector(images, labels):
        seen.append((abs(float(images.mean()) - 0.6), images.clone()))
        return seen[-1][0]

    outcome = run(source, selector)
    best = min(range(len(seen)), key=lambda i: seen[i][0])
    assert 0 < best < len(seen) - 1
    assert outcome.stages[0].best_step == best
    assert torch.equal(outcome.images, seen[best][1])
    assert not torch.equal(outcome.images, seen[-1][1])
    assert torch.equal(render_all(source), seen[best][1])


def test_without_selection_the_last_is_kept(source):
    outcome = run(source, keep_last)
    assert outcome.stages[0].best_step == 20
    assert outcome.images.mean() > 0.8
    assert not outcome.kept_start


def test_a_stage_that_makes_things_worse_changes_nothing(source):
    outcome = run(source, distance_to(-1.0))
    assert outcome.stages[0].best_step == 0
    assert torch.equal(outcome.images, outcome.initial_images)
    assert outcome.kept_start


def test_the_best_stage_wins_and_scores_never_rise(levels):
    target = float(render_all(levels).mean()) + 0.02
    outcome = run(levels, distance_to(target))
    scores = [report.score for report in outcome.stages]
    assert scores == sorted(scores, reverse=True)
    assert scores[outcome.best_stage] == min(scores)
    assert scores.index(min(scores)) == outcome.best_stage
    assert abs(float(outcome.images.mean()) - target) == pytest.approx(min(scores), abs=1e-6)


def test_each_stage_starts_where_the_best_of_the_last_ended(levels):
    firsts, lasts = [], []

    def look(images, labels, step):
        if step.index == 0:
            firsts.append(images.clone())
        return brighten(images, labels, step)

    class Look(Hears):
        def on_stage(self, report):
            lasts.append(render_all(levels))

    run(levels, distance_to(0.5), look, observer=Look())
    for first, last in zip(firsts[1:], lasts[:-1], strict=True):
        torch.testing.assert_close(first, last)


def test_what_a_stage_starts_with_is_not_scored_again(levels):
    asked, observer = [], Hears()

    def selector(images, labels):
        asked.append(float(images.mean()))
        return -asked[-1]

    run(levels, selector, select_every=6, observer=observer)
    assert len(asked) == 1 + len(levels.stages)
    firsts = [report.score for report in observer.steps if report.step.index == 0]
    assert firsts[1:] == [report.score for report in observer.stages[:-1]]


def test_other_images_at_the_start_of_a_stage_are_scored(levels, monkeypatch):
    asked, enter = [], type(levels).enter

    def jump(self, index):
        groups = enter(self, index)
        with torch.no_grad():
            groups[0].tensors[0].add_(0.1 * (index > 0))
        return groups

    monkeypatch.setattr(type(levels), "enter", jump)
    run(levels, lambda images, labels: asked.append(1), select_every=6)
    assert len(asked) == 2 * len(levels.stages)


def test_scores_come_every_so_many_steps(source):
    observer = Hears()
    run(source, distance_to(0.6), select_every=8, observer=observer)
    scored = [r.step.index for r in observer.steps if r.score is not None]
    assert scored == [0, 8, 16]
    assert len(observer.steps) == 20
    assert len(observer.stages) == 1


def test_each_stage_has_a_fresh_optimiser(levels, monkeypatch):
    built = []
    original = OptimizerSettings.build

    def build(self, *arguments):
        built.append(original(self, *arguments))
        return built[-1]

    monkeypatch.setattr(OptimizerSettings, "build", build)
    run(levels, keep_last)
    assert len({id(optimizer) for optimizer in built}) == len(levels.stages)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(levels, where):
    """The stages before are reported, and so written, by then."""

    def objective(images, labels, step):
        broken = step.stage == 1 and step.index == 2
        loss = math.nan if broken and where == "loss" else 0.0
        grad = torch.full_like(images, math.inf if broken and where == "gradient" else 0.0)
        return Matched(loss, grad)

    observer = Hears()
    with pytest.raises(NumericError, match=r"at step 2 of stage '1 b4.conv1'.*learning rate"):
        run(levels, keep_last, objective, observer=observer)
    assert len(observer.stages) == 1


def test_images_that_are_not_finite_stop_the_run(source):
    def objective(images, labels, step):
        source.pixels.data.fill_(math.inf)
        return Matched(0.0, torch.zeros_like(images))

    with pytest.raises(NumericError):
        run(source, keep_last, objective)


def test_a_source_that_draws_batches_is_scored_whole(images, streams):
    """The objective sees this step's images, the selector all of them."""
    options = {"kind": "pixel", "steps": 4, "images_per_class": 2}
    source = SOURCES.parse(options).build(images, CPU, streams)
    source.batch = lambda step: torch.tensor([1, 2, 5]) - (step.index % 2)
    matched, scored = [], []

    def objective(images, labels, step):
        matched.append((len(images), labels.tolist()))
        return brighten(images, labels, step)

    def selector(images, labels):
        assert torch.equal(images, render_all(source))
        scored.append(labels.tolist())
        return float(len(scored))

    run(source, selector, objective)
    assert matched == [(3, [0, 1, 2]), (3, [0, 0, 2])] * 2
    assert scored == [[0, 0, 1, 1, 2, 2]] * 5


def searching(images, streams, generator_folder, trial=2, steps=6):
    options = {"kind": "gan", "generator": generator_folder, "steps": steps, "lr_ws": 0.05,
               "search": "levels", "trial_steps": trial}  # fmt: skip
    return SOURCES.parse(options).build(images, CPU, streams)


@pytest.fixture
def search(images, streams, generator_folder):
    return searching(images, streams, generator_folder)


def only_at(stages, observer):
    """A selector for which images get better in some stages, by what was heard so far."""
    best = [0.0]

    def selector(images, labels):
        if len(observer.stages) in stages:
            best[0] -= 1.0
        return best[0]

    return selector


def test_levels_that_bring_nothing_are_skipped_and_the_others_get_their_steps(search):
    observer = Hears()
    before = render_all(search)
    outcome = run(search, only_at({1, 3}, observer), select_every=3, observer=observer)
    taken = [report.stage.steps for report in outcome.stages]
    assert [report.skipped for report in outcome.stages] == [True, False, True, False, True]
    # 30 in all: 2, then a quarter of 28, 2 again, half of 19, and what is left would be 10
    assert taken == [2, 7, 2, 9, 2]
    assert len(observer.steps) == sum(taken)
    first = outcome.stages[0]
    assert (first.best_step, [m.step for m in first.measured]) == (0, [0, 2])
    assert not torch.equal(outcome.images, before)


def test_a_level_that_is_skipped_changes_nothing(search):
    observer = Hears()
    before = render_all(search)
    outcome = run(search, only_at(set(), observer), select_every=1, observer=observer)
    assert all(report.skipped for report in outcome.stages)
    assert torch.equal(outcome.images, outcome.initial_images)
    torch.testing.assert_close(render_all(search), before, rtol=0, atol=1e-5)
    assert outcome.kept_start


def test_what_is_as_good_within_the_margin_is_not_better_in_a_trial(search):
    """Though outside of one it would be kept: more steps that do no harm."""
    observer = Hears()
    outcome = run(search, lambda images, labels: Score(0.5, 0.1), observer=observer)
    assert all(report.skipped and report.best_step == 0 for report in outcome.stages)


def test_a_trial_that_is_longer_than_its_stage_decides_nothing(images, streams, generator_folder):
    source = searching(images, streams, generator_folder, trial=9)
    outcome = run(source, only_at(set(), Hears()))
    assert [report.stage.steps for report in outcome.stages] == [6] * 5
    assert not any(report.skipped for report in outcome.stages)


def test_without_scores_every_level_takes_its_steps(search):
    outcome = run(search, keep_last)
    assert [report.stage.steps for report in outcome.stages] == [6] * 5
