"""Everything that takes long tells of itself, and the command line shows it."""

from __future__ import annotations

import io

import pytest
from conftest import SMALL_STUDENT
from rich.console import Console

import hpd
from hpd.cli import progress as bars
from hpd.progress import listener, tell, telling, told


class Ears:
    """Keeps what is told, and checks that each count goes up to its total."""

    def __init__(self):
        self.last, self.ended = {}, set()

    def __call__(self, what, done, total):
        before = self.last.get(what, (0, total))
        # over and over: from the beginning, maybe with another total
        assert 1 <= done <= total and (done > before[0] or done == 1 or before[0] == before[1])
        self.last[what] = (done, total)
        if done == total:
            self.ended.add(what)

    @property
    def whole(self):
        """The kinds of work that came to their end."""
        assert all(done == total for done, total in self.last.values()), self.last
        return self.ended


def test_items_are_told_of_when_they_are_done():
    heard = []
    with telling(lambda *args: heard.append(args)):
        for item in told("counting", iter("ab"), 2):
            heard.append(item)
        with telling(lambda *args: heard.append("inner")):
            tell("other", 1, 1)
        tell("other", 1, 1)
    tell("other", 1, 1)
    assert heard == ["a", ("counting", 1, 2), "b", ("counting", 2, 2), "inner", ("other", 1, 1)]
    assert listener()("nobody", 1, 1) is None


def test_what_a_listener_raises_ends_the_work():
    def stop(what, done, total):
        raise KeyboardInterrupt

    with telling(stop), pytest.raises(KeyboardInterrupt):
        list(told("counting", [1]))


DATA = {"kind": "digits", "classes": ["0", "1", "8"]}
NETWORK = ("student={kind: convnet, width: 4, depth: 2, norm: batch}", "training.epochs=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = {
        "data": DATA, "device": "cpu",
        "source": {"kind": "gan", "generator": "digits16", "levels": [0, 6], "steps": 1},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT},
        "selection": "last",
        "evaluation": {
            "students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2},
            "full_training": {"epochs": 1},
        },
    }  # fmt: skip
    run = hpd.distill(config, out=folder / "run")
    hpd.squeeze(DATA, *NETWORK, out=folder / "teacher", device="cpu")
    return run


def squeeze(run, folder):
    hpd.squeeze(DATA, *NETWORK, out=folder, device="cpu")


def experts(run, folder):
    student = {"kind": "convnet", "width": 4, "depth": 2}
    objective = {
        "kind": "trajectory",
        "student": student,
        "expert_training": {"training": {"epochs": 2}},
    }
    config = {"data": DATA, "source": "pixel", "objective": objective, "device": "cpu"}
    hpd.train_experts(config, out=folder, count=1)


def relabel(run, folder):
    hpd.relabel(run, run.folder.parent / "teacher")


def evaluate(run, folder):
    hpd.evaluate(run)


def sample(run, folder):
    hpd.sample(run, 2)


def score(run, folder):
    hpd.score_generator("digits16", samples=600, student_images=640, features_of=600)


def project(run, folder):
    generator = hpd.load_generator("digits16")
    images = run.distilled.images
    hpd.project(generator, images, run.distilled.labels, steps=2)


WORKS = {
    squeeze: {"training a network", "testing a network"},
    experts: {"training a network"},
    relabel: {"asking a network"},
    evaluate: {"training a network", "testing a network", "finding the nearest"},
    sample: {"drawing images"},
    score: {"drawing samples", "training a network", "testing a network", "asking a network"},
    project: {"projecting images"},
}


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_every_long_work_is_told_of(work, run, tmp_path):
    with telling(ears := Ears()):
        work(run, tmp_path / "out")
    assert WORKS[work] <= ears.whole


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(bars.time, "monotonic", lambda: self.now)


@pytest.fixture
def terminal(monkeypatch):
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with bars.ProgressBar(console, None) as bar:
        yield clock, bar


def shown(bar):
    return {task.description.strip(): task for task in bar._progress.tasks if task.visible}


def test_a_moment_has_no_bar_and_more_than_a_second_has_one(terminal):
    clock, bar = terminal
    tell("short", 1, 10)
    clock.now += 0.5
    tell("short", 10, 10)
    assert not shown(bar)
    tell("long", 1, 10)
    clock.now += 2
    tell("long", 4, 10)
    assert (shown(bar)["long"].completed, shown(bar)["long"].total) == (4, 10)
    # within a tenth of a second nothing is drawn again
    clock.now += 0.05
    tell("long", 5, 10)
    assert shown(bar)["long"].completed == 4
    tell("long", 10, 10)
    assert not shown(bar)


def test_what_comes_over_and_over_keeps_its_bar(terminal):
    clock, bar = terminal
    for total in (10, 20):
        tell("long", 1, total)
        clock.now += 2
        tell("long", 9, total)
        assert (shown(bar)["long"].completed, shown(bar)["long"].total) == (9, total)
        tell("long", total, total)
    assert len(bar._progress.tasks) == 2 and not shown(bar)


def test_a_console_that_is_no_terminal_hears_nothing():
    file = io.StringIO()
    with bars.ProgressBar(Console(file=file), None):
        assert listener()("long", 1, 1) is None
        tell("long", 1, 1)
    assert file.getvalue() == ""
