"""Several processes come to what one does, whatever the source, the objective and the number."""

from __future__ import annotations

import signal
import threading
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import KeepsSnapshots
from threads import in_threads, together

from hpd.artifacts import RunFolder
from hpd.engine import SELECTORS, OptimizerSettings, optimise
from hpd.engine.keeper import RunKeeper
from hpd.engine.parts import check_count
from hpd.errors import ConfigError, NumericError, ProcessError
from hpd.machine.device import Processes
from hpd.machine.interrupts import Interrupted
from hpd.objectives import OBJECTIVES
from hpd.objectives.adjustment import TeacherAdjustment
from hpd.objectives.distribution import DistributionMatching
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import Matched, Shardable

STEPS = 3
DM = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}


class Hears:
    def __init__(self):
        self.losses, self.scores = [], []

    def on_step(self, report):
        self.losses.append(report.loss)
        self.scores.append(report.score)

    def on_stage(self, report):
        self.scores.append(report.score)


@pytest.fixture
def run(images):
    """Runs fresh parts in one of several processes, and returns the outcome and what was heard."""

    def go(processes, source, objective=DM, *, selector="last", path=None, since=None, keeper=None):
        # processes have no tensors in common, as an optimiser may work in those that it is given
        streams, since = Streams(0), deepcopy(since)
        built = OBJECTIVES.parse(objective).build_whole(images, CPU, streams.fork("objective"))
        selection = SELECTORS.parse(selector)
        hears = Hears()
        if path is not None:
            keeper = KeepsSnapshots(path, processes)
        outcome = optimise(
            SOURCES.parse(source).build(images, CPU, streams.fork("source")), built,
            selection.build(images, CPU, streams.fork("selection"), built), OptimizerSettings(),
            hears, select_every=2, keeper=keeper, since=since, processes=processes,
        )  # fmt: skip
        return SimpleNamespace(
            **vars(outcome), heard=hears, snapshots=getattr(keeper, "snapshots", [])
        )

    return go


def check_like(found, wanted, exact):
    """Check that outcomes are those of one process: to the bit, or but for rounding."""
    for outcome in found:
        assert torch.equal(outcome.images, found[0].images)
        assert torch.equal(outcome.labels, wanted.labels)
        assert outcome.best_stage == wanted.best_stage
        assert [r.best_step for r in outcome.stages] == [r.best_step for r in wanted.stages]
        assert outcome.heard.losses == pytest.approx(wanted.heard.losses, rel=1e-4)
        if exact:
            assert torch.equal(outcome.images, wanted.images)
            assert outcome.heard.scores == wanted.heard.scores
        else:
            torch.testing.assert_close(outcome.images, wanted.images, rtol=0, atol=1e-5)
    assert not torch.equal(wanted.images, wanted.initial_images)


# without parameters that all classes share, and with images of every number at once alike
EXACT = {"pixel", "low_rank", "multi_formation"}


@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize("count", [2, 3])
def test_every_source(run, kind, count, source_settings):
    source = source_settings(kind, images_per_class=2, steps=STEPS)
    wanted = run(Processes(), source)
    check_like(together(count, lambda p: run(p, source)), wanted, kind in EXACT)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_objective(run, kind, objective_options, source_settings):
    objective = {"kind": kind, **objective_options[kind]}
    if kind == "gradient":
        # a network that trains on the images of all classes
        objective["network"] = {"steps": 3, "epochs": 1, "momentum": 0.9}
    source = source_settings("pixel", images_per_class=2, steps=STEPS)
    wanted = run(Processes(), source, objective)
    check_like(together(2, lambda p: run(p, source, objective)), wanted, exact=True)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
