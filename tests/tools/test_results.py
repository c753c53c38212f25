"""The results table: it goes on where it stopped, adds up, and is what the page shows."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import results as tool
import results_page as page
import results_rows as rows
from click.testing import CliRunner

from hpd.config import load_config

SMALL = [
    "data.classes=['0', '1']",
    "objective.student={kind: convnet, width: 4}",
    "objective.real_batch=4",
    "source.steps=1",
    "selection=last",
    "evaluation.students=[{kind: convnet, width: 4}, {kind: alexnet, width: 2}]",
    "evaluation.seeds=2",
    "evaluation.training.epochs=1",
]
# level 0 only: its steps are one number for all rows
WORDS = ["random real", "prior", "pixel, DM", "level 0", "level 5"]
DOCS, TOOLS = (Path(__file__).parents[2] / name for name in ("docs", "tools"))


def make(folder, words=WORDS, overrides=SMALL, **options):
    told = {"dataset": "digits", "images": 1, "runs": folder / "runs", "out": folder / "r.json"}
    arguments = [f"--{name}={value}" for name, value in {**told, **options}.items()]
    arguments += [f"--row={word}" for word in words]
    result = CliRunner().invoke(tool.main, [*overrides, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "r.json").read_text()), result.output


@pytest.fixture(autouse=True, scope="module")
def here():
    """Tasks run in this process: a fresh one takes seconds to import torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "in_processes", lambda tasks, workers: map(tool._with_task, tasks))
        yield


