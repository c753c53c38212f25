"""Training experts from the command line and from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT, SMALL_TRAINING, THREE_DIGITS
from small_runs import check_refused, contents, interrupt_at

import hpd
from hpd.cli import main
from hpd.config import load_config
from hpd.engine import experts
from hpd.students.experts.trajectories import ExpertFolder


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config whose experts lie in `experts`, with which the command runs here."""
    monkeypatch.chdir(tmp_path)
    values = {
        "data": THREE_DIGITS,
        "source": {"kind": "pixel"},
        "objective": {
            "kind": "trajectory",
            "experts": "experts",
            "student": SMALL_STUDENT,
            "expert_training": {"count": 2, "training": SMALL_TRAINING},
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(values))
    return "config.yaml"


def invoke(*arguments):
    return CliRunner().invoke(main, ["experts", *arguments])


def test_the_command_trains_what_the_config_names(config):
    result = invoke(config)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == [
        "expert 0    3 epochs", "expert 1    3 epochs"
    ]  # fmt: skip
    folder = ExpertFolder.open("experts")
    assert (len(folder), folder.epochs) == (2, 3)
    first = sum(folder.result(i).losses[0] for i in range(2)) / 2
    after = sum(folder.result(i).accuracy_after for i in range(2)) / 2
    assert lines[2].startswith(f"2 experts of 3 epochs: loss {first:.4g} -> ")
    assert f"-> {after:.1%}, " in lines[2]
    assert lines[2].endswith(" s: experts")
    assert len(lines) == 3
    before = contents("experts")
    result = invoke(config)
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing left to train: 2 experts of 3 epochs: loss")
    assert result.stdout.count("\n") == 1
    assert contents("experts") == before


def test_experts_of_each_student_and_data_set_have_a_folder(config):
    """Without one that is named; a run of the same options finds them there."""
    own = ("objective.experts=null", "objective.expert_training.count=1")
    places = set()
    for option in ("seed=0", "data.classes=['0', '1']", "objective.student.width=5"):
        result = invoke(config, *own, option)
        assert result.exit_code == 0, result.output
        places.add(result.stdout.splitlines()[-1].rpartition(": ")[2])
    assert len(places) == 3
    assert all(place.startswith("runs/experts/convnet-1x16x16-") for place in places)
    again = invoke(config, *own)
    assert again.stdout.startswith("nothing left to train")
    own += ("objective.max_start_epoch=1", "objective.expert_epochs=1")
    found = CliRunner().invoke(main, ["distill", config, *own, "--dry-run"])
    assert found.exit_code == 0, found.output
    missing = CliRunner().invoke(
        main, ["distill", config, *own, "objective.student.width=6", "--dry-run"]
    )
    assert "hpd experts CONFIG" in missing.stderr


def test_options_replace_the_config(config):
    result = invoke(config, "--out", "others", "--count", "1", "--seed", "4")
    assert result.exit_code == 0, result.output
    assert not Path("experts").exists()
    folder = ExpertFolder.open("others")
    assert (len(folder), folder.record.seed) == (1, 4)


def test_python_does_what_the_command_does(config):
    assert invoke(config).exit_code == 0
    heard, expected, epochs = [], [], []
    folder = hpd.train_experts(
        config,
        out="again",
        report=lambda *epoch: heard.append(epoch),
        on_setup=lambda settings, each: (expected.append(settings), epochs.append(each)),
    )
    assert contents("again") == contents("experts")
    assert [loss for expert, _, loss in heard if expert == 1] == list(folder.result(1).losses)
    assert (expected[0].count, expected[0].training.lr, epochs) == (2, 0.2, [3])
    settings = load_config(config)
    assert len(hpd.train_experts(settings, out="again", count=3)) == 3
    with pytest.raises(hpd.HpdError, match="belong in the settings"):
        hpd.train_experts(settings, seed=1)
    with pytest.raises(hpd.HpdError, match="count"):
        hpd.train_experts(settings, count=0)


def test_an_interruption_is_one_line_and_the_same_command_goes_on(config, monkeypatch):
    assert invoke(config, "--out", "whole").exit_code == 0
    calls = interrupt_at(5, monkeypatch, experts)
    result = invoke(config)
    assert result.exit_code == 130
    assert result.stderr == "hpd: interrupted; this goes on: hpd experts config.yaml\n"
    assert "001.partial.safetensors" in contents("experts")
    calls.extend([None] * 100)
    result = invoke(config)
    assert result.exit_code == 0, result.output
    assert len(calls) == 5 + 100 + 2
    assert contents("experts") == contents("whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "the objective needs no experts: got distribution, expected trajectory"),
        (["objective.student.norm=batch"], "norm: instance, group, layer or none"),
        (["objective.expert_training.training.epoch=3"], "Did you mean 'epochs'?"),
        (["objective.expert_training.training.lr=1e30"], "expert 0 is not finite after epoch 1"),
        (["data={kind: folder, root: nowhere}"], "no such data folder: nowhere"),
        (["device=quantum"], "no device 'quantum'"),
        (["--out", "config.yaml"], "cannot write to config.yaml"),
        (["--out", "."], "already holds other files: got config.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(config, arguments, message):
    arguments = arguments if arguments == ["digits"] else [config, *arguments]
    result = invoke(*arguments)
    check_refused(result, message)


def test_experts_of_other_settings_are_refused_by_name(config):
    assert invoke(config, "--count", "1").exit_code == 0
    before = contents("experts")
    for arguments, message in (
        (["objective.expert_training.training.lr=0.1"], "got lr=0.2, expected lr=0.1"),
        (["data.classes=['0', '8', '1']"], "another list of classes"),
        (["objective.expert_training=null"], "another training"),
    ):
        result = invoke(config, *arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr
        assert "--out" in result.stderr
    assert contents("experts") == before


def test_experts_that_learned_nothing_are_not_passed_off_as_trained(config):
    result = invoke(config, "objective.expert_training.training.lr=1e-7")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "2 of 2 experts in experts did not learn: got expert 0 with accuracy" in result.stderr


def test_help_shows_an_example():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "Example:" in result.output
