"""Runs side by side: what is one group, and its statistics."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import replace

import pytest
from PIL import Image

from hpd.cli.tables import evaluation_table
from hpd.evaluation import Evaluation, Row
from hpd.evaluation.comparison import as_csv, as_json, long_table_of, markdown, table_of
from hpd.evaluation.drawn.comparison import picture
from hpd.evaluation.summary import Result, ordered, summarise, tables_of, why_apart
from hpd.storage import Amount, Storage


def row(
    name, mean, std=1.0, *, network="convnet", students=4, per_class=1.0, generator=0, hlr=None
):
    storage = Storage(Amount.of(100), generator=Amount.of(generator))
    return Row(name, network, per_class, storage, mean, std, list(range(students)), hlr=hlr)


def result(name, seed, *rows, source="pixel", **settings):
    config = {"seed": seed, "source": {"kind": source}, "device": "cpu", "evaluation": {"x": seed}}
    return Result(name, config, {"settings": settings, "format": 3}, rows)


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


def judged(kind="convnet", width=32, **options):
    training = {"steps": options.pop("steps", 50), "lr": 0.01}
    students = [{"kind": kind, "width": width}]
    return {"protocol": "dc", "labels": "hard", "students": students, "training": training,
            "seeds": 5, **options}  # fmt: skip


def test_what_was_judged_otherwise_stands_in_another_table():
    runs = [
        result("a", 0, row("distilled", 1), source="a", **judged()),
        # the number of students, and rows that were asked for, change no accuracy
        result("b", 0, row("distilled", 2), source="b", **judged(seeds=2, counts=[1])),
        result("wide", 0, row("distilled", 3), source="c", **judged(width=128)),
        result("long", 0, row("distilled", 3), source="d", **judged(steps=9)),
        result("soft", 0, row("distilled", 3), source="e", **judged(labels="soft")),
    ]
    lines = summarise(runs)
    assert [line.table for line in lines] == [1, 1, 2, 3, 4]
    assert [how for how, _ in tables_of(lines)] == [
        "dc, convnet of width 32, 50 steps, hard labels",
        "dc, convnet of width 128, 50 steps, hard labels",
        "dc, convnet of width 32, 9 steps, hard labels",
        "dc, convnet of width 32, 50 steps, soft labels",
    ]
    apart = why_apart(lines)
    assert "labels: hard | hard | hard | soft" in apart
    assert any(
        line.startswith("student: convnet of width 32 | convnet of width 128") for line in apart
    )
    assert why_apart(lines[:2]) == []
    text = markdown(lines)
    assert text.count("| run | run seeds |") == 4
    assert "The tables do not compare: " in text
    assert as_json(lines)["not_comparable"] == apart
    table = list(csv.DictReader(io.StringIO(as_csv(lines))))
    assert [(r["table"], r["length"], r["labels"]) for r in table][2:4] == [
        ("2", "50 steps", "hard"), ("3", "9 steps", "hard"),
    ]  # fmt: skip


def test_other_test_images_do_not_compare():
    one, other = (
        replace(
            result(name, 0, row("distilled", 1), source=name, **judged()),
            record={"settings": judged(), "data": {"test_sha256": name}},
        )
        for name in "ab"
    )
    assert [line.table for line in summarise([one, other])] == [1, 2]
    assert why_apart(summarise([one, other])) == ["test images: a | b"]


def test_any_other_option_that_parts_two_tables_is_named():
    runs = [
        result("a", 0, row("distilled", 1), source="a", **judged()),
        result("b", 0, row("distilled", 2), source="b", **judged(rate_factors={"convnet": 0.5})),
    ]
    runs[1].record["settings"]["training"]["cutmix"] = 0.5
    lines = summarise(runs)
    assert [line.table for line in lines] == [1, 2]
    assert why_apart(lines) == [
        "training.cutmix: not said | 0.5", "rate_factors.convnet: not said | 0.5",
    ]  # fmt: skip


def test_students_of_one_kind_are_told_apart():
    students = [{"kind": "convnet", "width": width} for width in (8, 16)]
    both = {**judged(), "students": students}
    one, alone = (
        result("a", 0, row("distilled", 1, network="convnet width 8"),
               row("distilled", 2, network="convnet width 16"), **both),
        result("b", 0, row("distilled", 3), source="b", **judged(width=16)),
    )  # fmt: skip
    lines = summarise([one, alone])
    assert [(line.accuracy_mean, line.table) for line in lines] == [(1, 1), (2, 2), (3, 2)]
    assert [how.split(", ")[1] for how, _ in tables_of(lines)] == [
        "convnet of width 8", "convnet of width 16",
    ]  # fmt: skip


def test_a_key_that_earlier_versions_did_not_write_parts_no_group():
    old, new = THREE[0], THREE[1]
    new = replace(new, config={**new.config, "own_code": []})
    assert len({line.run for line in summarise([old, new])}) == 1


def test_the_long_table_has_the_same_numbers():
    lines = summarise(THREE)
    wide, long = table_of(lines), long_table_of(lines)
    assert [r[6] for r in long[1:]] == ["92.0 ± 2.8", "61.0 ± 1.4", "80.0 ± 2.0"]
    assert {cell for r in wide[1:] for cell in r[6:] if cell} == {r[6] for r in long[1:]}
    assert {r[5] for r in wide[1:]} == {r[4] for r in long[1:]} == {"3,200"}
    assert {r[2] for r in wide[1:]} == {f"{r[5]} convnet" for r in long[1:]}


def test_the_table_has_a_line_for_each_group_and_student():
    several = [*THREE, result("vgg", 0, row("distilled", 70, network="vgg11"), source="x|y")]
    heading, *rows = table_of(summarise(several))
    assert heading[5:] == ["bits", "distilled", "random real"]
    assert rows[0][:6] == ["digits", "0, 1", "8 convnet", "1", "100", "3,200"]
    assert rows[0][6:] == ["92.0 ± 2.8", "61.0 ± 1.4"]
    assert [r[2].split()[1] for r in rows] == ["convnet", "convnet", "vgg11"]
    text = markdown(summarise(several))
    first = table_of([line for line in summarise(several) if line.table == 1])
    assert text.splitlines()[4] == "| " + " | ".join(first[1]) + " |"
    assert as_json(summarise(several))["lines"][0]["accuracy_mean"] == 92


@pytest.mark.parametrize(("students", "shown"), [(1, "90.0"), (2, "90.0 ± 3.0")])
def test_a_single_student_has_no_deviation(students, shown):
    own = row("distilled", 90, 3.0, students=students)
    assert table_of(summarise([result("a", 0, own)]))[1][6] == shown
    table = evaluation_table(Evaluation([own]))
    assert [str(cell) for cell in table.columns[2].cells] == [shown]


def of_bits(name, accuracy, bits, random=50):
    rows = [row("distilled", accuracy), row("random_real", random)]
    rows[0] = replace(rows[0], storage=Storage(Amount(10, bits - 8), Amount(1, 8)))
    return result(name, 0, *rows, source=name)


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("score", ["best", "small", "large", "worst"]),
        ("bits", ["worst", "small", "best", "large"]),
        ("given", ["large", "worst", "best", "small"]),
    ],
)  # fmt: skip
def test_the_best_come_first_or_those_of_fewest_bits(by, order):
    """In table, JSON and CSV alike; random real images, however good, decide nothing."""
    runs = [of_bits("large", 80, 5000), of_bits("worst", 60, 100, random=99),
            of_bits("best", 90, 400), of_bits("small", 80, 300)]  # fmt: skip
    lines = ordered(summarise(runs), by)
    assert [r[0] for r in table_of(lines)[1:]] == order
    assert list(dict.fromkeys(line["run"] for line in as_json(lines)["lines"])) == order
    table = list(csv.DictReader(io.StringIO(as_csv(lines))))
    assert list(dict.fromkeys(line["run"] for line in table)) == order
    assert [line.set for line in lines] == ["distilled", "random_real"] * 4
    found = [line for line in as_json(lines)["lines"] if line["set"] == "distilled"]
    bits = {line["run"]: line["bits"] for line in found}
    assert bits == {"large": 5000, "worst": 100, "best": 400, "small": 300}
    heading, *rows = table_of(lines)
    at = heading.index("bits")
    assert {r[0]: r[at] for r in rows} == {k: f"{v:,}" for k, v in bits.items()}


def test_the_picture_is_one(tmp_path):
    counts = [row(f"distilled_{n}", 50 + n, per_class=n) for n in (1, 5)]
    grown = [*THREE, result("grown", 0, *counts, row("distilled", 70, per_class=10), source="x")]
    widths = []
    for results in (THREE, grown):
        with Image.open(io.BytesIO(picture(summarise(results)))) as image:
            image.load()
            widths.append(image.width)
    assert widths[0] < widths[1]
