"""Accuracy against bits, drawn."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from hpd.evaluation.drawn import frontier
from hpd.evaluation.summary import Line
from hpd.storage import Amount, Storage


def line(name, bits, accuracy, *, source="latents", table=1, generator=0, labels=0):
    storage = Storage(Amount(bits // 4, bits), Amount(labels, labels), Amount.of(generator))
    return Line(
        run="run", folders=["run"], seeds=[0], set=name, network="convnet", images_per_class=1.0,
        storage=storage, labels="hard", accuracy_mean=accuracy, students_std=0.5, seeds_std=None,
        sem=None, students=3, table=table, source=source, judged={"protocol": "dc"},
    )  # fmt: skip


LINES = [
    line("distilled", 4000, 60.0, generator=9), line("distilled", 1000, 50.0, generator=9),
    line("distilled", 2000, 40.0, source="pixel"), line("random_real", 800, 20.0),
    line("random_real_bits", 3000, 30.0), line("prior_samples", 1000, 45.0, generator=9),
    line("prior_samples", 1000, 45.0, generator=9), line("full", 10**6, 80.0),
    # beaten with fewer bits, and with as many
    line("distilled", 3000, 45.0, generator=9), line("distilled", 4000, 55.0, generator=9),
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: (label, x, y, hollow) of each series, and the levels, panel by panel."""
    figures = []
    original = frontier.blank_figure

    def blank(*size):
        figures.append(original(*size))
        return figures[-1]

    monkeypatch.setattr(frontier, "blank_figure", blank)

    def draw(lines):
        picture = frontier.frontier(lines)
        with Image.open(io.BytesIO(picture)) as opened:
            opened.load()
        return [axes for axes in figures[-1].axes if axes.get_visible()]

    return draw


def test_one_line_a_source_with_references(drawn):
    (axes,) = drawn(LINES)
    pale = [own for own in axes.lines if own.get_alpha() == 0.35 and len(own.get_xdata()) == 2]
    assert [list(own.get_xdata()) for own in pale if own.get_marker() == "o"] == [[3000, 4000]]
    series = {}
    for container, label in zip(*axes.get_legend_handles_labels(), strict=True):
        own = container.lines[0]
        series[label] = list(zip(own.get_xdata(), own.get_ydata(), strict=True))
        assert (own.get_markerfacecolor() == "white") == (
            label in ("latents", "samples of the prior")
        )
    assert series == {
        "latents": [(1000, 50.0), (4000, 60.0)],
        "pixel": [(2000, 40.0)],
        "random real images": [(800, 20.0), (3000, 30.0)],
        "samples of the prior": [(1000, 45.0)],
    }
    assert axes.get_xscale() == "log"
    assert any(own.get_ydata()[0] == 80.0 for own in axes.lines if len(own.get_ydata()) == 2)


def test_labels_count_and_tables_that_do_not_compare_are_apart(drawn):
    assert line("distilled", 1000, 1.0, labels=200).bits == 1200
    assert len(drawn([*LINES, line("distilled", 500, 70.0, table=2)])) == 2
    assert len(drawn([line("distilled", 500, 70.0, table=i) for i in range(3)])) == 3
