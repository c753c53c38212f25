"""How long an evaluation goes on: told once, in proportion to what the students see."""

from __future__ import annotations

from types import SimpleNamespace

from conftest import CPU, SMALL_STUDENT
from small_sets import as_set

import hpd.evaluation.forecast as forecasting
from hpd.artifacts.ledger import Ledger
from hpd.data import Dataset
from hpd.evaluation import EvaluationEstimate, EvaluationSettings, evaluate_sets, of_set
from hpd.evaluation.bench import Bench
from hpd.evaluation.forecast import Forecast
from hpd.rng import Streams
from hpd.students import STUDENTS


def settings(**options):
    training = {"epochs": 2, "lr": 0.05}
    given = {"students": [SMALL_STUDENT], "seeds": 2, "scores": False, "full_training": training}
    return EvaluationSettings.read(given | {"training": training} | options)


def told_of(images, ledger, **options):
    told, order = [], []
    evaluate_sets(
        as_set(images, [0, 3]), None, Dataset(images, images), settings(**options), device=CPU,
        streams=Streams(0), ledger=ledger,
        report=lambda name, done, total: order.append(total - done),
        on_estimate=lambda found: told.append((found, order[-1])),
    )  # fmt: skip
    return told


def test_it_is_told_once_of_the_students_that_are_left(images):
    ledger = Ledger()
    ((found, left),) = told_of(images, ledger)
    assert found.students == left > 0
    assert found.seconds > 0
    # all of them are known now, and nothing is left to wait for
    assert told_of(images, ledger) == []


def test_it_does_not_count_what_was_tested_before(images):
    ledger = Ledger()
    told_of(images, ledger, baselines=[])
    ((found, left),) = told_of(images, ledger)
    # random images at two counts are new, the first of them were tested; whole sets are known
    assert found.students == 2 < left


def test_it_says_a_time_by_what_the_students_see_and_not_by_that_of_teachers(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(forecasting, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    bench = SimpleNamespace(
        teaching_seconds=0.0, effort=lambda student, contender, count: float(contender * count)
    )
    told = []
    forecast = Forecast(bench, told.append, [("a", 10, 0), ("a", 10, 2), ("a", 30, 5)])
    clock.now = 101.0
    forecast.hear(1)
    assert told == []
    clock.now, bench.teaching_seconds = 114.0, 4.0
    forecast.hear(1)
    assert told == [EvaluationEstimate(students=5, seconds=75.0)]
    assert str(told[0]) == "about 75 s to train and test 5 more students"
    forecast.hear(1)
    assert len(told) == 1


def test_the_effort_is_that_of_forwards_and_backwards(images):
    student = STUDENTS.parse({"kind": "convnet", "width": 4, "depth": 1})
    options = settings(training={"steps": 10, "batch_size": 2, "lr": 0.05})
    bench = Bench(Dataset(images, images), options, CPU, Streams(0))
    contender = of_set("distilled", as_set(images, [0, 3]), options.training)
    channels, height, width = images.image_shape
    # a convolution of 3 x 3 and a linear layer on halved sides, a multiplication and an addition
    # for each weight; norms and pooling are not counted
    one = 2 * 4 * (9 * channels * height * width + images.num_classes * height * width // 4)
    assert bench.effort(student, contender, 3) == 3 * one * (3 * 10 * 2 + len(images))
