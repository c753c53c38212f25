"""Training experts: exact, resumable after any kill, and refused where it makes no sense."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, SMALL_TRAINING, TESTS
from small_runs import contents

from hpd.disk.locks import trying
from hpd.engine.experts import train_experts
from hpd.errors import ConfigError, DataError, NumericError, RunError
from hpd.rng import Streams
from hpd.students import STUDENTS, TrainingSettings, accuracy, train_student
from hpd.students.experts.record import ExpertsWanted
from hpd.students.experts.trajectories import ExpertFolder, ExpertSettings, flatten

STUDENT = STUDENTS.parse(SMALL_STUDENT)
# everything that training can draw or remember
EVENTFUL = {**SMALL_TRAINING, "momentum": 0.9, "schedule": "cosine", "cutmix": 0.5}
DROPOUT = {"kind": "vit", "width": 8, "heads": 2, "depth": 1, "mlp_width": 8, "patch": 4}


class Killed(KeyboardInterrupt):
    pass


class KilledAt:
    """Hears of every epoch, and dies at one."""

    def __init__(self, *epochs):
        self.epochs, self.heard = epochs, []

    def __call__(self, expert, epoch, loss):
        self.heard.append((expert, epoch))
        if (expert, epoch) in self.epochs:
            raise Killed


def train(path, images, *, student=STUDENT, count=2, training=SMALL_TRAINING, seed=0, **options):
    settings = ExpertSettings.read({"count": count, "training": training})
    wanted = ExpertsWanted(str(path), student, settings)
    return train_experts(wanted, images, device=CPU, seed=seed, **options)


def test_rows_are_the_parameters_after_each_epoch(experts_folder, images):
    """The twin trains an expert anew for each number of epochs."""
    folder = ExpertFolder.open(experts_folder)
    for expert in range(2):
        streams = Streams(0).fork("expert", expert)
        for epochs in range(4):
            student = STUDENT.build((1, 8, 8), 3, streams.generator("weights"))
            if epochs:
                training = TrainingSettings.read(
                    {**SMALL_TRAINING, "epochs": epochs, "momentum": 0.0, "weight_decay": 0.0,
                     "schedule": "constant"}
                )  # fmt: skip
                train_student(student, images.normalised(), images.labels, training, streams)
            assert torch.equal(folder.parameters(expert, epochs), flatten(student))
            scored = accuracy(student, images.normalised(), images.labels)
            if epochs == 0:
                assert folder.result(expert).accuracy_before == scored
        assert folder.result(expert).accuracy_after == scored
    assert not torch.equal(folder.parameters(0, 0), folder.parameters(1, 0))


def test_losses_are_reported_and_kept(images, tmp_path):
    heard = []
    folder = train(tmp_path, images, report=lambda *epoch: heard.append(epoch))
    assert [(expert, epoch) for expert, epoch, _ in heard] == [
        (expert, epoch) for expert in range(2) for epoch in (1, 2, 3)
    ]
    losses = [loss for _, _, loss in heard]
    assert folder.result(0).losses + folder.result(1).losses == tuple(losses)


@pytest.mark.parametrize(
    ("student", "training"),
    [(SMALL_STUDENT, SMALL_TRAINING), (SMALL_STUDENT, EVENTFUL), (DROPOUT, EVENTFUL)],
)
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(images, tmp_path, student, training):
    student = STUDENTS.parse(student)
    train(tmp_path / "whole", images, student=student, training=training)
    for killed in ((0, 1), (0, 3), (1, 2)):
        with pytest.raises(Killed):
            train(
                tmp_path / "killed", images, student=student, training=training,
                report=KilledAt(killed),
            )  # fmt: skip
        name = f"{killed[0]:03d}.partial.safetensors"
        assert (tmp_path / "killed" / name).is_file()
        assert not (tmp_path / "killed" / f"{killed[0]:03d}.safetensors").exists()
    listener = KilledAt()
    train(tmp_path / "killed", images, student=student, training=training, report=listener)
    assert listener.heard == [(1, 3)]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_momentum_matters_to_the_bytes(images, tmp_path, monkeypatch):
    """The test above can fail: without the optimiser's state the numbers are others."""
    train(tmp_path / "whole", images, count=1, training=EVENTFUL)
    with pytest.raises(Killed):
        train(tmp_path / "killed", images, count=1, training=EVENTFUL, report=KilledAt((0, 1)))
    monkeypatch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
    train(tmp_path / "killed", images, count=1, training=EVENTFUL)
    assert contents(tmp_path / "killed") != contents(tmp_path / "whole")