@pytest.mark.parametrize("count", [2, 3])
def test_add_ons_and_their_hosts(run, kind, count, objective_options, source_settings, monkeypatch):
    """A host is shared out as it is without an add-on, which sees all classes in each process."""
    add_on = {"kind": "mutual_information", "real_batch": 4, "student": SMALL_STUDENT}
    objective = {"kind": kind, **objective_options[kind], "add_ons": [add_on]}
    source = source_settings("pixel", images_per_class=2, steps=STEPS)
    wanted = run(Processes(), source, objective)
    plain = run(Processes(), source, {k: v for k, v in objective.items() if k != "add_ons"})
    assert not torch.equal(wanted.images, plain.images)
    seen = []
    if kind == "distribution":
        original = DistributionMatching.match

        def match(self, images, labels, step, own):
            seen.append((len(images), int(own.sum())))
            return original(self, images, labels, step, own)

        monkeypatch.setattr(DistributionMatching, "match", match)
    check_like(together(count, lambda p: run(p, source, objective)), wanted, exact=True)
    if kind == "distribution":
        assert {whole for whole, _ in seen} == {6}
        assert {own for _, own in seen} == ({2, 4} if count == 2 else {2})


@pytest.fixture
def in_blocks(objective_options):
    """Recovery of blocks, each with a teacher that the first step's images direct."""
    teacher = objective_options["recovery"]["teacher"]
    directed = {"mode": "directed", "rho": 0.3, "steps": 2}
    return {"kind": "recovery", "teacher": teacher, "roll": 1, "adjustment": directed}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["pixel", "hmn"])
def test_blocks_are_shared_out(run, kind, count, in_blocks, monkeypatch, source_settings):
    source = source_settings(kind, images_per_class=4, steps=STEPS)
    wanted = run(Processes(), source, in_blocks)
    asked, original = {rank: [] for rank in range(count)}, TeacherAdjustment.weights

    def spy(adjustment, block):
        asked[threading.current_thread().rank].append(block)
        return original(adjustment, block)

    monkeypatch.setattr(TeacherAdjustment, "weights", spy)

    def go(processes):
        threading.current_thread().rank = processes.rank
        return run(processes, source, in_blocks)

    check_like(together(count, go), wanted, exact=kind in EXACT)
    for rank, blocks in asked.items():
        assert blocks == [*range(rank, 4, count)] * STEPS


def test_a_run_of_blocks_goes_on_with_another_number_of_processes(
    run, in_blocks, tmp_path, source_settings
):
    source = source_settings("pixel", images_per_class=3, steps=STEPS)
    wanted = run(Processes(), source, in_blocks, path=tmp_path / "one")
    two = together(2, lambda p: run(p, source, in_blocks, path=tmp_path / "two"))[0]
    for ours, theirs in zip(two.snapshots, wanted.snapshots, strict=True):
        assert ours.objective.keys() == theirs.objective.keys()
        assert all(torch.equal(ours.objective[k], theirs.objective[k]) for k in ours.objective)
    for snapshot in (*two.snapshots[:2], *wanted.snapshots[:2]):
        again = run(Processes(), source, in_blocks, since=snapshot)
        assert torch.equal(again.images, wanted.images)
        found = together(3, lambda p: run(p, source, in_blocks, since=snapshot))  # noqa: B023
        assert all(torch.equal(outcome.images, wanted.images) for outcome in found)


def test_a_block_that_fails_in_one_ends_all(run, in_blocks, monkeypatch, source_settings):
    original = TeacherAdjustment.weights

    def broken(adjustment, block):
        if block == 1:
            raise NumericError("no weights")
        return original(adjustment, block)

    monkeypatch.setattr(TeacherAdjustment, "weights", broken)
    source = source_settings("pixel", images_per_class=2, steps=STEPS)
    first, second = in_threads(2, lambda p: run(p, source, in_blocks))
    assert isinstance(second, NumericError)
    assert isinstance(first, ProcessError)


def test_scores_are_of_the_whole_set_and_choose_the_same(run, source_settings):
    source = source_settings("pixel", images_per_class=2, steps=6) | {"init": "noise", "lr": 0.3}
    wanted = run(Processes(), source, selector="loss")
    assert any(score is not None for score in wanted.heard.scores)
    check_like(together(2, lambda p: run(p, source, selector="loss")), wanted, exact=True)


