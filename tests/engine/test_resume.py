"""A run goes on from any snapshot to the bit, whatever its source, objective and optimiser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import KeepsSnapshots

from hpd.engine import SELECTORS, OptimizerSettings, optimise
from hpd.engine.snapshot import Best
from hpd.engine.watching.estimate import Work
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES

EVERY = 2
STEPS = 3


class Quiet:
    def on_step(self, report):
        self.last = report

    def on_stage(self, report):
        pass


@pytest.fixture
def run(images):
    """Runs fresh parts, from the start or from a snapshot."""

    def go(source, objective, *, optimizer=None, selector=None, keeper=None, since=None):
        streams = Streams(0)
        built = OBJECTIVES.parse(objective).build(images, CPU, streams.fork("objective"))
        selection = SELECTORS.parse(selector or {"kind": "loss"})
        return optimise(
            SOURCES.parse(source).build(images, CPU, streams.fork("source")),
            built,
            selection.build(images, CPU, streams.fork("selection"), built),
            optimizer or OptimizerSettings(),
            Quiet(),
            select_every=EVERY,
            keeper=keeper,
            since=since,
        )

    return go


def check_every_snapshot(run, tmp_path, **parts):
    keeper = KeepsSnapshots(tmp_path)
    whole = run(**parts, keeper=keeper)
    assert len(keeper.snapshots) >= STEPS + 1
    for snapshot in keeper.snapshots:
        again = run(**parts, since=snapshot)
        assert torch.equal(again.images, whole.images)
        assert torch.equal(again.initial_images, whole.initial_images)
        assert torch.equal(again.labels, whole.labels)
        assert (again.best_stage, list(again.stages)) == (whole.best_stage, list(whole.stages))
    return keeper.snapshots


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_goes_on_to_the_bit(run, tmp_path, kind, source_settings):
    options = {"images_per_class": 2, "steps": STEPS}
    objective = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
    source = source_settings(kind, **options)
    check_every_snapshot(run, tmp_path, source=source, objective=objective)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gan", {"levels": [0, 1, 3], "lr_generator": 1e-3}),
        ("gan", {"levels": [1, 3], "features": "random"}),
        ("gan", {"levels": [0, 1, 3], "search": "levels", "trial_steps": 2}),
        ("gan", {"levels": [0, 1, 3], "search": "levels", "trial_steps": 3, "lr_ws": 5.0}),
        ("hmn", {"decoder": {"kind": "stylegan", "level": 1, "then_levels": [1, 3]}}),
    ],
)
def test_levels_in_every_way_go_on_to_the_bit(
    run, tmp_path, kind, options, source_settings, generator_folder
):
    source = source_settings(kind, steps=STEPS) | options
    if kind == "hmn":
        more = {"generator": generator_folder, "average_draws": 2, "then_steps": STEPS}
        source |= {"budget_images": 4, "decoder": source["decoder"] | more}
    objective = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
    check_every_snapshot(run, tmp_path, source=source, objective=objective)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_objective_goes_on_to_the_bit(
    run, tmp_path, kind, objective_options, source_settings
):
    objective = {"kind": kind, **objective_options[kind]}
    if kind == "gradient":
        # in the middle of its network's steps, there is a network to remember, and its momentum
        objective["network"] = {"steps": 3, "epochs": 1, "momentum": 0.9, "train_on": "real"}
    if kind == "trajectory":
        objective["student_lr_rate"] = 1e-3
    if kind == "regression":
        objective["pool"] = {"networks": 2, "updates": 3}
    snapshots = check_every_snapshot(
        run, tmp_path, source=source_settings("gan", levels=[0, 2], steps=STEPS),
        objective=objective, selector="last",
    )  # fmt: skip
    remembers = kind in ("gradient", "regression", "trajectory")
    assert any(snapshot.objective for snapshot in snapshots) == remembers


@pytest.mark.parametrize(
    "optimizer", [{"kind": "sgd", "momentum": 0.0}, {"kind": "sgd"}, {"rates": "absolute"}]
)
def test_every_optimiser_goes_on_to_the_bit(run, tmp_path, optimizer, source_settings):
    check_every_snapshot(
        run, tmp_path, source=source_settings("pixel", steps=STEPS),
        objective={"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        optimizer=OptimizerSettings.read(optimizer),
    )  # fmt: skip


@pytest.mark.parametrize("forgotten", ["optimizer", "rates", "objective", "best"])
def test_what_a_snapshot_holds_matters(run, tmp_path, forgotten, source_settings):
    """The tests above can fail: without any part of it the images are others."""
    parts = {
        "source": source_settings("gan", levels=[0], steps=5, lr_ws=0.5),
        "objective": {
            "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 8,
            "network": {"steps": 6, "epochs": 1, "momentum": 0.9},
        },
        "selector": "last" if forgotten != "best" else {"kind": "loss", "every": 2},
    }  # fmt: skip
    keeper = KeepsSnapshots(tmp_path)
    whole = run(**parts, keeper=keeper)
    snapshot = keeper.snapshots[2]
    assert torch.equal(run(**parts, since=snapshot).images, whole.images)
    fresh = keeper.snapshots[0]
    other = {
        "optimizer": {},
        "rates": tuple(2 * rate for rate in snapshot.rates),
        "objective": fresh.objective | {"next": snapshot.objective["next"]},
        "best": Best(snapshot.source, -1.0, 3),
    }[forgotten]
    changed = run(**parts, since=replace(snapshot, **{forgotten: other}))
    assert not torch.equal(changed.images, whole.images)


def test_the_work_that_is_left_is_counted(run, tmp_path, source_settings):
    source = source_settings("gan", levels=[0, 1], steps=5)
    objective = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
    keeper = KeepsSnapshots(tmp_path)
    run(source, objective, keeper=keeper)
    stages = [report.stage for report in keeper.snapshots[-1].reports]
    # both stages: scores before steps 0, 2, 4 and at the end
    assert Work.left(stages, EVERY, None) == Work(10, 8)
    left = [Work.left(stages, EVERY, snapshot) for snapshot in keeper.snapshots]
    assert [work.steps for work in left] == [9, 8, 7, 6, 5, 5, 4, 3, 2, 1, 0, 0]
    assert [work.scores for work in left] == [7, 7, 6, 6, 5, 4, 3, 3, 2, 2, 1, 0]
