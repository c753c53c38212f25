"""When a run is written down, beside its steps, and ends: as all processes agreed to."""

from __future__ import annotations

import signal

import pytest

from hpd.artifacts import RunFolder
from hpd.engine.keeper import RunKeeper
from hpd.machine.device import Processes
from hpd.machine.interrupts import Interrupted, Interrupts


class Keeps(RunKeeper):
    written = 0

    def _begin(self, take):
        self.written += 1


@pytest.fixture
def keeper(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "")
    with Interrupts(repeated=True) as interrupts:
        yield Keeps(folder, every=100, interrupts=interrupts, facts={}, processes=Processes())


def test_a_signal_after_the_question_waits_for_the_next_one(keeper):
    """Or this process would write and end while the others take their next step, and wait."""
    with pytest.raises(Interrupted) as caught, keeper._interrupts.deferred():
        agreed = keeper.asks()
        signal.raise_signal(signal.SIGTERM)
        keeper.after_step(1, lambda: None, agreed)
        assert keeper.written == 0
        keeper.after_step(2, lambda: None, keeper.asks())
    assert caught.value.number == signal.SIGTERM
    assert keeper.written == 1


def test_a_signal_of_another_process_ends_this_one_after_a_checkpoint(keeper):
    with pytest.raises(Interrupted) as caught:
        keeper.after_step(1, lambda: None, int(signal.SIGINT))
    assert (caught.value.number, keeper.written) == (signal.SIGINT, 1)
