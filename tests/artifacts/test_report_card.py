"""The card in the report and on the command line: what it says, and that names stay names."""

from __future__ import annotations

import copy
import io
import json
import re

import jinja2
import pytest
from report_runs import HOSTILE, Page
from rich.console import Console

from hpd.artifacts.report.card import card_section
from hpd.artifacts.report.page import _TEMPLATES
from hpd.artifacts.report.tables import row_label
from hpd.cli.card_table import card_table
from hpd.evaluation.card.corruptions import CORRUPTIONS
from hpd.evaluation.card.measuring import Card

PAGE = "{% macro name(text) %}<bdi>{{ text }}</bdi>{% endmacro %}{% include 'card.html.j2' %}"


def spread(mean, std=1.25):
    return {"mean": mean, "std": std}


def card_set(name="distilled", network="convnet", students=3, clean=90.0, **changed):
    return {
        "name": name, "network": network, "students": students, "clean": spread(clean),
        "corruptions": {
            kind: [spread(clean - 5 * i - k / 10) for i in (1, 2, 3)]
            for k, kind in enumerate(CORRUPTIONS)
        },
        "corrupted": spread(clean - 10.6), "attack": "PGD-10, L-inf 2/255",
        "attacked": spread(clean / 2), "resolution": 24, "resized": spread(clean + 1),
        "membership": spread(-3.25), **changed,
    }  # fmt: skip


def evaluation(*sets):
    return {"rows": [], "card": {"settings": {}, "sets": list(sets)}}


def four(network="convnet"):
    names = ("distilled", "initial", "random_real", "random_real_floats")
    return [card_set(name, network, clean=90.0 - 20 * i) for i, name in enumerate(names)]


def rendered(section):
    def source(name):
        return PAGE if name == "page" else (_TEMPLATES / name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page").render(card=section)


def words_of(section):
    return " ".join(Page(rendered(section)).text.split())


def test_the_sets_of_these_tests_are_cards():
    for values in four():
        assert Card.of_json(values).as_json() == values


def test_it_says_what_was_measured():
    text = words_of(card_section(evaluation(*four())))
    for words in (
        row_label("initial"), row_label("random_real_floats"), "90.0 ± 1.2",
        "79.4 ± 1.2", "45.0 ± 1.2", "91.0 ± 1.2", "-3.2 ± 1.2", "PGD-10, L-inf 2/255",
        "at 24 px", "gaussian noise", "JPEG",
    ):  # fmt: skip
        assert words in text, words


def test_one_network_has_no_deviation():
    text = words_of(card_section(evaluation(card_set(students=1))))
    assert "±" not in text
    assert "79.4" in text


def test_what_was_not_measured_is_left_out():
    assert card_section({"rows": []}) is None
    assert card_section({"rows": [], "card": None}) is None
    assert card_section(evaluation()) is None
    section = card_section(evaluation(card_set(resized=None)))
    assert section.sets[0].resized is None
    assert "\u2013" in words_of(section)


def test_curves_are_where_their_values_are():
    picture = card_section(evaluation(*four())).pictures[0]
    assert [panel.title for panel in picture.panels][:2] == ["gaussian noise", "shot noise"]
    assert len(picture.panels) == len(CORRUPTIONS)
    assert [(tick.text, tick.top) for tick in picture.y_ticks] == [
        ("0", 100), ("45", 50), ("90", 0),
    ]  # fmt: skip
    panel = picture.panels[0]
    assert [curve.number for curve in panel.curves] == [1, 2, 3, 4]
    points = [tuple(map(float, p.split(","))) for p in panel.curves[1].points.split()]
    assert [x for x, _ in points] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.01)
    assert [y for _, y in points] == pytest.approx(
        [100 - 100 * v / 90 for v in (70, 65, 60, 55)], abs=0.01
    )
    label = row_label("initial")
    assert panel.description.startswith(
        f"distilled: 90.0 without, then 85.0, 80.0, 75.0; {label}: 70.0 without"
    )
    assert [tick.text for tick in panel.x_ticks] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("clean", [0.0, 3.0, 10.0, 100.0])
def test_curves_stay_in_their_frame(clean):
    low = [spread(0.0)] * 3
    section = card_section(
        evaluation(card_set(clean=clean, corruptions={"gamma": low, "jpeg": low}))
    )
    for panel in section.pictures[0].panels:
        tops = [float(p.split(",")[1]) for p in panel.curves[0].points.split()]
        assert all(0 <= top <= 100 for top in tops)
        assert tops[1:] == [100] * 3