def test_a_kill_between_shard_and_json_costs_nothing(images, tmp_path, experts_folder, monkeypatch):
    from hpd.students.experts import trajectories

    write_json = trajectories.write_json

    def refuse(path, content):
        if path.name == "000.json":
            raise Killed
        write_json(path, content)

    monkeypatch.setattr(trajectories, "write_json", refuse)
    with pytest.raises(Killed):
        train(tmp_path, images)
    monkeypatch.setattr(trajectories, "write_json", write_json)
    listener = KilledAt()
    train(tmp_path, images, report=listener)
    assert (0, 3) not in listener.heard
    assert contents(tmp_path) == contents(experts_folder)


def test_an_expert_is_the_same_whatever_the_count(images, tmp_path, experts_folder):
    train(tmp_path, images, count=1)
    grown = train(tmp_path, images, count=2)
    assert contents(tmp_path) == contents(experts_folder)
    assert len(train(tmp_path, images, count=1)) == len(grown) == 2


def test_finished_experts_are_left_as_they_are(images, tmp_path):
    train(tmp_path, images)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    listener = KilledAt()
    train(tmp_path, images, report=listener)
    assert listener.heard == []
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    for name in ("000.json", "000.safetensors"):
        (tmp_path / name).unlink()
    train(tmp_path, images, report=listener)
    assert listener.heard == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_broken_progress_starts_that_expert_over_and_says_so(
    images, tmp_path, experts_folder, damage, caplog
):
    with pytest.raises(Killed):
        train(tmp_path, images, report=KilledAt((1, 2)))
    partial = tmp_path / "001.partial.safetensors"
    content = bytearray(partial.read_bytes())
    content[-100] ^= 1
    partial.write_bytes({"flip": content, "truncate": content[:-1], "empty": b""}[damage])
    listener = KilledAt()
    with caplog.at_level(logging.WARNING):
        train(tmp_path, images, report=listener)
    assert listener.heard == [(1, 1), (1, 2), (1, 3)]
    (line,) = caplog.messages
    assert line.startswith("expert 1 starts over: cannot read")
    assert "\n" not in line
    assert contents(tmp_path) == contents(experts_folder)


def test_a_broken_shard_is_refused_with_what_to_do(images, tmp_path):
    train(tmp_path, images)
    shard = tmp_path / "000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"000.safetensors.*Delete 000\.\*"):
        train(tmp_path, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "another seed: got 0, expected 1"),
        ({"training": SMALL_TRAINING | {"lr": 0.1}}, "training: got lr=0.2, expected lr=0.1"),
        (
            {"student": STUDENTS.parse(SMALL_STUDENT | {"norm": "group"})},
            "norm='instance', expected norm='group'",
        ),
    ],
)
def test_a_folder_of_other_experts_is_refused_and_left_alone(images, tmp_path, options, message):
    train(tmp_path, images, count=1)
    before = contents(tmp_path)
    with pytest.raises(RunError, match=message) as caught:
        train(tmp_path, images, **options)
    assert "another folder with --out" in caught.value.fix
    assert contents(tmp_path) == before


def test_other_images_are_refused(images, tmp_path):
    train(tmp_path, images, count=1)
    pixels = images.images.clone()
    pixels[0, 0, 0, 0] ^= 1
    with pytest.raises(RunError, match="training images"):
        train(tmp_path, images.with_images(pixels))


def test_what_cannot_work_is_refused_before_anything_is_written(images, tmp_path):
    out = tmp_path / "experts"
    with pytest.raises(ConfigError, match="norm: instance"):
        train(out, images, student=STUDENTS.parse(SMALL_STUDENT | {"norm": "batch"}))
    pixels = images.images.clone()
    pixels[4] = 9
    with pytest.raises(DataError, match="1 of 36 training images are constant"):
        train(out, images.with_images(pixels))
    assert not out.exists()