@pytest.fixture(scope="module")
def whole(here, tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole"))[0]


def test_a_task_has_a_process_of_its_own_with_one_thread(tmp_path):
    code = (
        "import json, sys, torch, results as tool\n"
        "perform = tool.perform\n"
        "tool.perform = lambda task: {**perform(task), 'threads': torch.get_num_threads()}\n"
        "if __name__ == '__main__':\n"
        "    sets = tool.planned(['digits'], [1], 1, ['random real'])\n"
        "    task = tool.Task(sets[0], 'first', tuple(json.loads(sys.argv[1])), None)\n"
        "    [(done, found)] = tool.in_processes([task], 1)\n"
        "    print(done == task, list(found['accuracies']), found['threads'])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    told = subprocess.run(
        [sys.executable, script, json.dumps(SMALL)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(TOOLS), "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert told.stdout.split("\n")[0] == "True ['convnet'] 1"


def without_times(held):
    return [{k: v for k, v in one.items() if k not in ("seconds", "peak_bytes")}
            for one in held["sets"] + held["rows"]]  # fmt: skip


def test_rows_have_what_a_reader_needs(whole):
    first = next(r for r in whole["rows"] if r["method"] == "pixel, DM")
    assert first["config"] == "results/digits-pixel"
    assert (first["dataset"], first["images_per_class"], first["network"]) == (
        "digits", 1, "convnet",
    )  # fmt: skip
    assert (first["stored_floats"], first["seeds"], first["students"]) == (2 * 256, [0], 2)
    assert first["peak_bytes"] > 2**20 and first["seconds"] > 0
    random = next(r for r in whole["rows"] if r["method"] == "random real")
    assert random["peak_bytes"] is None and random["seconds"] is None


def test_only_the_best_level_meets_other_architectures(whole):
    levels = {
        one["method"]: (statistics.fmean(one["accuracies"]["convnet"]), len(one["accuracies"]))
        for one in whole["sets"]
        if rows.is_level(one["method"])
    }
    assert len(levels) == 2
    best = max(levels, key=lambda name: levels[name][0])
    assert {name: count for name, (_, count) in levels.items()} == {
        name: 2 if name == best else 1 for name in levels
    }


def test_a_table_that_was_stopped_goes_on_to_the_same_rows(whole, tmp_path):
    make(tmp_path, ["random real", "level 0"], networks="first")
    _, output = make(tmp_path, WORDS)
    assert "random real, 0: {'convnet'" not in output
    held, output = make(tmp_path, WORDS)
    assert output == ""
    assert without_times(held) == without_times(whole)


def test_sets_of_other_settings_are_measured_anew(tmp_path):
    make(tmp_path, ["random real"])
    held, output = make(tmp_path, ["random real"], [*SMALL, "evaluation.seeds=3"])
    assert "1/1 digits, 1, random real, 0" in output
    assert [len(one["accuracies"]["convnet"]) for one in held["sets"]] == [3]


def test_other_settings_have_a_run_of_their_own_and_other_students_the_same(tmp_path):
    for changes, runs in ((), 1), (("evaluation.seeds=3",), 1), (("source.steps=2",), 2):
        held, output = make(tmp_path, ["pixel, DM"], [*SMALL, *changes])
        assert "refused" not in held["sets"][0]
        assert "1/1 digits, 1, pixel, DM, 0" in output
        assert len(list((tmp_path / "runs").iterdir())) == runs


def test_experts_are_trained_where_they_are_needed(tmp_path):
    experts = "expert_training: {count: 1, training: {epochs: 3, batch_size: 16}}"
    objective = (
        f"objective={{kind: trajectory, experts: {tmp_path}/x, {experts}, max_start_epoch: 1,"
        " student: {kind: convnet, width: 16}, student_steps: 1, expert_epochs: 1}"
    )
    small = [one for one in SMALL if not one.startswith("objective")]
    held, _ = make(tmp_path, ["pixel, DM"], [*small, objective])
    assert len(held["rows"]) == 3
    assert (tmp_path / "x").is_dir()


def test_a_source_that_does_not_fit_says_so(tmp_path):
    held, output = make(tmp_path, ["low rank"], [*SMALL, "source.rank=9"])
    assert "the factors do not fit the budget" in held["sets"][0]["refused"] in output
    assert held["rows"] == []


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


@pytest.mark.parametrize("dataset", rows.BASES)
@pytest.mark.parametrize("images", [1, 10])
def test_every_row_is_a_config_that_tells_its_budget(dataset, images):
    for one in tool.planned([dataset], [images], 1, ()):
        name, *overrides = one.config.split(" ")
        assert one.settings(()) == load_config(name, overrides, 0)
        source = load_config(name, overrides).source
        source = getattr(source, "of", source)
        fields = ("images_per_class", "budget_images")
        assert images in [getattr(source, field, None) for field in fields]


def one_set(seed, method="a", **accuracies):
    return {
        "dataset": "digits", "images_per_class": 1, "method": method, "seed": seed, "config": "c",
        "stored_floats": 5, "made_images_per_class": 1.0, "seconds": 2.0 + seed,
        "peak_bytes": 10 + seed, "accuracies": accuracies,
    }  # fmt: skip


def test_students_and_sets_add_up():
    sets = [
        one_set(0, convnet=[50.0, 54.0], vgg11=[30.0], vit=[40.0]),
        one_set(1, convnet=[60.0, 64.0], vgg11=[34.0], vit=[42.0]),
    ]
    made = {row["network"]: row for row in rows.summarise(sets)}
    assert list(made) == ["convnet", "vgg11", "vit", rows.ACROSS]
    convnet, across = made["convnet"], made[rows.ACROSS]
    assert convnet["accuracy_mean"] == 57
    assert convnet["accuracy_std"] == round(statistics.stdev([50, 54, 60, 64]), 3)
    # of the means over sets, 52 and 62: their deviation over the root of two
    assert convnet["accuracy_sem"] == 5
    assert (convnet["seconds"], convnet["peak_bytes"]) == (2.5, 11)
    assert (across["accuracy_mean"], across["accuracy_sem"]) == (36.5, 1.5)


def test_one_set_has_the_standard_error_of_its_students():
    (row,) = rows.summarise([one_set(0, convnet=[50.0, 54.0])])
    assert row["accuracy_sem"] == pytest.approx(statistics.stdev([50, 54]) / 2**0.5, abs=1e-3)


def test_a_set_that_lacks_an_architecture_is_not_in_the_mean_over_them():
    sets = [one_set(0, convnet=[50.0], vit=[40.0]), one_set(1, convnet=[60.0])]
    made = {row["network"]: row for row in rows.summarise(sets)}
    assert made["convnet"]["seeds"] == [0, 1]
    assert made[rows.ACROSS]["seeds"] == [0]


def test_the_page_shows_the_best_level_and_fills_only_its_tables():
    levels = ["GLaD, level 0 (ws), DM", "GLaD, level 1 (b4), DM"]
    made = rows.summarise(
        [one_set(0, levels[0], convnet=[70.0]), one_set(0, levels[1], convnet=[70.0, 72.0]),
         one_set(0, "pixel, DM", convnet=[60.0], vit=[50.0])]
    )  # fmt: skip
    text = "before\n<!-- results: digits --> old <!-- end -->\nafter\n"
    text += "<!-- results: digits levels --><!-- end -->\n"
    filled = page.fill(text, made)
    assert filled == page.fill(filled, made)
    main, by_level = filled.split("after")
    assert "old" not in main and levels[0] not in main
    assert "| GLaD, level 1 (b4), DM | 1 | 1 | 5 | 71.0 ± 1.4 |  |" in main
    assert "| pixel, DM | 1 | 1 | 5 | 60.0 | 50.0 |" in main
    assert "| GLaD, level 0 (ws), DM | 70.0 |" in by_level
    for picture in (page.floats_png(made), page.levels_png(made)):
        assert picture.startswith(b"\x89PNG")


def test_every_number_of_the_page_comes_from_the_file():
    held = json.loads((DOCS / "results.json").read_text())
    assert held["rows"] == rows.summarise(held["sets"])
    text = (DOCS / "results.md").read_text()
    assert page.fill(text, held["rows"]) == text
    assert text.count("<!-- results: ") >= 3


def test_the_best_of_many_single_sets_gives_way_to_what_has_more():
    lucky = {"seeds": [0], "accuracy_mean": 71.2}
    proven = {"seeds": [0, 1, 2], "accuracy_mean": 70.8}
    assert rows.best_of([lucky, proven]) is proven
    assert rows.best_of([]) is None
