"""The table of a course, from numbers made by hand."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from hpd.courses.summary import Cell, as_json, markdown, picture, summarise, table_of

SCORES = {
    ("random", 0): [(60, 80), (40, 50)],
    ("random", 1): [(80, 80), (50, 60)],
    ("pixel", 0): [(90, 90), (60, 60)],
    ("pixel", 1): [(90, 90), (80, 80)],
}


def cells(orders=(0, 1)):
    return [
        Cell(order, step, buffer, ["a", "b"], 2 * (step + 1), 512 * (step + 1), list(scores))
        for (buffer, order), steps in SCORES.items()
        for step, scores in enumerate(steps)
        if order in orders
    ]


def test_means_and_deviations_are_over_orders():
    random, pixel = summarise(cells(), "random")
    # after the first step 70 and 80, after the second 45 and 55
    assert random.steps[0] == (75, pytest.approx(50**0.5))
    assert random.steps[1] == (50, pytest.approx(50**0.5))
    # over the steps 57.5 and 67.5
    assert random.mean == (62.5, pytest.approx(50**0.5))
    assert (random.images, random.stored_floats) == (4, 1024)
    assert random.gain is None
    # 75 - 57.5 and 85 - 67.5
    assert (pixel.gain, pixel.gain_sem) == (17.5, 0)
    assert pixel.mean[0] == 80


def test_one_order_has_no_deviation():
    random, pixel = summarise(cells([0]), "random")
    assert random.steps == [(70, 0), (45, 0)]
    assert (pixel.gain, pixel.gain_sem) == (17.5, None)
    assert summarise(cells(), None)[1].gain is None
    assert table_of([random, pixel], 3)[2][3:] == ["90.0", "60.0", "75.0", "+17.5"]


def test_the_order_of_the_files_changes_nothing():
    assert summarise(cells()[::-1], "random") == summarise(cells(), "random")[::-1]


def test_tables_show_floats_and_images_and_steps():
    lines = summarise(cells(), "random")
    heading, first, second = table_of(lines, 3)
    assert heading == ["buffer", "images", "floats", "3", "6", "mean", "over random"]
    assert first == ["random", "4", "1,024", "75.0 \u00b1 7.1", "50.0 \u00b1 7.1",
                     "62.5 \u00b1 7.1", ""]  # fmt: skip
    assert second[-1] == "+17.5 (se 0.0)"
    assert "| pixel | 4 | 1,024 |" in markdown(lines, 3)
    content = as_json(lines, cells())
    assert content["cells"][0]["accuracies"] == [60, 80]
    assert content["lines"][1]["gain"] == 17.5
    with Image.open(io.BytesIO(picture(lines, 3))) as drawn:
        assert drawn.size == (840, 540)