def test_an_expert_that_diverges_is_named_and_earlier_ones_are_kept(images, tmp_path):
    with pytest.raises(NumericError, match=r"expert 0 is not finite after epoch 1: .*Lower .*lr"):
        train(tmp_path, images, training=SMALL_TRAINING | {"lr": 1e30})
    assert sorted(contents(tmp_path)) == ["experts.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of files")
def test_two_at_once_share_the_experts_out_and_both_get_all(images, tmp_path, experts_folder):
    """Each expert is trained once, and who is done first waits for the other."""
    heard, both = [], threading.Barrier(2)

    def work(name):
        def report(expert, epoch, loss):
            if not any(who == name for who, _, _ in heard):
                # both are in the middle of an expert
                both.wait(30)
            heard.append((name, expert, epoch))

        return train(tmp_path, images, report=report)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, ("one", "other")))
    assert [len(folder) for folder in found] == [2, 2]
    assert sorted((expert, epoch) for _, expert, epoch in heard) == [
        (expert, epoch) for expert in range(2) for epoch in (1, 2, 3)
    ]
    assert len({(who, expert) for who, expert, _ in heard}) == 2
    assert contents(tmp_path) == contents(experts_folder)


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of files")
def test_what_one_leaves_the_other_goes_on_with(images, tmp_path, experts_folder):
    heard, begun = {"dies": [], "stays": []}, threading.Event()

    def dies(expert, epoch, loss):
        heard["dies"].append((expert, epoch))
        if epoch == 2:
            begun.set()
            # until the other one has done what was left, and waits
            while (1, 3) not in heard["stays"]:
                time.sleep(0.01)
            raise Killed

    def stays(expert, epoch, loss):
        heard["stays"].append((expert, epoch))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(train, tmp_path, images, report=dies)
        assert begun.wait(30)
        second = pool.submit(train, tmp_path, images, report=stays)
        assert isinstance(first.exception(), Killed)
        assert len(second.result()) == 2
    assert heard == {"dies": [(0, 1), (0, 2)], "stays": [(1, 1), (1, 2), (1, 3), (0, 3)]}
    assert contents(tmp_path) == contents(experts_folder)


def test_what_another_is_writing_is_not_swept_up(images, tmp_path, experts_folder):
    half = tmp_path / ".001.partial.safetensors.x2"

    with pytest.raises(Killed):
        train(tmp_path, images, count=1, report=KilledAt((0, 1)))
    with trying(tmp_path / ".001.lock") as held:
        assert held
        half.write_bytes(b"half")
        train(tmp_path, images, count=1)
        assert half.exists()
    train(tmp_path, images)
    assert contents(tmp_path) == contents(experts_folder)


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of files")
def test_a_file_is_held_by_one_and_gone_afterwards(tmp_path):
    path = tmp_path / "lock"
    with trying(path) as one:
        with trying(path) as other:
            assert (one, other) == (True, False)
        # who did not get it does not take it away
        assert path.exists()
    assert not path.exists()
    path.touch()
    with trying(path) as again:
        assert again


def test_leftovers_of_a_kill_while_writing_are_swept_up(images, tmp_path, experts_folder):
    (tmp_path / ".experts.json.x1").write_text("{")
    train(tmp_path, images, count=1)
    (tmp_path / ".001.partial.safetensors.x2").write_bytes(b"half")
    train(tmp_path, images)
    assert contents(tmp_path) == contents(experts_folder)


SCRIPT = """
import sys, conftest, test_experts

def report(*epoch):
    print(*epoch, flush=True)
    if epoch[:2] == (1, 1):
        # dies here, and not while it trains on
        sys.stdin.read()

test_experts.train(sys.argv[1], conftest.random_images(), report=report)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_to_the_same_bytes(images, tmp_path, experts_folder):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "engine")])},
    )
    with process.stdin, process.stdout:
        heard = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert heard[-1].startswith("1 1 ")
    assert sorted(contents(tmp_path)) == [
        ".001.lock", "000.json", "000.safetensors", "001.partial.safetensors", "experts.json"
    ]  # fmt: skip
    listener = KilledAt()
    train(tmp_path, images, report=listener)
    assert listener.heard == [(1, 2), (1, 3)]
    assert contents(tmp_path) == contents(experts_folder)
