"""Several processes share the students of an evaluation out, and come to the figures of one."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_sets import as_set
from threads import in_threads, together

import hpd
from hpd.artifacts.ledger import Ledger
from hpd.data import Dataset
from hpd.errors import NumericError, ProcessError
from hpd.evaluation import EvaluationSettings, evaluate_sets, generators
from hpd.evaluation.bench import Bench
from hpd.machine.device import Processes
from hpd.rng import Streams

OTHER = {**SMALL_STUDENT, "width": 6}
SETTINGS = {
    "students": [SMALL_STUDENT, OTHER], "seeds": 7, "training": {"epochs": 3, "lr": 0.05},
    "full_training": {"epochs": 1, "lr": 0.05},
}  # fmt: skip


@pytest.fixture
def evaluate(images):
    """Evaluates in one of several processes."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))

    def go(processes, ledger=None, report=lambda name, done, total: None, **options):
        return evaluate_sets(
            one_each, one_each, Dataset(images, images),
            EvaluationSettings.read(SETTINGS | options), device=CPU, streams=Streams(0),
            processes=processes, ledger=ledger if processes.is_first else None, report=report,
        )  # fmt: skip

    return go


@pytest.fixture
def tested(monkeypatch):
    """What each thread tests: the set and the seeds."""
    found, original = {}, Bench.scores

    def scores(bench, student, contender, seeds):
        if seeds:
            own = found.setdefault(threading.current_thread().name, [])
            own.append((student.width, contender.key, tuple(seeds)))
        return original(bench, student, contender, seeds)

    monkeypatch.setattr(Bench, "scores", scores)
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("options", [{}, {"card": {"images": 8}, "scores": False, "seeds": 2}])
def test_the_figures_are_those_of_one(evaluate, tested, count, options):
    wanted = evaluate(Processes(), **options)
    alone = tested.pop(threading.current_thread().name)
    heard = []

    def hear(processes):
        return lambda *call: heard.append(call) if processes.is_first else None

    found = together(count, lambda p: evaluate(p, **options, report=hear(p)))
    for evaluation in found:
        assert (evaluation.rows, evaluation.references) == (wanted.rows, wanted.references)
        assert evaluation.about.get("card") == wanted.about.get("card")
    # each was tested once, by one of them, and they had as many
    assert sorted(own for work in tested.values() for own in work) == sorted(alone)
    sizes = [len(work) for work in tested.values()]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    students = sum(len(seeds) for _, _, seeds in alone)
    # what was the same before the first step is learnt once
    assert students < len(wanted.rows + wanted.references) * SETTINGS["seeds"]
    if not options:
        assert heard[-1][1:] == (students, students)
        assert [done for _, done, _ in heard] == list(range(1, students + 1))


def test_an_evaluation_goes_on_with_another_number_of_processes(evaluate, tested, tmp_path):
    wanted = evaluate(Processes())
    tested.clear()

    class Ends(BaseException):
        pass

    def report(name, done, total):
        if done == 40:
            raise Ends

    def ledger(processes):
        if not processes.is_first:
            return None
        return Ledger(tmp_path / "partial.json", {"rests": 1}, {"asked": 1})

    results = in_threads(2, lambda p: evaluate(p, ledger(p), report))
    assert any(isinstance(result, Ends) for result in results)
    before = [own for work in tested.values() for own in work]
    tested.clear()
    found = together(3, lambda p: evaluate(p, ledger(p)))
    assert found[0].rows == wanted.rows
    after = [own for work in tested.values() for own in work]
    # what was written down is not tested again
    assert len(set(before) & set(after)) <= 2
    assert after


def test_one_that_fails_ends_all(evaluate, monkeypatch):
    original = Bench.scores

    def scores(bench, student, contender, seeds):
        if contender.name == "random_real":
            raise NumericError("no figures")
        return original(bench, student, contender, seeds)

    monkeypatch.setattr(Bench, "scores", scores)
    first, second = in_threads(2, lambda p: evaluate(p, seeds=2))
    assert {type(first), type(second)} == {NumericError, ProcessError}


@pytest.mark.parametrize("count", [2, 3])
def test_seeds_of_a_generators_score_are_shared_out(count, monkeypatch):
    """To the figures of one process, each seed measured once."""
    options = {
        "samples": 40, "student_images": 80, "student": SMALL_STUDENT, "features_of": 40,
        "seeds": (0, 1, 2), "device": "cpu",
    }  # fmt: skip
    wanted = hpd.score_generator("digits16", **options)
    measured, heard = [], []
    original = generators.score_generator

    def score(generator, data, settings, *, seed, **more):
        measured.append(seed)
        # threads would share the generator's own workspace
        return original(copy.deepcopy(generator), data, settings, seed=seed, **more)

    monkeypatch.setattr(generators, "score_generator", score)

    def go(processes):
        return hpd.score_generator(
            "digits16", **options, processes=processes,
            report=lambda seed, scores: heard.append((processes.rank, seed)),
        )  # fmt: skip

    assert together(count, go) == [wanted] * count
    assert sorted(measured) == [0, 1, 2]
    assert heard == [(0, 0), (0, 1), (0, 2)]
