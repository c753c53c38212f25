"""A whole run, small: Python API and command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from PIL import Image

import hpd
from hpd.artifacts import RunFolder
from hpd.cli import main
from hpd.data.images import Dataset
from hpd.data.kinds.digits import DigitsSettings
from hpd.disk.seals import read_sealed
from hpd.errors import ConfigError
from hpd.given import bundled_configs

SMALL = {
    "data": "digits",
    "source": {"kind": "gan", "generator": "digits16", "steps": 2, "average_draws": 10},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8},
    "selection": {
        "kind": "class_relevant", "every": 1, "student": SMALL_STUDENT, "training": {"epochs": 1},
    },
    "evaluation": {
        "students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2},
        "full_training": {"epochs": 1},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return str(path)


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A run made by the command line, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = CliRunner().invoke(main, ["distill", small, "--out", str(out), "--seed", "3"])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_run_folder_is_complete(finished):
    out, printed = finished
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names >= {
        "config.yaml", "metrics.jsonl", "manifest.json", "grid.png", "evaluation.json",
        "distilled.safetensors", "initial.safetensors", "checkpoints/stage-00.safetensors",
        "images/7/000.png", "report.html",
    }  # fmt: skip
    assert not [name for name in names if Path(name).name.startswith(".")]
    assert len(list((out / "images").rglob("*.png"))) == 10
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["generator"]["name"] == "digits16"
    assert manifest["storage"]["images"] == {"floats": 2560, "bits": 81920}
    assert manifest["storage"]["generator"] == {"floats": 0, "bits": 0}
    assert manifest["seed"] == 3
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # a line for each step, and one for the state at the end of each stage
    assert len([line for line in steps if line["loss"] is not None]) == 14
    assert all(step["score"] is not None for step in steps)
    for word in (
        "random real",
        "prior samples",
        "initial",
        "full: the whole training set",
        "distilled",
    ):
        assert word in printed


@pytest.mark.parametrize(("selection", "told"), [("loss", 1), ("last", 0)])
def test_a_selection_that_keeps_the_start_says_so(caplog, selection, told):
    ruinous = "source={kind: pixel, lr: 50.0, steps: 2}"
    run = hpd.distill(SMALL, ruinous, f"selection={{kind: {selection}, every: 1}}")
    assert torch.equal(run.distilled.images, run.initial.images) == bool(told)
    assert [r.message.startswith("no state scored better than the start") for r in caplog.records
            if r.name == "hpd.api.distilling.result"] == [True] * told  # fmt: skip


def test_the_final_images_are_written(finished):
    """What lies in the folder is the distilled set, not an earlier state of it."""
    out, _ = finished
    distilled = hpd.load_distilled(out)
    for image, label in zip(distilled.uint8(), distilled.labels.tolist(), strict=True):
        drawn = np.array(Image.open(out / "images" / str(label) / "000.png"))
        assert np.array_equal(drawn, image[0].numpy())


def test_the_evaluation_has_the_promised_rows(finished):
    out, _ = finished
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert {row["name"] for row in rows} >= {"distilled", "initial", "random_real", "full"}
    assert set(rows[0]) >= {
        "name", "network", "images_per_class", "storage", "accuracy_mean", "accuracy_std",
        "seeds", "accuracies", "labels", "hlr", "ior", "lrs", "ars",
    }  # fmt: skip


def evaluation_of(content):
    """What an evaluation says, without how long it took and what it is called."""
    of_its_own = ("students_seconds", "name", "format", "earlier")
    return {name: value for name, value in content.items() if name not in of_its_own}


def test_python_does_what_the_command_does(finished, small, tmp_path):
    out, _ = finished
    run = hpd.distill(small, seed=3, out=tmp_path / "again")
    again = (tmp_path / "again" / "distilled.safetensors").read_bytes()
    assert again == (out / "distilled.safetensors").read_bytes()
    in_memory = evaluation_of(hpd.evaluate(hpd.distill(small, seed=3)).as_json())
    assert in_memory == evaluation_of(read_sealed(out / "evaluation.json"))
    assert evaluation_of(hpd.evaluate(run).as_json()) == in_memory
    assert torch.equal(hpd.load_run(out).distilled.images, run.distilled.images)


def test_another_seed_gives_another_set(finished, small):
    out, _ = finished
    other = hpd.distill(small, seed=4).distilled
    assert not torch.equal(other.images, hpd.load_distilled(out).images)


def test_the_test_part_is_never_looked_at(small, monkeypatch):
    original = DigitsSettings.build

    class TrainOnly:
        def __init__(self, dataset: Dataset) -> None:
            self.train = dataset.train

    monkeypatch.setattr(DigitsSettings, "build", lambda self: TrainOnly(original(self)))
    assert len(hpd.distill(small).distilled) == 10


def test_export_and_evaluate_a_run(finished, tmp_path):
    out, _ = finished
    for name in ("imagefolder", "npz", "safetensors"):
        arguments = ["export", str(out), "--format", name, "--out", str(tmp_path / name)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert any((tmp_path / name).iterdir())
    result = CliRunner().invoke(main, ["evaluate", str(out), "seeds=1", "full_training=null"])
    assert result.exit_code == 0, result.output
    assert "whole training" not in result.output
    assert hpd.load_run(out).config.evaluation.seeds == 2


def test_a_run_is_exported_as_its_folder_is(finished, tmp_path):
    out, _ = finished
    run = hpd.load_run(out)
    alone = replace(run, folder=None)
    given = {"folder": out, "run": run, "set": run.distilled, "unwritten": alone}
    paths = {name: hpd.export(what, "npz", tmp_path / name) for name, what in given.items()}
    assert len({(path / "distilled.npz").read_bytes() for path in paths.values()}) == 1
    about = {name: json.loads((path / "about.json").read_text()) for name, path in paths.items()}
    # what only a folder knows
    assert about["folder"] == about["run"]
    assert about["run"]["provenance"]["seed"] == 3
    assert about["set"] == about["unwritten"] == about["run"] | {"provenance": {}}


def test_options_of_an_evaluation_in_a_list_are_named(finished):
    with pytest.raises(ConfigError, match="each by itself"):
        hpd.evaluate(finished[0], ["seeds=1"])


def test_dry_run_prints_the_whole_config_and_writes_nothing(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["distill", small, "source.lr_ws=0.5", "--dry-run"])
    assert result.exit_code == 0
    values = yaml.safe_load(result.stdout)
    assert values["source"]["lr_ws"] == 0.5
    assert values["optimizer"]["kind"] == "adam"
    assert list(tmp_path.iterdir()) == []


def test_bundled_configs_are_listed():
    lines = CliRunner().invoke(main, ["configs"]).output.splitlines()
    rows = CliRunner().invoke(main, ["configs", "results/"]).output.splitlines()
    names = [line.split()[0] for line in lines]
    assert "digits" in names and names[-1] == "results/"
    assert f"{len(rows)} more: hpd configs results" in lines[-1]
    assert {line.split()[0] for line in rows} < set(bundled_configs())
    wrong = CliRunner().invoke(main, ["configs", "result"])
    assert wrong.exit_code == 2 and "Did you mean 'results'?" in wrong.output


def commands(command, *path):
    """A command and those below it, as they are typed after `hpd`."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_shows_an_example_of_every_command(path):
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    example = shown.output.split("Example:\n")[1]
    assert " ".join(["  hpd", *path]) in example