def test_each_network_has_its_picture():
    more = [*four(), card_set("distilled_5"), *four("resnet18")]
    section = card_section(evaluation(*more))
    assert [(p.network, len(p.labels), p.left_out) for p in section.pictures] == [
        ("convnet", 4, 1), ("resnet18", 4, 0),
    ]  # fmt: skip
    assert all(len(row.cells) == 9 for row in section.spoilt)
    assert "the table has 1 more" in words_of(section)


def test_every_picture_is_in_words_too():
    section = card_section(evaluation(*four()))
    page = Page(rendered(section))
    labels = [v for tag, name, v in page.attributes if (tag, name) == ("div", "aria-label")]
    assert len([v for v in labels if "without, then" in v]) == len(CORRUPTIONS)
    for row in section.spoilt:
        assert all(cell in page.text for cell in row.cells)
    assert len(section.spoilt) == 3 * len(CORRUPTIONS)
    roles = [v for _, name, v in page.attributes if name == "role"]
    assert roles.count("img") == len(CORRUPTIONS)


def test_names_stay_names_and_nothing_is_loaded():
    sets = [
        card_set(
            own, own, attack=own, corruptions={f"{own}{other}": [spread(1.0)] for other in HOSTILE}
        )
        for own in HOSTILE[:1] * 2
    ]
    text = rendered(card_section(evaluation(*sets)))
    page = Page(text)
    assert not {"script", "img", "style", "dialog"} & set(page.elements)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [v for _, name, v in page.attributes if name in ("src", "href", "action")]
    assert HOSTILE[0] in page.text


def test_every_class_of_the_section_has_a_style():
    css = (_TEMPLATES / "report.css").read_text("utf-8")
    page = Page(rendered(card_section(evaluation(*four()))))
    used = {own for _, name, v in page.attributes if name == "class" for own in v.split()}
    assert {"panels", "lines", "set-4"} <= used
    assert {own for own in used if not re.search(rf"\.{own}\b", css)} == set()
    for colour in re.findall(r"stroke: var\((--[a-z]+)\)", css):
        # once for light, once for dark
        assert css.count(f"{colour}:") == 2


def damaged():
    good = evaluation(card_set())
    for key in good["card"]["sets"][0]:
        bad = copy.deepcopy(good)
        del bad["card"]["sets"][0][key]
        yield bad
    for key, value in (
        ("clean", 3.0), ("clean", {"mean": "much", "std": 0}), ("corruptions", [1]),
        ("students", "few"), ("attacked", None), ("corruptions", {"gamma": [{}]}),
    ):  # fmt: skip
        bad = copy.deepcopy(good)
        bad["card"]["sets"][0][key] = value
        yield bad
    yield {"card": {}}
    yield {"card": 3}
    yield {"card": {"sets": [3]}}
    yield evaluation(card_set(), card_set("initial", corruptions={"gamma": [spread(1.0)]}))


@pytest.mark.parametrize("bad", list(damaged()), ids=lambda bad: str(len(json.dumps(bad))))
def test_a_damaged_card_is_refused(bad):
    with pytest.raises((KeyError, TypeError, ValueError)):
        card_section(bad)


def shown(card):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(card_table(card))
    return console.export_text()


def test_the_table_of_the_command_line_fits_80_columns():
    sets = four()
    for own in sets:
        own["clean"] = spread(100.0)
        own["corruptions"]["jpeg"] = [spread(100.0)] * 3
    text = shown({"sets": sets})
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "100.0 ± 1.2",
        "100 100 100",
        "85 80 75",
        "PGD-10, L-inf 2/255",
        "at 24 px",
    ):
        assert words in text, words
    # one line for each figure: none is broken
    assert len([line for line in text.splitlines() if "100 100 100" in line]) == 1


def test_the_table_of_the_command_line_has_a_part_for_each_network():
    text = shown({"sets": [*four(), *four("resnet18")[:1]]})
    assert re.search(r"^. convnet +.", text, re.MULTILINE)
    assert re.search(r"^. resnet18 +.", text, re.MULTILINE)
    assert text.count("membership") == 2
    assert "convnet" not in shown({"sets": four()})
