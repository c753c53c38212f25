"""`hpd compare`: two tiny runs that differ by their seed, side by side with another."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from PIL import Image
from small_runs import SMALL_EVALUATION

import hpd
from hpd.cli import main
from hpd.errors import RunError

CONFIG = {
    "data": "digits",
    "source": {"kind": "pixel", "steps": 1},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": {"kind": "last"},
    "evaluation": SMALL_EVALUATION,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, steps, seed in (("tiny-0", 1, 0), ("tiny-1", 1, 1), ("longer-0", 2, 0)):
        run = hpd.distill(CONFIG, f"source.steps={steps}", seed=seed, out=folder / name)
        hpd.evaluate(run)
    return folder


def test_one_table_and_one_picture_of_many_runs(runs, tmp_path):
    out = tmp_path / "comparison"
    paths = [str(runs / name) for name in ("tiny-0", "tiny-1", "longer-0")]
    result = CliRunner().invoke(main, ["compare", *paths, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "tiny" in result.output
    lines = json.loads((out / "comparison.json").read_text())["lines"]
    distilled = [line for line in lines if line["set"] == "distilled"]
    # the best first
    assert distilled == sorted(distilled, key=lambda line: -line["accuracy_mean"])
    own = {line["run"]: line for line in distilled}
    assert {run: line["seeds"] for run, line in own.items()} == {"tiny": [0, 1], "longer": [0]}
    assert own["tiny"]["students"] == 4
    text = (out / "comparison.md").read_text()
    assert text.startswith("Judged by dc, convnet of width 4 and depth 2, 2 epochs, hard labels:")
    assert "\n| run | run seeds | students |" in text
    assert (out / "comparison.csv").read_text().count("\n") == len(lines) + 1
    for name in ("comparison.png", "frontier.png"):
        with Image.open(out / name) as picture:
            picture.load()
    assert {line["source"] for line in lines} == {"pixel"}


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal_and_break_no_word(runs, columns):
    paths = [str(runs / name) for name in ("tiny-0", "longer-0")]
    result = CliRunner().invoke(main, ["compare", *paths], env={"COLUMNS": str(columns)})
    table = [line for line in result.output.splitlines() if line.startswith(("┃", "│", "┏"))]
    assert max(map(len, table)) <= columns
    assert "seeds" in table[1]
    for word in ("accuracy %", "trained on") if columns < 100 else ("a class", "floats"):
        assert word in result.output


def test_runs_are_taken_as_such(runs):
    run = hpd.load_run(runs / "tiny-0")
    assert hpd.compare([run, runs / "tiny-1"]) == hpd.compare([runs / "tiny-0", runs / "tiny-1"])


def test_a_run_given_twice_counts_once(runs):
    lines = hpd.compare([runs / "tiny-0", runs / "tiny-0"])
    assert lines[0].seeds == [0]


def test_what_made_the_numbers_is_written_beside_them(runs):
    written = json.loads((runs / "tiny-0" / "evaluation.json").read_text())
    assert written["settings"]["protocol"] == "dc"
    assert written["settings"]["training"]["epochs"] == SMALL_EVALUATION["training"]["epochs"]
    assert written["seed"] == 0
    assert set(written["versions"]) == {"hpd", "torch", "python"}
    assert written["students_seconds"] > 0
    assert len(written["similarity"]["nearest_real"]["indices"]) == 10
    assert all(len(row["accuracies"]) == 2 for row in written["rows"])


def test_another_protocol_brings_its_own_training(runs, tmp_path):
    copy = shutil.copytree(runs / "tiny-0", tmp_path / "tiny-0")
    hpd.evaluate(copy, "protocol=glad", "training.epochs=2", "seeds=1")
    settings = json.loads((copy / "evaluation.json").read_text())["settings"]
    assert (settings["training"]["ema"], settings["training"]["epochs"]) == (0.995, 2)
    assert settings["rate_factors"] == {"vgg11": 0.1}
    # and it is no longer comparable with the others
    assert len({line.run for line in hpd.compare([copy, runs / "tiny-1"])}) == 2


def test_bad_input_is_one_line(runs, tmp_path):
    bare = shutil.copytree(runs / "tiny-0", tmp_path / "bare")
    (bare / "evaluation.json").unlink()
    broken = shutil.copytree(runs / "tiny-0", tmp_path / "broken")
    (broken / "evaluation.json").write_text("{}")
    for arguments, said in (
        ([tmp_path / "nothing"], "not a run folder"),
        ([bare], f"hpd evaluate {bare}"),
        ([broken], f"hpd evaluate {broken}"),
        ([runs / "tiny-0", "--out", runs / "tiny-1"], "already holds"),
    ):
        result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
        assert result.exit_code == 2
        assert said in result.output
        assert len(result.output.splitlines()) == 1
    with pytest.raises(RunError):
        hpd.compare([bare])
    assert "hpd compare runs/digits-0" in CliRunner().invoke(main, ["compare", "-h"]).output
