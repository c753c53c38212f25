"""`hpd theory multi-index`: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image
from small_runs import check_refused

from hpd.cli import main

SMALL = ["dimension=8", "width=16", "ranks=[1]", "points=4", "point_counts=[1, 4]", "examples=300",
         "example_counts=[100, 300]", "real_counts=[4]", "fit_examples=200", "seeds=1"]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(main, ["theory", "multi-index", *map(str, arguments)])


def test_it_writes_tables_and_pictures_and_fails_with_a_claim(tmp_path):
    out = tmp_path / "out"
    result = invoke(*SMALL, "--out", out, "--seed", 3)
    # sizes at which nothing can be learned
    assert result.exit_code == 1, result.output
    assert "FAILS" in result.stdout
    said = " ".join(result.stdout.split())
    assert "A reconstruction" in said
    assert str(out) in result.stdout
    names = {"alignment.png", "floats.png", "points.png"}
    assert {p.name for p in out.iterdir()} == names | {
        "multi_index.csv", "multi_index.json", "multi_index.md",
    }  # fmt: skip
    for name in names:
        with Image.open(out / name) as picture:
            picture.load()
    content = json.loads((out / "multi_index.json").read_text())
    assert content["seed"] == 3
    assert content["settings"]["width"] == 16
    assert any(not check["holds"] for check in content["checks"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "taken"], "already holds other files"),
        (["widht=16", "--out", "new"], "Did you mean 'width'?"),
        (["width=15", "--out", "new"], "multiple of 2"),
        (["ranks=[60]", "--out", "new"], "expected 1 to 50, the dimension"),
        (["width", "--out", "new"], "expected key=value"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    result = invoke(*arguments)
    check_refused(result, message)
    assert not (tmp_path / "new").exists()


def test_help_shows_an_example():
    assert "hpd theory multi-index --out" in invoke("--help").output
    assert "hpd theory multi-index --out" in CliRunner().invoke(main, ["theory", "-h"]).output