@pytest.mark.parametrize("chunk_images", [1, 2])
def test_a_generator_gives_the_same_bits_if_chunks_are_of_one_class(
    run, chunk_images, source_settings
):
    """Then every forward has as many images, however many processes there are."""
    source = source_settings("gan", images_per_class=2, steps=STEPS, chunk_images=chunk_images)
    wanted = run(Processes(), source)
    for count in (2, 3):
        check_like(together(count, lambda p: run(p, source)), wanted, exact=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gan", {"levels": [0, 1, 3], "lr_generator": 1e-3}),
        ("gan", {"levels": [1, 3], "features": "random"}),
        ("hmn", {"images_per_class": 5, "budget_images": 8, "batch_images": 2}),
        ("hmn", {"decoder": {"kind": "stylegan", "level": 1, "then_levels": [1, 3]}}),
    ],
)
def test_sources_in_every_way(run, kind, options, source_settings, generator_folder):
    source = source_settings(kind, steps=STEPS) | options
    if "then_levels" in source.get("decoder", {}):
        more = {"generator": generator_folder, "average_draws": 2, "then_steps": STEPS}
        source |= {"budget_images": 4, "decoder": source["decoder"] | more}
    wanted = run(Processes(), source)
    check_like(together(2, lambda p: run(p, source)), wanted, exact=False)


@pytest.mark.parametrize("kind", ["gan", "hmn", "multi_formation"])
def test_a_run_goes_on_with_another_number_of_processes(run, tmp_path, kind, source_settings):
    """Checkpoints say nothing of who wrote them."""
    objective = {
        "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
        "network": {"steps": 3, "epochs": 1, "momentum": 0.9},
    }  # fmt: skip
    source = source_settings(kind, images_per_class=2, steps=STEPS)
    source |= {"levels": [0, 1], "chunk_images": 2} if kind == "gan" else {}
    wanted = run(Processes(), source, objective, path=tmp_path / "one")
    two = together(2, lambda p: run(p, source, objective, path=tmp_path / "two"))[0]
    assert len(two.snapshots) == len(wanted.snapshots) >= STEPS + 1
    for ours, theirs in zip(two.snapshots, wanted.snapshots, strict=True):
        for part in ("source", "objective", "optimizer"):
            mine, other = getattr(ours, part), getattr(theirs, part)
            assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in other.items()}
        assert ours.rates == pytest.approx(theirs.rates)
    for snapshot in (two.snapshots[1], two.snapshots[-2]):
        again = run(Processes(), source, objective, since=snapshot)
        torch.testing.assert_close(again.images, wanted.images, rtol=0, atol=1e-5)
    for snapshot in (wanted.snapshots[1], wanted.snapshots[-2]):
        found = together(3, lambda p: run(p, source, objective, since=snapshot))  # noqa: B023
        torch.testing.assert_close(found[0].images, wanted.images, rtol=0, atol=1e-5)
        if kind == "gan":
            assert torch.equal(found[0].images, wanted.images)


def test_a_process_has_the_latents_of_its_classes_only(images, streams, source_settings):
    rows = {}

    class Looks(Hears):
        def __init__(self, processes, source):
            self.rank, self.source = processes.rank, source

        def on_step(self, report):
            kept = {name: len(value) for name, value in self.source.state().items()}
            rows[self.rank, report.step.stage] = kept, self.source.labels.tolist()

        def on_stage(self, report):
            pass

    def go(processes):
        settings = source_settings("gan", images_per_class=2, levels=[0, 1], steps=1)
        source = SOURCES.parse(settings).build(images, CPU, Streams(0))
        objective = OBJECTIVES.parse(DM).build(images, CPU, Streams(0))
        optimise(
            source, objective, lambda images, labels: None, OptimizerSettings(),
            Looks(processes, source), select_every=1, processes=processes,
        )  # fmt: skip
        return source

    found = together(2, go)
    assert rows[0, 0] == ({"ws": 4}, [0, 0, 2, 2])
    assert rows[1, 0] == ({"ws": 2}, [1, 1])
    assert rows[0, 1][0] == {"ws": 4, "features.0": 4}
    assert rows[1, 1][0] == {"ws": 2, "features.0": 2}
    # and still when it is over: what comes of it is whole, not what it came from
    assert [source.labels.tolist() for source in found] == [[0, 0, 2, 2], [1, 1]]
    assert [len(source.ws) for source in found] == [4, 2]


