"""The table of sources: its rows, its means, and that it goes on where it stopped."""

from __future__ import annotations

import json
import statistics

import compare_sources as tool
import pytest
from conftest import SMALL_STUDENT

from hpd.config import load_config
from hpd.errors import ConfigError, RunError
from hpd.sources import SOURCES

BASE = {
    "data": {"kind": "digits", "classes": ["0", "1", "2"]},
    "source": {"kind": "gan", "generator": "digits16", "average_draws": 10},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": {"kind": "class_relevant", "student": SMALL_STUDENT, "training": {"epochs": 1}},
    "evaluation": {"students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2}},
}
WORDS = ["random real", "the prior", "low rank", "IDC", "H-PD"]


def make(out, *, images=(1,), words=WORDS, steps=7, base=BASE, say=lambda line: None, **options):
    page = out.with_suffix(".md")
    options = {"seeds": 1, **options}
    tool.make_table(base, [], out, page, images=images, steps=steps, words=words, say=say,
                    **options)  # fmt: skip
    return json.loads(out.read_text())["rows"], page.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole") / "table.json")


def test_rows_tell_images_and_floats(whole):
    rows, page = whole
    told = {row["row"]: (row["images_per_class"], row["stored_floats"]) for row in rows}
    assert told == {
        "random real": (1, 768), "the prior alone": (1, 768), "low rank": (4, 768),
        "IDC": (4, 768), "H-PD": (1, 768), "H-PD, no selection": (1, 768),
    }  # fmt: skip
    lines = page.splitlines()
    assert len(lines) == 2 + len(rows)
    first = rows[0]["networks"]["convnet"]
    assert lines[2].startswith(
        f"| random real | 1 | 1 | 768 | {first['mean']:.1f} ± {first['std']:.1f} | 1 x 2 |"
    )


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "cost")} for row in rows]


def test_a_table_that_was_stopped_goes_on_to_the_same_rows(whole, tmp_path):
    heard = []

    def stop(line):
        heard.append(line)
        if len(heard) == 3:
            raise KeyboardInterrupt

    out = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        make(out, say=stop)
    assert len(json.loads(out.read_text())["rows"]) == 2
    heard = []
    rows, _ = make(out, say=heard.append)
    assert without_times(rows) == without_times(whole[0])
    assert len(heard) == len(rows) - 2


def test_a_file_of_other_settings_is_refused(whole, tmp_path):
    out = tmp_path / "table.json"
    make(out, words=["random real"])
    before = out.read_bytes()
    with pytest.raises(RunError, match="other settings"):
        make(out, words=["random real"], steps=8)
    assert out.read_bytes() == before


def test_a_source_that_does_not_fit_is_a_row_that_says_so(tmp_path, monkeypatch):
    plan = tool.Plan("too much", {"kind": "low_rank", "rank": 9, "budget_images": 1})
    monkeypatch.setattr(tool, "plans", lambda *args: [plan])
    rows, page = make(tmp_path / "table.json", words=())
    assert "expected at most 0" in rows[0]["refused"]
    assert "| too much | 1 | the factors do not fit the budget" in page


@pytest.mark.parametrize("images", [1, 10])
def test_every_planned_source_exists_and_takes_its_steps(images):
    plans = tool.plans(load_config(BASE), images, 280)
    names = [plan.name for plan in plans]
    assert names[:5] == ["random real", "the prior alone", "pixel", "low rank", "IDC"]
    assert sum(name.startswith("GLaD") for name in names) == 7
    for plan in plans[1:]:
        SOURCES.parse(dict(plan.source))
    hpd = next(plan for plan in plans if plan.name == "H-PD")
    assert (sum(hpd.source["steps"]), len(hpd.source["steps"])) == (280, 7)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no row 'GLAD'"):
        make(tmp_path / "table.json", words=["GLAD"])
    with pytest.raises(ConfigError, match="must be of a generator: got pixel"):
        make(tmp_path / "table.json", base=BASE | {"source": "pixel"})


def test_several_seeds_are_pooled_as_one_sample():
    values = [[90.0, 94.0, 92.0], [80.0, 85.0, 84.0]]
    parts = [
        {"mean": statistics.fmean(v), "std": statistics.stdev(v), "students": 3} for v in values
    ]
    mean, std = tool.pooled(parts)
    together = values[0] + values[1]
    assert mean == pytest.approx(statistics.fmean(together))
    assert std == pytest.approx(statistics.stdev(together))


def test_steps_are_spread_evenly():
    assert tool.spread(280, 7) == [40] * 7
    assert sorted(tool.spread(10, 4)) == [2, 2, 3, 3]
    assert sum(tool.spread(283, 7)) == 283
