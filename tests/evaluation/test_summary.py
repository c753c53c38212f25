"""Runs side by side: what is one group, and its statistics."""

from __future__ import annotations

import io
import statistics

import pytest
from PIL import Image

from hpd.cli.tables import evaluation_table
from hpd.evaluation import Evaluation, Row
from hpd.evaluation.summary import Result, as_json, markdown, picture, summarise, table_of
from hpd.storage import Amount, Storage


def row(
    name, mean, std=1.0, *, network="convnet", students=4, per_class=1.0, generator=0, hlr=None
):
    storage = Storage(Amount.of(100), generator=Amount.of(generator))
    return Row(name, network, per_class, storage, mean, std, list(range(students)), hlr=hlr)


def result(name, seed, *rows, source="pixel", **protocol):
    config = {"seed": seed, "source": {"kind": source}, "device": "cpu", "evaluation": {"x": seed}}
    return Result(name, config, protocol, rows)


THREE = [
    result("digits-0", 0, row("distilled", 90, 3.0), row("random_real", 60)),
    result("digits-1", 1, row("distilled", 94, 4.0), row("random_real", 62)),
    result("other", 0, row("distilled", 80, 2.0), source="gan"),
]


def test_runs_that_differ_by_their_seed_are_one_line():
    lines = {(line.run, line.set): line for line in summarise(THREE)}
    assert list(lines) == [
        ("digits", "distilled"),
        ("digits", "random_real"),
        ("other", "distilled"),
    ]
    both = lines["digits", "distilled"]
    assert (both.seeds, both.folders, both.students) == ([0, 1], ["digits-0", "digits-1"], 8)
    assert both.accuracy_mean == 92
    assert both.seeds_std == both.spread == pytest.approx(statistics.stdev([90, 94]), abs=1e-4)
    assert both.students_std == pytest.approx(12.5**0.5, abs=1e-4)
    assert both.sem == pytest.approx(2)


def test_storage_and_scores_are_means_over_runs():
    runs = [
        result("a-0", 0, row("distilled", 90, generator=5, hlr=8.0), row("initial", 3, hlr=1.0)),
        result("a-1", 1, row("distilled", 92, generator=5, hlr=6.0), row("initial", 3)),
    ]
    distilled, initial = summarise(runs)
    assert distilled.storage == Storage(Amount.of(100), generator=Amount.of(5))
    assert distilled.scores == {"hlr": 7.0}
    # of those that every run has
    assert initial.scores == {}
    heading, first = table_of([distilled, initial])
    assert heading[4:6] == ["floats", "generator floats"]
    assert first[4:6] == ["100", "5"]


def test_one_run_shows_the_deviation_over_students():
    line = summarise(THREE)[-1]
    assert line.seeds_std is None
    assert (line.spread, line.sem) == (2.0, 1.0)


def test_another_protocol_is_another_group():
    lines = summarise(
        [result("a-0", 0, row("distilled", 1)), result("a-1", 1, row("distilled", 2), lr=3)]
    )
    assert [line.run for line in lines] == ["a", "a (2)"]


def test_the_table_has_a_line_for_each_group_and_student():
    several = [*THREE, result("vgg", 0, row("distilled", 70, network="vgg11"), source="x|y")]
    heading, *rows = table_of(summarise(several))
    assert heading[5:] == ["distilled", "random real"]
    assert rows[0] == ["digits", "0, 1", "convnet", "1", "100", "92.0 ± 2.8", "61.0 ± 1.4"]
    assert [r[2] for r in rows] == ["convnet", "convnet", "vgg11"]
    text = markdown(summarise(several))
    assert text.splitlines()[2] == "| " + " | ".join(rows[0]) + " |"
    assert as_json(summarise(several))["lines"][0]["accuracy_mean"] == 92


@pytest.mark.parametrize(("students", "shown"), [(1, "90.0"), (2, "90.0 ± 3.0")])
def test_a_single_student_has_no_deviation(students, shown):
    own = row("distilled", 90, 3.0, students=students)
    assert table_of(summarise([result("a", 0, own)]))[1][5] == shown
    table = evaluation_table(Evaluation([own]))
    assert list(table.columns[2].cells) == [shown]


def test_the_picture_is_one(tmp_path):
    counts = [row(f"distilled_{n}", 50 + n, per_class=n) for n in (1, 5)]
    grown = [*THREE, result("grown", 0, *counts, row("distilled", 70, per_class=10), source="x")]
    widths = []
    for results in (THREE, grown):
        with Image.open(io.BytesIO(picture(summarise(results)))) as image:
            image.load()
            widths.append(image.width)
    assert widths[0] < widths[1]
