"""The curves of the report."""

from __future__ import annotations

import pytest
from report_runs import metrics

from hpd.artifacts.metrics import read_stages
from hpd.artifacts.report.charts import loss_chart, round_values, score_chart, thin


def test_curves_are_where_their_values_are():
    stages = read_stages(metrics())
    assert [(s.name, s.start, len(s.losses)) for s in stages] == [
        ("0 ws", 0, 20), ("1 b4.conv1", 20, 20), ("2 pixels", 40, 20),
    ]  # fmt: skip
    assert stages[0].seconds == pytest.approx(10)
    chart = loss_chart(stages)
    points = [tuple(map(float, p.split(","))) for line in chart.lines for p in line.split()]
    assert len(points) == 60
    assert [x for x, _ in points] == [pytest.approx(100 * i / 60, abs=1e-3) for i in range(60)]
    # one affine map from values to heights, the larger the higher
    values = [line["loss"] for line in metrics()]
    slope = (points[-1][1] - points[0][1]) / (values[-1] - values[0])
    assert slope < 0
    for value, (_, top) in zip(values, points, strict=True):
        assert top == pytest.approx(points[0][1] + slope * (value - values[0]), abs=0.02)
    assert all(0 < top < 100 for _, top in points)
    for tick in chart.y_ticks:
        top = points[0][1] + slope * (float(tick.text) - values[0])
        assert tick.top == pytest.approx(top, abs=0.05)
    # of runs without a curve on fixed draws, running means stand before the steps
    assert len(chart.front) == 3
    middle = [float(p.split(",")[1]) for p in chart.front[1].split()][10]
    assert middle == pytest.approx(sum(top for _, top in points[29:32]) / 3, abs=0.02)
    scores = score_chart(stages)
    assert scores.front == []
    scored = [i for i, line in enumerate(metrics()) if line["score"] is not None]
    assert [point.left for point in scores.points] == [
        pytest.approx(100 * i / 60, abs=1e-3) for i in scored
    ]
    assert [(band.left, band.width) for band in chart.bands][1] == (33.333, 33.333)


@pytest.mark.parametrize(
    "losses", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 1e9], [-5.0, 3.0], [1.0, 40.0]]
)
def test_any_finite_values_make_a_chart(losses):
    lines = [
        {"stage": "a", "step": i, "loss": v, "score": None, "seconds": 1.0}
        for i, v in enumerate(losses)
    ]
    chart = loss_chart(read_stages(lines))
    tops = [float(p.split(",")[1]) for line in chart.lines for p in line.split()]
    assert all(0 <= top <= 100 for top in tops)
    assert chart.is_log == (min(losses) > 0 and max(losses) > 30 * min(losses))
    assert 1 <= len(chart.y_ticks) <= 10
    assert score_chart(read_stages(lines)) is None


def test_round_values_are_few_and_inside():
    for low, high in ((0, 1), (-3, 7), (0.98, 1.01), (0, 7000), (1e-9, 3e-9)):
        values = round_values(low, high)
        assert 2 <= len(values) <= 6
        assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)


def test_thinning_keeps_peaks():
    line = [(i, 0.0) for i in range(5000)]
    line[3217] = (3217, 9.0)
    assert (3217, 9.0) in thin(line)
    assert len(thin(line)) <= 600
    assert thin(line[:100]) == line[:100]
