"""Several processes end where all of them agreed to."""

from __future__ import annotations

import signal

import pytest

from hpd.artifacts import RunFolder
from hpd.device import Processes
from hpd.engine.keeper import RunKeeper
from hpd.interrupts import Interrupted, Interrupts


class HearsWhileItAsks(Processes):
    """A process that gets a signal between being asked for it and being told what all answered."""

    def __init__(self):
        super().__init__(0, 2)
        self.asked = []

    def largest(self, number):
        self.asked.append(number)
        if len(self.asked) == 1:
            signal.raise_signal(signal.SIGTERM)
        return number


class Keeps(RunKeeper):
    written = 0

    def _write(self, snapshot):
        self.written += 1


@pytest.fixture
def keeper(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "")
    with Interrupts(repeated=True) as interrupts:
        yield Keeps(
            folder, every=100, interrupts=interrupts, facts={}, processes=HearsWhileItAsks()
        )


def test_a_signal_after_the_question_waits_for_the_next_one(keeper):
    """Or this process would write and end while the others take their next step, and wait."""
    processes = keeper._processes
    with pytest.raises(Interrupted) as caught, keeper._interrupts.deferred():
        keeper.after_step(1, lambda: None)
        assert keeper.written == 0
        keeper.after_step(2, lambda: None)
    assert caught.value.number == signal.SIGTERM
    assert (keeper.written, processes.asked) == (1, [0, signal.SIGTERM])


def test_a_signal_of_another_process_ends_this_one_after_a_checkpoint(tmp_path):
    class Told(Processes):
        def largest(self, number):
            return int(signal.SIGINT)

    folder = RunFolder.create(tmp_path / "run", "")
    keeper = Keeps(folder, every=100, interrupts=Interrupts(), facts={}, processes=Told(1, 2))
    with pytest.raises(Interrupted) as caught:
        keeper.after_step(1, lambda: None)
    assert (caught.value.number, keeper.written) == (signal.SIGINT, 1)
