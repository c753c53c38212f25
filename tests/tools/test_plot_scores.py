"""The picture of a run's scores: what it shows, and of which runs there is none."""

from __future__ import annotations

import json

import plot_scores as tool
import pytest
from click.testing import CliRunner
from conftest import SMALL_STUDENT

import hpd

CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1"]},
    "source": {"kind": "pixel", "steps": 4},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": {"kind": "validation", "every": 2, "student": SMALL_STUDENT,
                  "training": {"epochs": 1}},
    "evaluation": {"students": [SMALL_STUDENT], "seeds": 1, "training": {"epochs": 1}},
}  # fmt: skip


def test_held_out_errors_are_shown_as_accuracies_over_minutes(tmp_path, monkeypatch):
    hpd.distill(CONFIG, out=tmp_path / "run")
    shown = []
    monkeypatch.setattr(tool, "as_png", lambda figure: shown.append(figure) or b"png")
    assert tool.picture(tmp_path / "run") == b"png"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    (line,) = shown[0].axes[0].lines
    # at the start, after every second step, and at the end of the stage
    taken = [sum(step["seconds"] for step in steps[:count]) for count in (0, 2, 4)]
    minutes = [seconds / 60 for seconds in taken]
    assert list(line.get_xdata()) == pytest.approx(minutes)
    wanted = [100 * (1 - steps[i]["score"]) for i in (0, 2, 4)]
    assert list(line.get_ydata()) == pytest.approx(wanted)


def test_the_command_writes_a_png_and_refuses_a_run_without_scores(tmp_path):
    hpd.distill(CONFIG, out=tmp_path / "run")
    out = tmp_path / "scores.png"
    assert CliRunner().invoke(tool.main, [str(tmp_path / "run"), "--out", str(out)]).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    hpd.distill({**CONFIG, "selection": "last"}, out=tmp_path / "last")
    result = CliRunner().invoke(tool.main, [str(tmp_path / "last"), "--out", str(out)])
    assert result.exit_code == 1
    assert "has no scores" in result.output
    for text in ("{", "[]", '{"score": 1}'):
        (tmp_path / "last" / "metrics.jsonl").write_text(text)
        result = CliRunner().invoke(tool.main, [str(tmp_path / "last"), "--out", str(out)])
        assert "RunError: cannot read" in result.output
