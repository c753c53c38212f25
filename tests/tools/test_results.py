"""The results table: its rows are configurations, and its page says what the file says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import results as tool
import results_again as again
import results_page as page
import results_rows as rows
from click.testing import CliRunner
from measured_sets import summarise

from hpd.config import load_config
from hpd.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs"
PLACES = [(data, budget) for data in rows.DATA for budget in rows.DATA[data].budgets]
LINES = [row.line for row in rows.rows("digits", 1)][:6]
LEVELS = [row for row in rows.rows("digits", 1) if row.level is not None]


def one_set(config, seed=0, name="distilled", accuracies=(50.0, 52.0), seconds=60.0, bits=320):
    return {
        "config": config, "seed": seed, "digest": "x",
        "cost": {"seconds": seconds, "peak_bytes": 10**9},
        "rows": [
            {
                "name": name, "network": "convnet", "images_per_class": 1.0,
                "accuracies": list(accuracies),
                "storage": {
                    "images": {"floats": 10, "bits": bits}, "labels": {"floats": 0, "bits": 0},
                    "generator": {"floats": 0, "bits": 0},
                },
            }
        ],
    }  # fmt: skip


@pytest.mark.parametrize(("data", "budget"), PLACES)
def test_every_row_is_a_configuration_of_its_own(data, budget):
    found = rows.rows(data, budget)
    assert len({row.name for row in found}) == len({row.line for row in found}) == len(found)
    for row in found:
        name, *changes = shlex.split(row.line)
        settings = load_config(name, changes)
        assert settings.evaluation.students, row.line
        assert (settings.relabel is not None) == (row.labels == "soft"), row.line
    assert len([row for row in found if row.is_reference]) == 1


@pytest.mark.parametrize(("data", "budget"), PLACES)
def test_all_rows_of_an_objective_take_the_same_steps(data, budget):
    found = rows.DATA[data]
    for row in rows.rows(data, budget):
        if row.method == "seeds" or row.config:
            continue
        name, *changes = shlex.split(row.line)
        source = load_config(name, changes).source
        steps = getattr(source, "of", source).steps
        stages = found.levels if row.method.startswith("H-PD") else 1
        whole = found.levels if row.level is not None else 1
        wanted = {"DM": found.steps, "regression": found.long, "trajectories": 990}[row.objective]
        assert steps * stages * whole == wanted - wanted % max(found.levels, 1), row.name


def test_rows_are_chosen_by_words_and_shared_out():
    chosen = tool.chosen(["H-PD"], ["digits"], [1])
    assert {row.method for row in chosen} == {"H-PD", "H-PD with search"}
    every = tool.chosen([], ["digits"], [1, 10])
    parts = [tool.part_of(every, f"{k}/2") for k in (0, 1)]
    assert sorted(row.line for part in parts for row in part) == sorted(r.line for r in every)
    for part in parts:
        levels = [row for row in part if row.level is not None and row.budget == 1]
        assert len(levels) % rows.DATA["digits"].levels == 0
    for wrong in ("2/2", "x/2", "1"):
        with pytest.raises(tool.ConfigError, match="no such part"):
            tool.part_of(every, wrong)


def test_an_unknown_row_is_named(tmp_path):
    result = CliRunner().invoke(
        tool.main, ["--row=GLAD", f"--out={tmp_path}/r.json", f"--runs={tmp_path}"]
    )
    assert result.exit_code == 1
    assert "no row 'GLAD'" in result.output


@pytest.mark.parametrize("content", ['{"sets": [', "[]", '{"rows": []}', "\xff"])
def test_a_broken_file_is_named_and_left_alone(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_bytes(content.encode("latin-1"))
    result = CliRunner().invoke(tool.main, [f"--out={path}", f"--runs={tmp_path}"])
    assert result.exit_code == 1
    assert f"{path} is broken" in result.output and result.output.count("\n") == 1
    assert path.read_bytes() == content.encode("latin-1")


def test_the_best_level_is_known_when_all_are_measured():
    own = [row for row in LEVELS if row.objective == "DM"]
    sets = [one_set(row.line, accuracies=[50.0 + row.level]) for row in own]
    assert rows.best_level(own[0], summarise(sets[:-1])) is None
    assert rows.best_level(own[0], summarise(sets)) == own[-1].line
    # what has more sets is not passed by one that was lucky once
    sets += [one_set(own[0].line, seed, accuracies=[40.0]) for seed in (1, 2)]
    assert rows.best_level(own[0], summarise(sets)) == own[0].line


def test_the_best_rows_meet_other_students():
    own = rows.rows("digits", 1)[:3]
    sets = [one_set(row.line, accuracies=[50.0 + k]) for k, row in enumerate(own)]
    best = rows.best_rows(own, summarise(sets), 2)
    assert best == [own[2], own[1]]
    wide, others = (load_config(*_split(line)) for line in rows.on_others(best[0]))
    assert [one.width for one in wide.evaluation.students] == [128]
    assert len(others.evaluation.students) == 4


def _split(line):
    name, *changes = shlex.split(line)
    return name, changes


def test_teachers_are_trained_where_they_are_missing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool.hpd, "squeeze", lambda *a, **k: asked.append((a, k["out"])))
    soft = next(row for row in rows.rows("digits", 1) if row.labels == "soft")
    settings = load_config(*_split(soft.line))
    tool.ensure_teacher(settings)
    [(arguments, out)] = asked
    assert arguments[0]["kind"] == "digits" and "norm: batch" in arguments[1]
    assert out == settings.relabel.teacher
    Path(out).mkdir(parents=True)
    tool.ensure_teacher(settings)
    tool.ensure_teacher(load_config("digits", []))
    assert len(asked) == 1
    # ten images' bits have one of their own
    tool.ensure_teacher(load_config("cifar10-seeds-10", []))
    assert "width: 64" in asked[1][0][1] and asked[1][1] == "runs/cifar10-wide-teacher"


def test_the_page_shows_the_best_level_with_what_its_search_took():
    own = [row for row in LEVELS if row.objective == "DM"]
    sets = [one_set(row.line, accuracies=[50.0 + row.level, 51.0 + row.level]) for row in own]
    pixels = next(row for row in rows.rows("digits", 1) if row.name == "pixels, DM")
    sets += [one_set(pixels.line, seed, accuracies=[60.0 + 2 * seed]) for seed in (0, 1)]
    reference = next(row for row in rows.rows("digits", 1) if row.is_reference)
    sets.append(one_set(reference.line))
    sets[-1]["rows"] += one_set(reference.line, name="random_real", bits=80)["rows"]
    measured = page.Measured(sets)

    text = "before\n<!-- results: digits 1 --> old <!-- end -->\nafter\n"
    text += "<!-- levels: digits 1 --><!-- end -->\n"
    filled = page.fill(text, measured)
    assert filled == page.fill(filled, measured)
    main, by_level = filled.split("after")
    assert "old" not in main
    assert "| GLaD, best level (6), DM | 1 | 320 |  | 56.5 ± 0.7 | 1 x 2 | 7.0 | 1.0 |  |" in main
    assert "| pixels, DM | 1 | 320 |  | **61.0 ± 1.4** | 2 x 1 | 1.0 | 1.0 |  |" in main
    assert "| random real images | 1 | 80 |  | 51.0 ± 1.4 | 1 x 2 |  |  |  |" in main
    assert "| 0 | 50.5 |" in by_level
    for of in (lambda one: one.bits, lambda one: one.minutes):
        assert page.picture(measured, of, "x").startswith(b"\x89PNG")


def test_an_accuracy_stands_where_a_page_asks_for_it():
    measured = page.Measured([one_set("mine x=1"), one_set("mine x=1", 1, accuracies=[53.0])])
    text = "came to <!-- accuracy: mine x=1 -->?<!-- end -->, <!-- accuracy: other --><!-- end -->"
    filled = page.fill(text, measured)
    assert "-->52.0 ± 1.4<!--" in filled
    assert "-->not measured yet<!--" in filled
    assert page.fill(filled, measured) == filled
    beside = page.Measured([one_set("mine", name="random_real", accuracies=[10.0, 12.0])])
    asked = "<!-- accuracy: mine : random_real --><!-- end -->"
    assert "-->11.0 ± 1.4<!--" in page.fill(asked, beside)
    row = rows.rows("digits", 1)[0]
    named = f"<!-- accuracy: digits 1 {row.name} --><!-- end -->"
    assert "-->52.0 ± 1.4<!--" in page.fill(
        named, page.Measured([one_set(row.line), one_set(row.line, 1, accuracies=[53.0])])
    )


def test_every_number_of_the_pages_comes_from_the_file():
    held = json.loads((DOCS / "results.json").read_text())
    assert held["rows"] == summarise(held["sets"])
    measured = page.Measured(held["sets"])
    for path in [DOCS.parent / "README.md", *DOCS.glob("**/*.md")]:
        text = path.read_text(encoding="utf-8")
        assert page.fill(text, measured) == text, path
    table = (DOCS / "results.md").read_text(encoding="utf-8")
    assert table.count("<!-- results: ") == len(PLACES)


def sets_of(counts):
    return [one_set(line, k) for line, n in zip(LINES, counts, strict=False) for k in range(n)]


def test_rows_of_several_sets_are_drawn_by_a_seed():
    sets = sets_of([3, 1, 2, 2, 3])
    for seed in range(5):
        lines = [row.line for row in again.drawn(sets, 2, seed)]
        assert lines == [row.line for row in again.drawn(sets, 2, seed)]
        assert len(set(lines)) == 2 and LINES[1] not in lines
    assert len({tuple(row.line for row in again.drawn(sets, 2, seed)) for seed in range(9)}) > 2
    with pytest.raises(ConfigError, match="got 5, expected 4"):
        again.drawn(sets, 5, 0)


@pytest.mark.parametrize(("now", "agrees"), [((51.0, 53.0), True), ((53.0, 55.0), False)])
def test_sets_agree_within_a_deviation_of_students(now, agrees):
    found = again.compared(one_set("a", accuracies=(50.0, 52.0)), one_set("a", accuracies=now))
    assert found["agrees"] is agrees
    assert found["deviation"] == 1.41
    assert found["gap"] == (1.0 if agrees else 3.0)


def test_what_came_out_again_is_written_and_shown(tmp_path, monkeypatch):
    measured = []

    def measured_now(wanted, runs, baselines):
        measured.append((wanted.config, wanted.seed, wanted.students, baselines))
        return one_set(wanted.config, wanted.seed, accuracies=(50.0, 53.0))

    monkeypatch.setattr(again, "in_a_process", measured_now)
    monkeypatch.setattr(again, "ensure_teacher", lambda settings: None)
    (tmp_path / "results.json").write_text(json.dumps({"rows": [], "sets": sets_of([2, 2])}))
    words = [tmp_path / "results.json", "--data", tmp_path, "--runs", tmp_path / "runs"]
    words += ["--out", tmp_path / "again.json", "--count", 2]
    result = CliRunner().invoke(again.main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert measured == [(line, 0, 2, False) for line in LINES[:2]]
    text = page.fill("<!-- again: again.json --> old <!-- end -->", page.Measured([]), tmp_path)
    name = rows.rows("digits", 1)[0].name
    assert f"| {name} | 51.0 ± 1.4 | 51.5 ± 2.1 | yes |" in text
    assert "old" not in text
    assert page.fill(text, page.Measured([]), tmp_path) == text
