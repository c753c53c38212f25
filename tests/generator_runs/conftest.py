"""What trainings in tests share: one thread, one that is finished, a curve made by hand."""

from __future__ import annotations

import pytest
import torch
from small_trainings import train

from hpd.generator_runs.measure import Measure


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The bytes of a training depend on the number of threads; processes to be killed have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(out)
    return out


@pytest.fixture
def stub(monkeypatch):
    """Give distances in place of those that are measured, one a save."""

    def give(*distances):
        left = list(distances)
        monkeypatch.setattr(Measure, "prepare", lambda self, file: None)
        # the first is asked for to see how long one takes
        left.insert(0, 0.0)
        monkeypatch.setattr(Measure, "distance", lambda self, generator: left.pop(0))
        return left

    return give