def broken_folder(root: Path) -> str:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (16, 16), i).save(root / name / f"{i}.png")
    (root / "dog" / "1.png").write_bytes(b"not a picture")
    return str(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digitz"], "Did you mean 'digits'?"),
        (["digits", "source.stpes=3"], "Did you mean 'steps'?"),
        (["digits", "source.steps=many"], "steps in source 'gan'"),
        (["digits", "data={kind: folder, root: nowhere}"], "no such data folder: nowhere"),
        (["digits", "data={kind: folder, root: broken, channels: 1}"], "dog/1.png"),
        (["digits", "data={kind: cifar10, root: .}"], "is not in"),
        (["digits", "source.generator=nowhere"], "no generator 'nowhere'"),
        (["digits", "source.levels=[9]"], "levels must be ascending"),
        (["digits", "device=quantum"], "no device 'quantum'"),
        (["digits", "source.generator_classes=[0]"], "got 1 for 10"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken_folder(tmp_path / "broken")
    result = CliRunner().invoke(main, ["distill", *arguments, "--out", "out"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_classes_that_the_generator_lacks_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("3", "cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (16, 16), i).save(tmp_path / "data" / name / f"{i}.png")
    data = "data={kind: folder, root: data, channels: 1}"
    result = CliRunner().invoke(main, ["distill", "digits", data, "--out", "out"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the generator has no class 'cat'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_a_run_is_left_alone(finished, small):
    out, _ = finished
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    result = CliRunner().invoke(main, ["distill", small, "--out", str(out)])
    assert result.exit_code == 2
    assert "already holds a run" in result.stderr
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_commands_on_what_is_no_run(tmp_path):
    RunFolder.create(tmp_path / "unfinished", "seed: 0\n")
    for path, message in (("nowhere", "not a run folder"), ("unfinished", "not finished")):
        result = CliRunner().invoke(main, ["evaluate", str(tmp_path / path)])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr
    arguments = ["export", str(tmp_path), "--format", "npz", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "no distilled set" in result.stderr


def test_a_run_that_diverges_keeps_its_checkpoints(small, tmp_path):
    out = tmp_path / "run"
    overrides = ["source.lr_features=1e38", "source.levels=[0, 2]", "selection=last"]
    result = CliRunner().invoke(main, ["distill", small, *overrides, "--out", str(out)])
    assert result.exit_code == 2
    assert "NumericError" in result.stderr
    assert (out / "checkpoints" / "stage-00.safetensors").is_file()
    assert not (out / "manifest.json").exists()


def test_a_card_is_measured_shown_and_kept(finished, tmp_path):
    out, _ = finished
    run = tmp_path / "run"
    shutil.copytree(out, run)
    quick = ["seeds=1", "training.steps=2", "full_training=null", "scores=false"]
    card = ["--card", "card.images=20", "card.steps=1", "card.corruptions=[rotation]"]
    result = CliRunner().invoke(main, ["evaluate", str(run), *quick, *card])
    assert result.exit_code == 0, result.output
    for words in ("rotation", "PGD-1, L-inf 2/255", "at 24 px", "membership"):
        assert words in result.output
    told = json.loads((run / "evaluation.json").read_text())["card"]
    assert [own["name"] for own in told["sets"]] == ["distilled", "random_real", "prior_samples"]
    assert told["settings"]["images"] == 20
    assert "PGD-1" in (run / "report.html").read_text()
    # without it nothing of the kind is said
    result = CliRunner().invoke(main, ["evaluate", str(run), *quick])
    assert "membership" not in result.output
    result = CliRunner().invoke(main, ["evaluate", str(run), *quick, "card.corruptions=[jpg]"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "jpeg" in result.stderr
