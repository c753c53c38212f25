"""Checkpoints are written beside the steps: one at a time, as things were when they were taken."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from threads import in_threads, together

from hpd.artifacts import RunFolder
from hpd.artifacts.checkpoints import CheckpointFolder
from hpd.engine import OptimizerSettings, keeper, optimise
from hpd.engine.keeper import RunKeeper
from hpd.engine.snapshot import CHECKPOINT
from hpd.engine.writer import Writer
from hpd.errors import ProcessError
from hpd.machine.device import Processes
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES

DM = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
STEPS = 6


class Hears:
    def __init__(self):
        self.steps = []

    def on_step(self, report):
        self.steps.append(report.step.index)

    def on_stage(self, report):
        pass


@pytest.fixture
def run(images, tmp_path, source_settings):
    """Runs some steps, with a keeper."""

    def go(processes=None, hears=None, name="run", **options):
        processes = processes or Processes()
        folder = processes.first(lambda: RunFolder.create(tmp_path / name, ""))
        options = {"every": 2, "interrupts": SimpleNamespace(number=0), "facts": {}} | options
        settings = source_settings("pixel", images_per_class=2, steps=STEPS)
        source = SOURCES.parse(settings).build(images, CPU, Streams(0))
        optimise(
            source, OBJECTIVES.parse(DM).build(images, CPU, Streams(0)),
            lambda images, labels: None, OptimizerSettings(), hears or Hears(),
            select_every=100, processes=processes,
            keeper=RunKeeper(folder, processes=processes, **options),
        )  # fmt: skip
        return folder.checkpoints

    return go


@pytest.fixture
def slow(monkeypatch):
    """Makes the write of a checkpoint wait for a word, and tells which have begun."""
    may, begun, original = threading.Event(), [], CheckpointFolder.write_part

    def write_part(folder, checkpoint, *arguments):
        begun.append(checkpoint.name)
        assert may.wait(30)
        return original(folder, checkpoint, *arguments)

    monkeypatch.setattr(CheckpointFolder, "write_part", write_part)
    return SimpleNamespace(may=may, begun=begun)


def test_steps_go_on_beside_a_write_and_no_second_one_begins(run, slow):
    hears, seen = Hears(), {}

    def look():
        deadline = time.monotonic() + 30
        while len(hears.steps) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        # the third and the fourth were taken while the first checkpoint was not written
        time.sleep(0.3)
        seen.update(steps=list(hears.steps), begun=list(slow.begun))
        slow.may.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    found = run(hears=hears)
    watcher.join()
    assert seen == {"steps": [0, 1, 2, 3], "begun": ["step-00-000002"]}
    assert slow.begun == [f"step-00-00000{n}" for n in (2, 4, 6)] + ["step-01-000000"]
    assert hears.steps == list(range(STEPS))
    # and the end waits for the last
    assert found.newest().name == "step-01-000000"


def test_what_is_written_is_of_its_step_whatever_came_since(run, slow, monkeypatch):
    kept, write_index = {}, CheckpointFolder.write_index

    def keep(folder, checkpoint, digests):
        write_index(folder, checkpoint, digests)
        kept[checkpoint.name] = folder.read(checkpoint.name).loaded()

    monkeypatch.setattr(CheckpointFolder, "write_index", keep)
    slow.may.set()
    run(name="at-once")
    at_once = dict(kept)
    slow.may.clear()
    threading.Timer(0.5, slow.may.set).start()
    run(name="late")
    assert kept.keys() == at_once.keys()
    for name, checkpoint in kept.items():
        assert checkpoint.tensors.keys() == at_once[name].tensors.keys()
        for key, tensor in checkpoint.tensors.items():
            assert torch.equal(tensor, at_once[name].tensors[key]), (name, key)


def test_an_error_of_a_write_ends_the_run_at_the_next_step(run, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    hears = Hears()
    monkeypatch.setattr(CheckpointFolder, "write_part", full)
    with pytest.raises(OSError, match="No space left"):
        run(hears=hears)
    assert hears.steps in ([0, 1], [0, 1, 2], [0, 1, 2, 3])


def test_one_that_cannot_write_ends_all_and_leaves_no_checkpoint(run, monkeypatch, tmp_path):
    original = CheckpointFolder.write_part

    def full(folder, checkpoint, rank=0, count=1):
        if rank == 1 and checkpoint.step.index == 4:
            raise OSError(28, "No space left on device")
        return original(folder, checkpoint, rank, count)

    monkeypatch.setattr(CheckpointFolder, "write_part", full)
    first, second = in_threads(2, run)
    # both know of it by then: the first one waited for the part of the other
    assert isinstance(first, ProcessError)
    assert isinstance(second, OSError | ProcessError)
    assert RunFolder(tmp_path / "run").checkpoints.newest().step.index == 2


def test_the_first_does_not_wait_for_ever_for_one_that_has_ended(run, monkeypatch, tmp_path):
    monkeypatch.setattr(keeper, "_GRACE_SECONDS", 0.2)
    original = CheckpointFolder.write_part

    def gone(folder, checkpoint, rank=0, count=1):
        if rank == 1:
            # as if killed: it neither writes nor says so
            raise SystemExit
        return original(folder, checkpoint, rank, count)

    class Ends(Hears):
        def on_step(self, report):
            super().on_step(report)
            if len(self.steps) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFolder, "write_part", gone)
    monkeypatch.setattr(Processes, "board", property(lambda self: Silent(self._met.board)))
    started = time.monotonic()
    found = in_threads(2, lambda p: run(p, Ends()))
    assert all(isinstance(error, BaseException) for error in found)
    assert time.monotonic() - started < 20
    assert RunFolder(tmp_path / "run").checkpoints.newest() is None


class Silent:
    """A board on which nobody says that it has failed."""

    def __init__(self, board):
        self.slot, self.get, self._put = board.slot, board.get, board.put

    def put(self, name, text):
        if text != "failed":
            self._put(name, text)


def test_minutes_count_where_steps_take_long_and_the_first_clock_is_that_of_all(run, monkeypatch):
    began, clock = [], SimpleNamespace(now=0.0)
    original = RunKeeper._begin

    def begin(self, take):
        began.append((self._processes.rank, hears[self._processes.rank].steps[-1] + 1))
        original(self, take)

    class Takes(Hears):
        """Steps of a minute."""

        def __init__(self, rank):
            super().__init__()
            self.rank = rank

        def on_step(self, report):
            super().on_step(report)
            if self.rank == 0:
                clock.now += 60

    monkeypatch.setattr(RunKeeper, "_begin", begin)
    monkeypatch.setattr(
        keeper, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep)
    )
    hears = [Takes(0), Takes(1)]
    together(2, lambda p: run(p, hears[p.rank], every=100, minutes=2.0))
    # asked before the first one has heard of the step, so it is the third of them
    own = [step for rank, step in began if rank == 0]
    assert own[:-1] == [3, 6] or own[:-1] == [3, 5]
    assert [step for rank, step in began if rank == 1] == own


def test_steps_alone_count_without_minutes(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "")
    options = {"interrupts": SimpleNamespace(number=0), "facts": {}, "processes": Processes()}
    timed = RunKeeper(folder, every=10, minutes=1e-9, **options)
    time.sleep(0.01)
    assert timed.asks() == CHECKPOINT
    assert RunKeeper(folder, every=10, **options).asks() == 0
    # what a rank that is not the first has on its clock is not asked
    other = options | {"processes": Processes(1, 2)}
    assert RunKeeper(folder, every=10, minutes=1e-9, **other).asks() == 0


def test_a_writer_does_one_thing_at_a_time_and_tells_an_error_once():
    done, writer = [], Writer()
    writer.start(lambda: (time.sleep(0.1), done.append(1)))
    writer.start(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2]

    def fails():
        raise ValueError("no")

    writer.start(fails)
    with pytest.raises(ValueError, match="no"):
        writer.wait()
    writer.check()
    writer.wait()
