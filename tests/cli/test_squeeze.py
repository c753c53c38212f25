"""Training teachers from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import SHARED, SMALL_TEACHER
from safetensors.torch import load_file, save_file
from small_runs import check_refused, contents, interrupt_at

import hpd
from hpd.cli import main
from hpd.engine import teachers
from hpd.students import accuracy
from hpd.students.networks.resnet20 import ResNet20, ResNet20Settings
from hpd.students.teachers import batch_norms, digest_network, read_teacher

DATA = "{kind: digits, classes: ['0', '1', '8']}"
OPTIONS = [
    f"student={SMALL_TEACHER['student']}",
    "training={epochs: 3, lr: 0.1, batch_size: 64, augment: [crop]}",
]
CLASSIFIER = SHARED / "data" / "classifiers" / "cifar10_resnet20.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def invoke(*arguments, data=DATA):
    return CliRunner().invoke(main, ["squeeze", "--data", data, *arguments])


def test_the_command_trains_keeps_and_finds_again():
    result = invoke("--out", "teacher", *OPTIONS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(contents("teacher")) == ["teacher.json", "teacher.safetensors"]
    teacher = read_teacher("teacher")
    record = teacher.record
    assert result.stdout == (
        f"convnet, 3 epochs: loss {record.losses[0]:.4g} -> {record.losses[-1]:.4g}, "
        f"accuracy {record.accuracy_train:.1%} on training images, "
        f"accuracy {record.accuracy_test:.1%} on test images: teacher\n"
    )
    assert record.losses[-1] < record.losses[0]
    assert record.accuracy_test > 0.6
    before = contents("teacher")
    assert invoke("--out", "teacher", *OPTIONS).stdout == result.stdout
    assert contents("teacher") == before


def test_what_is_read_is_what_was_trained():
    written = hpd.squeeze({"kind": "digits", "classes": ["0", "1", "8"]}, *OPTIONS, out="teacher")
    read = read_teacher("teacher")
    assert read.record == written.record
    assert digest_network(read.network) == digest_network(written.network) == read.record.weights
    assert not read.network.training
    assert not any(value.requires_grad for value in read.network.parameters())
    test = hpd.load_dataset("digits", classes=["0", "1", "8"]).test
    got = accuracy(read.network, read.normalise(test.unit()), test.labels)
    assert got == pytest.approx(read.record.accuracy_test)
    # running statistics are those of digits, not those that it started with
    assert all(float(norm.running_mean.abs().max()) > 0 for norm in batch_norms(read.network))


def test_an_interrupted_training_ends_in_the_same_bytes(monkeypatch):
    assert invoke("--out", "whole", *OPTIONS).exit_code == 0
    calls = interrupt_at(3, monkeypatch, teachers)
    result = invoke("--out", "again", *OPTIONS)
    assert result.exit_code == 130
    assert "this goes on: hpd squeeze --data" in result.stderr
    assert list(contents("again")) == ["teacher.partial.safetensors"]
    with pytest.raises(hpd.HpdError, match="in training"):
        read_teacher("again")
    assert "other settings" in invoke("--out", "again", *OPTIONS, "--seed", "1").stderr
    calls.extend([None] * 9)
    assert invoke("--out", "again", *OPTIONS).exit_code == 0
    assert len(calls) == 3 + 9 + 1
    assert contents("again") == contents("whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["student={kind: convnet, width: 4}"], "without batch norm"),
        (["student={kind: convnet, wdith: 4}"], "Did you mean 'width'?"),
        (["training.epoch=3"], "Did you mean 'epochs'?"),
        ([*OPTIONS, "training.lr=1e30"], "the teacher is not finite after epoch 1"),
        ([*OPTIONS, "--device", "quantum"], "no device 'quantum'"),
        ([*OPTIONS, "--resnet20", "x"], "published weights are not trained"),
        (["--resnet20", "x"], "cannot read a ResNet-20 from x"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    result = invoke("--out", "teacher", *arguments)
    check_refused(result, message)


def test_a_folder_of_something_else_is_left_alone():
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert "already holds other files: got notes.txt" in invoke("--out", "full", *OPTIONS).stderr
    assert list(contents("full")) == ["notes.txt"]
    assert "DATA" in invoke("--help").stdout.upper()
    result = invoke("--out", "teacher", *OPTIONS, data="no-such-folder")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_another_teacher_is_not_overwritten():
    assert invoke("--out", "teacher", *OPTIONS).exit_code == 0
    before = contents("teacher")
    result = invoke("--out", "teacher", *OPTIONS, "training.lr=0.05")
    assert result.exit_code == 2
    assert "a teacher of another training" in result.stderr
    assert contents("teacher") == before


def test_a_damaged_teacher_is_refused(teacher_folder):
    for name in ("teacher.json", "teacher.safetensors"):
        copy = Path(f"copy of {name}")
        copy.mkdir()
        for file, content in contents(teacher_folder).items():
            changed = bytearray(content)
            if file == name:
                changed[-3] ^= 1
            (copy / file).write_bytes(changed)
        with pytest.raises(hpd.HpdError, match="cannot read the teacher"):
            read_teacher(copy)
    record = json.loads((Path(teacher_folder) / "teacher.json").read_text())
    assert record["accuracy_train"] > 0.6


def published(path):
    """A file of random weights under the names of the published ones."""
    network = ResNet20Settings(norm="batch").build(
        (3, 32, 32), 10, torch.Generator().manual_seed(0)
    )
    names = {"blocks.0.": "conv1.", "blocks.1.": "bn1.", "blocks.3.": "layer1.",
             "blocks.4.": "layer2.", "blocks.5.": "layer3.", "head.": "linear."}  # fmt: skip
    weights = {}
    for name, value in network.state_dict().items():
        (ours,) = (o for o in names if name.startswith(o))
        if not name.endswith("num_batches_tracked"):
            weights[name.replace(ours, names[ours], 1)] = value
    save_file(weights, path)
    return network


def test_published_weights_are_taken_over(rng):
    network = published("weights.safetensors").eval()
    teacher = read_teacher("weights.safetensors")
    x = torch.randn(2, 3, 32, 32, generator=rng)
    torch.testing.assert_close(teacher.network(x), network(x))
    assert isinstance(teacher.network, ResNet20)
    assert teacher.record.classes[:2] == ("airplane", "automobile")
    result = invoke("--out", "teacher", "--resnet20", "weights.safetensors")
    assert "the teacher is of other images" in result.stderr


@pytest.mark.shared
@pytest.mark.skipif(not CLASSIFIER.is_file(), reason=f"needs {CLASSIFIER} (or HPD_SHARED/data)")
def test_the_published_file_has_all_that_a_teacher_needs():
    network = read_teacher(CLASSIFIER).network
    assert len(load_file(CLASSIFIER)) == len(
        [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    )
    assert len(batch_norms(network)) == 19
    assert all(float(norm.running_var.min()) > 0 for norm in batch_norms(network))
