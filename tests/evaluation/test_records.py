"""Evaluations are records: a new one stands beside the others, and none is written over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from small_runs import small_config

import hpd
import hpd.evaluation
from hpd.artifacts import RunFolder
from hpd.artifacts.evaluations import records_of, with_record
from hpd.artifacts.report import render_report
from hpd.cli import main
from hpd.disk.seals import read_sealed, sealed
from hpd.errors import ConfigError, RunError
from hpd.evaluation import Evaluation
from hpd.evaluation.rows import remarks
from hpd.storage import Amount, Storage


@pytest.fixture
def run(tmp_path, generator_folder):
    config = small_config(tmp_path / "photos", generator_folder)
    config["source"]["steps"] = 1
    return hpd.distill(config, out=tmp_path / "run")


def rows(evaluation):
    return [(row.name, row.accuracies) for row in evaluation.rows]


def test_a_new_evaluation_stands_beside_the_old_ones(run):
    first = hpd.evaluate(run, "seeds=1")
    wide = hpd.evaluate(run, "seeds=1", f"students=[{ {**SMALL_STUDENT, 'width': 8} }]")
    named = hpd.evaluate(run, "seeds=1", "training.lr=0.5", name="hot")
    names = [first.name, wide.name, named.name]
    assert names == ["dc-hard-convnet", "dc-hard-convnet-2", "hot"]
    loaded = hpd.load_run(run.folder)
    assert list(loaded.evaluations) == names
    for evaluation in (first, wide, named):
        assert rows(loaded.evaluations[evaluation.name]) == rows(evaluation)
    assert loaded.evaluation == named
    assert loaded.evaluation.name == "hot"


def test_the_newest_is_read_by_readers_of_one(run):
    hpd.evaluate(run, "seeds=1")
    newest = hpd.evaluate(run, "seeds=1", "training.lr=0.5")
    content = json.loads((run.folder / "evaluation.json").read_text())
    assert content["format"] == 3
    assert content["rows"][0]["accuracies"] == newest.rows[0].accuracies
    assert [record["name"] for record in content["earlier"]] == ["dc-hard-convnet"]
    assert "earlier" not in content["earlier"][0]


def test_the_same_evaluation_again_is_no_second_record(run):
    one, other = hpd.evaluate(run, "seeds=1"), hpd.evaluate(run, "seeds=1")
    assert one == other
    assert list(run.evaluations) == ["dc-hard-convnet"]


def test_a_name_that_is_taken_by_another_is_refused_before_anything_is_trained(run):
    hpd.evaluate(run, "seeds=1", name="mine")
    before = (run.folder / "evaluation.json").read_bytes()
    heard = []
    with pytest.raises(RunError, match=r"another evaluation 'mine': got seeds: 1 -> 2"):
        hpd.evaluate(run, "seeds=2", name="mine", report=lambda *done: heard.append(done))
    for name in ("", "a/b", "x" * 61, "a\nb"):
        with pytest.raises(RunError, match="the evaluation's name is not valid"):
            hpd.evaluate(run, name=name, report=lambda *done: heard.append(done))
    assert heard == []
    assert (run.folder / "evaluation.json").read_bytes() == before


def test_new_labels_are_another_evaluation(run):
    """The settings are the same, what they judge is not."""
    hpd.evaluate(run, "seeds=1")
    images = run.distilled.images.flip(0)
    changed = replace(run, distilled=replace(run.distilled, images=images))
    assert hpd.evaluate(changed, "seeds=1").name == "dc-hard-convnet-2"


def test_an_evaluation_of_an_earlier_version_is_the_first_record(run):
    hpd.evaluate(run, "seeds=1")
    path = run.folder / "evaluation.json"
    old = read_sealed(path)
    old = {k: v for k, v in old.items() if k not in ("earlier", "name", "rests_on")} | {"format": 2}
    path.write_text(json.dumps(sealed(old)))
    hpd.evaluate(run, "seeds=1", "training.lr=0.5")
    assert list(run.evaluations) == ["dc-hard-convnet", "dc-hard-convnet-2"]


@pytest.mark.parametrize("content", ['{"rows": 1}', "[]", '{"earlier": [1], "rows": []}'])
def test_broken_records_are_one_line(run, content):
    (run.folder / "evaluation.json").write_text(json.dumps(sealed(json.loads(content)))
                                               if content.startswith("{") else content)  # fmt: skip
    with pytest.raises(RunError, match=r"evaluation") as refused:
        _ = run.evaluations
    assert "\n" not in str(refused.value)


def test_the_report_shows_every_evaluation(run):
    hpd.evaluate(run, "seeds=1", name="the first")
    hpd.evaluate(run, "seeds=1", "training.lr=0.5", name="the second")
    page = render_report(RunFolder(run.folder))
    assert page.index("the second") < page.index("Earlier evaluations") < page.rindex("the first")
    assert page.count('class="track"') == 2 * len(run.evaluation.rows)


def test_compare_takes_the_evaluation_that_is_meant(run):
    first = hpd.evaluate(run, "seeds=1", name="one")
    hpd.evaluate(run, "seeds=1", "training.lr=0.5", name="two")
    (line,) = [x for x in hpd.compare([run], name="one") if x.set == "distilled"]
    assert line.accuracy_mean == pytest.approx(first.row("distilled").accuracy_mean, abs=1e-4)
    assert line.evaluation == "one"
    with pytest.raises(RunError, match=r"no evaluation 'tow'\. Did you mean 'two'\?"):
        hpd.compare([run], name="tow")


def test_a_finished_run_is_judged_as_it_is_asked_for_now(tmp_path, generator_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path / "photos", generator_folder)
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    arguments = ["distill", "c.yaml", "--out", "run"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    again = CliRunner().invoke(main, [*arguments, "--resume"])
    assert again.output.endswith("nothing left to do: run\n")
    more = CliRunner().invoke(main, [*arguments, "--resume", "evaluation.seeds=1"])
    assert more.exit_code == 0, more.output
    assert "nothing left" not in more.output
    assert list(hpd.load_run("run").evaluations) == ["dc-hard-convnet", "dc-hard-convnet-2"]


def test_rows_go_by_one_name(run):
    evaluation = hpd.evaluate(run, "seeds=1")
    for row in evaluation.rows:
        assert evaluation.row(row.name) is row
        assert evaluation.row(row.name.replace("_", " ")) is row
    with pytest.raises(ConfigError, match=r"no row 'random'\. Did you mean 'random_real'\?"):
        evaluation.row("random")
    with pytest.raises(ConfigError, match=r"no student 'vit'.*expected convnet"):
        evaluation.row("distilled", "vit")


def test_students_that_are_asked_for_now_must_be_known(run):
    with pytest.raises(ConfigError, match=r"unknown student 'resnet50'\. Did you mean 'resnet20'"):
        hpd.evaluate(run, "students=[resnet50]")
    with pytest.raises(ConfigError, match="expected a valid list"):
        hpd.evaluate(run, "students=resnet50")


def row(name, mean, std=0.1, students=1):
    return hpd.evaluation.Row(
        name, "convnet", 1.0, Storage(Amount.of(1)), mean, std, list(range(students))
    )


@pytest.mark.parametrize(
    ("distilled", "other", "said"),
    [
        ((50.0,), ("random_real", 50.0), None),
        ((50.0,), ("random_real_bits", 51.0),
         "random real bits (1 a class) teach a convnet more than the distilled images: 51.0 %"
         " against 50.0 %"),
        ((50.0,), ("prior_samples", 51.0),
         "prior samples (1 a class) teach a convnet more than the distilled images: 51.0 % against"
         " 50.0 %"),
        # two standard errors of the difference are 1.13 points
        ((93.2, 0.8, 2), ("random_real", 94.2, 0.0, 2),
         "random real (1 a class) teach a convnet as much as the distilled images: 94.2 ± 0.0 %"
         " against 93.2 ± 0.8 %"),
        ((93.2, 0.8, 2), ("random_real", 94.4, 0.0, 2),
         "random real (1 a class) teach a convnet more than the distilled images: 94.4 ± 0.0 %"
         " against 93.2 ± 0.8 %"),
        ((50.0,), ("full", 99.0), None),
        ((50.0,), ("herding", 99.0), None),
    ],
)  # fmt: skip
def test_what_teaches_as_much_is_said(distilled, other, said):
    assert remarks([row("distilled", *distilled), row(*other)], 1000) == ([said] if said else [])


def test_each_kind_of_set_beside_is_told_of_for_itself():
    rows = [row("distilled", 50.0), *(row(name, 60.0) for name in (
        "random_real", "random_real_bits", "prior_samples", "prior_same_count"
    ))]  # fmt: skip
    assert [line.split(" (")[0] for line in remarks(rows, 1000)] == ["random real", "prior samples"]


def test_few_test_images_are_told_of():
    assert remarks([row("distilled", 50.0)], 12) == ["12 test images: each is 8.3 points"]
    assert not remarks([row("distilled", 50.0)], 200)


def test_random_images_that_win_are_told_and_kept(run, caplog):
    # images of noise teach nothing
    noise = replace(run.distilled, images=run.distilled.images * 0)
    evaluation = hpd.evaluate(replace(run, distilled=noise), "training.epochs=40", "seeds=2")
    lines = evaluation.about["remarks"]
    assert "the distilled images" in lines[0]
    assert lines[0] in caplog.text
    assert run.evaluation.about["remarks"] == lines


def test_records_are_put_together_in_order():
    content = None
    for lr in (1, 2, 3):
        content = with_record(content, {"rows": [], "settings": {"protocol": "dc", "lr": lr}})
    assert [record["settings"]["lr"] for record in records_of(content)] == [1, 2, 3]
    again = with_record(content, {"rows": [1], "settings": {"protocol": "dc", "lr": 1}})
    assert [record["settings"]["lr"] for record in records_of(again)] == [2, 3, 1]
    assert [record["rows"] for record in records_of(again)] == [[], [], [1]]
    assert Evaluation.read(records_of(content)[0]).name == "dc-hard"


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"rows": []}'])
def test_a_damaged_file_is_kept_beside_the_new_one(run, content, caplog):
    hpd.evaluate(run, "seeds=1")
    whole = (run.folder / "evaluation.json").read_bytes()
    for damaged in (content, whole[:-9]):
        (run.folder / "evaluation.json").write_bytes(damaged)
        hpd.evaluate(run, "seeds=1")
        assert "it is kept as evaluation.damaged-" in caplog.text
    kept = sorted(run.folder.glob("evaluation.damaged-*.json"))
    assert [path.read_bytes() for path in kept] == [content, whole[:-9]]
    assert list(run.evaluations) == ["dc-hard-convnet"]


def test_a_file_of_a_newer_version_is_left_as_it_is(run):
    hpd.evaluate(run, "seeds=1")
    path = run.folder / "evaluation.json"
    path.write_text(json.dumps(sealed({**read_sealed(path), "format": 4})))
    before, heard = path.read_bytes(), []
    for call in (
        lambda: run.evaluations,
        lambda: hpd.evaluate(run, "seeds=1", report=lambda *done: heard.append(done)),
        lambda: hpd.compare([run]),
        lambda: hpd.report(run),
    ):
        with pytest.raises(RunError, match=r"newer version of hpd: got format 4"):
            call()
    assert (path.read_bytes(), heard) == (before, [])
