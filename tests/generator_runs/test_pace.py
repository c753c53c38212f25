"""What a training will take, by the steps that were measured."""

from __future__ import annotations

import pytest

from hpd.errors import NumericError
from hpd.generator_runs.pace import MEASURED_STEPS, Pace, Window, estimate, images_left
from hpd.generator_runs.settings import CurveSettings, Limits


def test_the_rate_counts_plain_steps_those_that_regularise_and_saves():
    pace = Pace(16, 5.0)
    # the first one prepares things, and regularises
    ended = [pace.add(9.0, regularises=True)]
    ended += [pace.add(0.1, regularises=False) for _ in range(4)]
    ended += [pace.add(0.26, regularises=True)]
    assert ended == [False] * (MEASURED_STEPS - 1) + [True]
    a_step = 0.1 + 0.16 / 16
    assert pace.rate(16, 1_000) == pytest.approx(1 / (a_step / 16 + 5 / 1_000))


def test_without_regularisation_the_median_step_counts():
    pace = Pace(0, 0.0)
    for seconds in (9.0, 0.1, 0.2, 7.0, 0.2, 0.2):
        pace.add(seconds, regularises=False)
    assert pace.rate(10, 100) == pytest.approx(10 / 0.2)


@pytest.mark.parametrize(
    ("limits", "seen", "seconds", "left"),
    [
        (Limits(1_000, None), 0, 0, 1_000),
        (Limits(1_000, 5), 0, 0, 500),
        (Limits(1_000, 5), 900, 1, 100),
        (Limits(1_000, 5), 1_200, 9, 0),
        (Limits(), 0, 0, None),
    ],
)
def test_what_is_left(limits, seen, seconds, left):
    assert images_left(100, limits, seen, seconds) == left


def test_it_is_told_in_one_line():
    curve = CurveSettings()
    told = estimate(80.4, Limits(100_000), curve, 0, 0)
    assert told == "about 80.4 images/s: 21 min for 100,000 images"
    told = estimate(80.4, Limits(100_000), curve, 40_000, 500)
    assert told == "about 80.4 images/s: 12 min for 60,000 more images"
    told = estimate(80, Limits(), curve, 0, 0)
    assert told == "about 80 images/s: until 10 saves of 2 min each bring no gain"


def test_a_window_gives_means_and_refuses_what_is_not_finite():
    window = Window()
    window.add({"loss": 1.0})
    window.add({"loss": 2.0, "r1": 4.0})
    line = window.flush(7.0, 8)
    assert (line["loss"], line["r1"], line["seconds"]) == (1.5, 4.0, 7.0)
    assert "loss" not in window.flush(8.0, 8)
    window.add({"loss": float("nan")})
    with pytest.raises(NumericError, match="training loss"):
        window.flush(9.0, 8)