def test_what_fails_in_one_ends_all_and_is_told(run, monkeypatch, source_settings):
    source = source_settings("pixel", steps=STEPS)
    original = OBJECTIVES["distribution"]

    class Breaks:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, images, labels, step):
            return self.match(images, labels, step, torch.ones_like(labels, dtype=torch.bool))

        def __getattr__(self, name):
            return getattr(self.inner, name)

        provenance = property(lambda self: {})

        def match(self, images, labels, step, own):
            matched = self.inner.match(images, labels, step, own)
            broken = step.index == 1 and 1 in labels[own]
            return Matched(float("nan") if broken else matched.loss, matched.image_grad)

    build = original.build
    monkeypatch.setattr(original, "build", lambda *arguments: Breaks(build(*arguments)))
    first, second = in_threads(2, lambda p: run(p, source, selector="last"))
    assert isinstance(second, NumericError)
    assert isinstance(first, ProcessError)
    message = r"process 1 of 2 failed: got NumericError: the loss is not finite at step 1"
    assert str(first).startswith(message)


def test_a_signal_that_one_hears_ends_all_after_the_same_step(run, tmp_path, source_settings):
    source, taken = source_settings("pixel", steps=STEPS), {0: [], 1: []}
    folder = RunFolder.create(tmp_path / "run", "")

    class Hears(RunKeeper):
        def __init__(self, processes):
            self.rank, self.interrupts = processes.rank, SimpleNamespace(number=0)
            super().__init__(
                folder, every=100, interrupts=self.interrupts, facts={}, processes=processes
            )

        def asks(self):
            if self.rank == 1 and len(taken[1]) == 1:
                self.interrupts.number = int(signal.SIGTERM)
            return super().asks()

        def after_step(self, steps, take, agreed):
            taken[self.rank].append(steps)
            super().after_step(steps, take, agreed)

    found = in_threads(2, lambda p: run(p, source, keeper=Hears(p)))
    assert [type(error) for error in found] == [Interrupted, Interrupted]
    assert taken == {0: [1, 2], 1: [1, 2]}
    assert folder.checkpoints.newest().step.index == 2


def test_there_is_a_class_for_each_process():
    check_count(Processes(2, 3), 3)
    with pytest.raises(ConfigError, match="got 4 processes, expected at most 3"):
        check_count(Processes(0, 4), 3)


def test_a_source_that_cannot_be_shared_out_says_so(images, streams, source_settings):
    class Plain:
        """A source as it need be for one process."""

        def __init__(self, inner):
            self.labels, self.stored_floats, self.provenance = inner.labels, 1, {}
            self.stages, self.enter, self.render = inner.stages, inner.enter, inner.render
            self.state, self.load_state = inner.state, inner.load_state

    def go(processes):
        inner = SOURCES.parse(source_settings("pixel", steps=1)).build(images, CPU, Streams(0))
        assert isinstance(inner, Shardable)
        objective = OBJECTIVES.parse(DM).build(images, CPU, Streams(0))
        return optimise(
            Plain(inner), objective, lambda images, labels: None, OptimizerSettings(), Hears(),
            select_every=1, processes=processes,
        )  # fmt: skip

    go(Processes())
    for error in in_threads(2, go):
        assert isinstance(error, ConfigError)
        assert "cannot be shared out among processes: got Plain" in str(error)
