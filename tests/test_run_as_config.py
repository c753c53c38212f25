"""The folder of a run stands wherever a config does; a dry run checks what needs no training."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from small_runs import contents, small_config

import hpd
from hpd.cli import main
from hpd.cli.running import usual_folder
from hpd.config import load_config
from hpd.disk.locks import held
from hpd.errors import ConfigError
from hpd.given import run_folder


@pytest.fixture
def config(tmp_path, monkeypatch, generator_folder):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(tmp_path / "photos", generator_folder)))
    return path


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_run_goes_on_by_its_folder_alone(config):
    assert invoke("distill", config, "--out", "run").exit_code == 0
    before = contents("run")
    again = invoke("distill", "run", "--resume")
    assert (again.exit_code, again.stdout) == (0, "nothing left to do: run\n")
    assert contents("run") == before
    assert usual_folder("run", 3) == run_folder("run")
    refused = invoke("distill", "run")
    assert refused.exit_code == 2
    assert "already holds a run" in refused.stderr
    refused = invoke("distill", "run", "source.lr_ws=0.5", "--resume")
    assert "source.lr_ws: 0.02 -> 0.5" in refused.stderr


def test_a_run_is_a_config_in_python_and_a_base(config, tmp_path):
    run = hpd.distill(config, out="run")
    assert load_config("run") == run.config == load_config(tmp_path / "run")
    more = load_config({"base": "run", "seed": 5})
    assert more == run.config.model_copy(update={"seed": 5})
    other = hpd.distill("run", "source.steps=1", out="other")
    assert other.folder == tmp_path / "other" or other.folder.name == "other"


def test_a_folder_without_a_config_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run_folder("empty") is None
    with pytest.raises(ConfigError, match="or the folder of a run"):
        load_config("empty")


def test_a_bundled_name_wins_over_a_folder_of_that_name(config, tmp_path):
    hpd.distill(config, out="digits")
    assert run_folder("digits") is None
    assert load_config("digits").data.model_dump() == load_config("digits-glad").data.model_dump()


def test_a_dry_run_prints_the_config_and_says_what_it_would_take(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = invoke("distill", config, "--dry-run", "--out", "run")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout) == load_config(config).model_dump(mode="json")
    assert result.stderr.count("\n") == 1
    assert "30 training images of 1 x 8 x 8 in 3 classes; 3 synthetic images" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.root=nowhere", "nowhere"),
        ("source.generator_classes=[0, 1]", "got 2 for 3"),
        ("source.generator_classes=[0, 1, zebra]", "no class 'zebra'"),
        ("source.levels=[0, 99]", "levels must be ascending levels"),
        ("source.steps=[1, 2, 3]", "steps must be one number or one for each level"),
        ("data.resolution=4", "does not fit the data"),
        ("source.generator=nowhere", "nowhere"),
        (f"objective={{kind: trajectory, student: {SMALL_STUDENT}}}", "objective.experts=FOLDER"),
        ("objective={kind: recovery, teacher: nowhere}", "nowhere"),
        ("evaluation={labels: soft, teacher: nowhere}", "nowhere"),
        ("selection={kind: validation, held_out: 0.5, x: 1}", "unknown key 'x'"),
        ("evaluation={students: [{kind: convnet, depth: 9}]}", "depth of at most"),
    ],
)  # fmt: skip
def test_a_dry_run_refuses_what_a_run_would(config, override, said, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    result = invoke("distill", config, override, "--dry-run")
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]


def test_a_dry_run_refuses_a_folder_that_cannot_be_made(config, tmp_path):
    (tmp_path / "file").write_text("x")
    result = invoke("distill", config, "--dry-run", "--out", "file/run")
    assert result.exit_code == 2
    assert "file/run cannot be made: got " in result.stderr
    assert invoke("distill", config, "--dry-run", "--out", "new/deep/run").exit_code == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_dry_run_refuses_a_folder_that_may_not_be_written_to(config, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o500)
    refused = invoke("distill", config, "--dry-run", "--out", "mine/a")
    assert "cannot be written to" in refused.stderr


def test_students_that_do_not_fit_are_refused_before_the_first_step(config, tmp_path):
    deep = "evaluation={students: [{kind: convnet, depth: 9}]}"
    with pytest.raises(ConfigError, match="depth of at most"):
        hpd.distill(config, deep, out="run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_a_folder_that_holds_something(config, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert invoke("distill", config, "--dry-run", "--out", "full").exit_code == 2
    hpd.distill(config, out="run")
    assert invoke("distill", config, "--dry-run", "--out", "run").exit_code == 2
    finished = invoke("distill", "run", "--dry-run", "--resume")
    assert "is finished" in finished.stderr


def test_a_projection_is_not_made_by_a_dry_run(config, monkeypatch):
    def refuse(*args, steps, **options):
        assert steps == 0
        return project(*args, steps=steps, **options)

    from hpd.sources.gan import starts as gan

    project = gan.project
    monkeypatch.setattr(gan, "project", refuse)
    options = ["source.init=project", "source.project_distance=squared"]
    assert invoke("distill", config, *options, "--dry-run").exit_code == 0


@pytest.mark.parametrize("name", ["cifar32", "digits16"])
def test_inspect_opens_what_levels_opens(name):
    inspected, levels = invoke("generator", "inspect", name), invoke("generator", "levels", name)
    assert inspected.exit_code == levels.exit_code == 0
    assert inspected.stdout.splitlines()[0].startswith(levels.stdout.splitlines()[0][:20])
    assert "licence  MIT" in inspected.stdout
    assert invoke("generator", "inspect", "cifra32").exit_code == 2


def test_inspect_opens_a_folder(generator_folder):
    assert "sha256 " in invoke("generator", "inspect", generator_folder).stdout


def test_a_dry_run_misses_the_weights_of_a_projection(config, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    options = ["source.init=project", "source.project_distance=lpips"]
    refused = invoke("distill", config, *options, "--dry-run")
    assert refused.exit_code == 2
    assert "AlexNet" in refused.stderr


def test_a_dry_run_of_a_finished_run_writes_nothing(config):
    """Though a kill left something that going on would delete."""
    run = hpd.distill(config, out="run")
    left = run.folder / ".evaluation.json.0123abcd.part"
    left.write_text("{")
    before = contents("run")
    assert "is finished" in invoke("distill", "run", "--dry-run", "--resume").stderr
    assert left.exists()
    assert contents("run") == before
    assert invoke("distill", "run", "--resume").exit_code == 0
    assert not left.exists()


def test_what_another_process_writes_is_not_left_over(config):
    run = hpd.distill(config, out="run")
    writes = run.folder / ".evaluation.json.0123abcd.part"
    writes.write_text("{")
    with held(run.folder, "evaluate"):
        again = hpd.distill("run", out="run", resume=True)
        assert writes.exists()
    assert torch.equal(again.distilled.images, run.distilled.images)


def test_a_projection_inside_of_tiles_is_not_made_by_a_dry_run(config, monkeypatch):
    from hpd.sources.gan import starts as gan

    asked, project = [], gan.project

    def hear(*args, steps, **options):
        asked.append(steps)
        return project(*args, steps=steps, **options)

    monkeypatch.setattr(gan, "project", hear)
    inner = load_config(config).model_dump(mode="json")["source"] | {"init": "project"}
    tiles = json.dumps({"kind": "multi_formation", "factor": 2, "of": inner})
    result = invoke("distill", config, f"source={tiles}", "--dry-run")
    assert result.exit_code == 0, result.output
    assert asked == [0]
