"""`hpd options` shows what can be set, wherever it stands."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from own_modules import OBJECTIVE, Elsewhere

from hpd.cli import main
from hpd.config import load_config
from hpd.disk.yaml_text import flatten
from hpd.objectives import OBJECTIVES
from hpd.option_rows import option_rows
from hpd.sources import SOURCES
from hpd.students import STUDENTS


def said(*arguments, columns=80):
    result = CliRunner().invoke(main, ["options", *arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.output


def rows(name):
    return {row["name"]: row for row in json.loads(said(name, "--json"))}


@pytest.mark.parametrize("columns", [80, 120])
def test_all_groups_are_listed_and_fit_the_terminal(columns):
    text = said(columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    for name in ("data", "source", "objective", "selection", "evaluation", "squeeze", "continual"):
        assert f"│ {name} " in text
        assert max(map(len, said(name, columns=columns).splitlines())) <= columns


@pytest.mark.parametrize(
    ("name", "registry"),
    [("source", SOURCES), ("objective", OBJECTIVES), ("objective.student", STUDENTS)],
)
def test_a_choice_shows_its_kinds_and_each_kind_its_options(name, registry):
    assert list(rows(name)) == list(registry)
    for kind in registry:
        fields = registry[kind].model_fields
        assert list(rows(f"{name}.{kind}")) == list(fields)
        assert all(row["meaning"] for row in rows(f"{name}.{kind}").values())
        if fields:
            text = said(f"{name}.{kind}")
            assert all(f"│ {field[:9]}" in text for field in fields)


def test_the_default_kind_is_said_and_needs_no_name():
    assert [kind for kind, row in rows("objective").items() if row["default"]] == ["distribution"]
    assert rows("objective.student.width") == rows("objective.distribution.student.convnet.width")


def test_names_lead_to_options_of_options():
    assert "steps" in rows("objective.gradient.network")
    assert list(rows("evaluation.training.lr")) == ["lr"]
    assert "width" in rows("evaluation.students.convnet")


def test_every_key_of_a_dry_run_leads_somewhere():
    settings = load_config("digits-hmn-stylegan")
    for key in flatten(settings.model_dump(mode="json")):
        if not key.endswith("kind"):
            assert rows(key), key
            assert all(row["meaning"] for row in rows(key).values()), key


def test_an_option_that_several_kinds_have_is_shown_for_each():
    assert {"gan.steps", "pixel.steps", "low_rank.steps"} <= set(rows("source.steps"))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("objectve", "Did you mean 'objective'?"),
        ("objective.gradent", "Did you mean 'gradient'?"),
        ("objective.gradient.agument", "Did you mean 'augment'?"),
        ("seed.x", "It has no options of its own."),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name, fix):
    result = CliRunner().invoke(main, ["options", name])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert fix in result.stderr


def test_rows_say_type_default_and_condition():
    found = {row.name: row for row in option_rows(SOURCES["gan"])}
    assert found["generator"].default is None
    assert found["levels"].type == "list of whole number | all"
    assert found["project_steps"].meaning.endswith("(only with init project)")
    assert found["lr_generator"].default == "null"


def test_components_of_ones_own_are_shown_when_they_are_imported(tmp_path, monkeypatch):
    there = Elsewhere(tmp_path, monkeypatch)
    there.forget()
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    try:
        text = said("objective.to_mean", "--import", str(tmp_path / "mine.py"), "--json")
        assert [row["name"] for row in json.loads(text)] == ["add_ons", "strength"]
    finally:
        there.forget()
