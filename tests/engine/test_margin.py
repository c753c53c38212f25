"""Scores with a margin: of the states that they cannot tell apart the last one is kept."""

from __future__ import annotations

import copy
import pickle

import pytest

from hpd.engine.course import _outdoes
from hpd.engine.keeper import to_checkpoint, to_snapshot
from hpd.engine.snapshot import Best, Snapshot, near
from hpd.engine.watching.observer import StageReport
from hpd.typing import Score, Stage


class Numbered:
    """A source whose state is the number of the present step."""

    now = 0

    def state(self):
        return {"now": self.now}


def kept(scores, margin=None, lowest=float("inf")):
    """The step whose state is kept, of states with these scores."""
    source, best = Numbered(), Best({}, float("inf"), 0, lowest)
    for step, score in enumerate(scores):
        source.now = step
        best.offer(source, score if margin is None else Score(score, margin), step)
        assert best.state["now"] == best.step
    assert best.lowest == min([lowest, *scores])
    return best.step


@pytest.mark.parametrize(
    ("scores", "without", "with_margin"),
    [
        ([5, 4, 3], 2, 2),
        ([5, 3, 3.5], 1, 2),
        ([5, 3, 4.5], 1, 1),
        ([5, 3, 4.5, 3.9, 4.1], 1, 3),
        # what the lowest is compared with is the lowest, not the last that was kept
        ([5, 4.2, 3.4, 4.3, 4.5], 2, 3),
        ([5, 5, 5], 0, 2),
        ([1, 9], 0, 0),
    ],
)
def test_the_last_state_within_the_margin_of_the_lowest_is_kept(scores, without, with_margin):
    assert kept(scores) == kept(scores, 0.0) == without
    assert kept(scores, 1.0) == with_margin


def test_margins_of_many_stages_do_not_add_up():
    """A stage that starts a margin above the lowest of all may not go a margin further."""
    assert kept([3.9, 4.4, 4.8], 1.0, lowest=3.0) == 0
    assert kept([3.9, 4.4, 3.95], 1.0, lowest=3.0) == 2


def test_without_scores_the_last_state_is_kept():
    source, best = Numbered(), Best({}, None, 0)
    for step in range(3):
        source.now = step
        best.offer(source, None, step)
    assert best.step == 2


def report(index, score, best_step=1):
    return StageReport(Stage("s", 2), index, best_step, score)


def test_a_stage_within_the_margin_is_kept_if_its_steps_changed_anything():
    assert _outdoes(report(1, Score(3.5, 1.0)), Score(3.0, 1.0), 3.0)
    assert not _outdoes(report(1, Score(3.5, 1.0), best_step=0), Score(3.0, 1.0), 3.0)
    assert not _outdoes(report(1, Score(4.5, 1.0)), Score(3.0, 1.0), 3.0)
    assert not _outdoes(report(1, 3.0), 3.0, 3.0)
    assert _outdoes(report(1, 2.9), 3.0, 3.0)
    assert _outdoes(report(0, 9.0), 3.0, 3.0)


def test_a_score_is_a_number_that_travels_with_its_margin():
    score = Score(0.25, 0.5)
    assert score == 0.25
    assert near(score, -0.25)
    assert not near(score, -0.26)
    assert not near(0.25, 0.25)
    for other in (copy.copy(score), pickle.loads(pickle.dumps(score))):
        assert (float(other), other.margin) == (0.25, 0.5)


@pytest.mark.parametrize("lowest", [0.125, float("inf")])
def test_a_checkpoint_holds_margin_and_lowest_score(lowest):
    import torch

    images = torch.zeros(1, 1, 2, 2)
    best = Best({"x": images}, Score(0.25, 0.5), 3, lowest)
    before = Snapshot(0, 3, {"x": images}, {}, {}, (), best, (), 0, images, images)
    after = to_snapshot(to_checkpoint(before, {})).best
    assert (after.score, after.score.margin, after.step, after.lowest) == (0.25, 0.5, 3, lowest)
    # those of earlier versions know of no margin
    checkpoint = to_checkpoint(before, {})
    checkpoint.about["best"] = {"score": 0.25, "step": 3}
    old = to_snapshot(checkpoint).best
    assert (old.score, old.score.margin, old.lowest) == (0.25, 0.0, 0.25)
