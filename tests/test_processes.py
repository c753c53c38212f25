"""Runs on several processes, started as a user would: by `accelerate launch` and by `torchrun`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT, TESTS
from safetensors.torch import load_file
from small_runs import SMALL_EVALUATION

import hpd
import hpd.api
from hpd.artifacts import RunFolder
from hpd.cli import main
from hpd.config import load_config
from hpd.errors import DeviceError, RunError
from hpd.machine.device import Processes, open_device

DATA = {"kind": "digits", "classes": ["0", "1", "2", "3", "4"]}
SOURCES = {
    "gan": {"kind": "gan", "generator": "digits16", "levels": [0, 6], "steps": 2},
    "pixel": {"kind": "pixel", "steps": 3},
    "hmn": {"kind": "hmn", "steps": 3, "decoder": {"kind": "conv", "fit_steps": 3}},
}
OBJECTIVES = {
    "distribution": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8},
    "gradient": {
        "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 8,
        "network": {"steps": 2, "epochs": 1, "momentum": 0.9},
    },
    "regression": {
        "kind": "regression", "student": SMALL_STUDENT, "real_batch": 24,
        "pool": {"networks": 2, "updates": 2},
    },
    "trajectory": {
        "kind": "trajectory", "student": SMALL_STUDENT, "student_steps": 2, "expert_epochs": 1,
        "max_start_epoch": 1,
        "expert_training": {"count": 1, "training": {"epochs": 2, "lr": 0.1, "batch_size": 64}},
    },
}  # fmt: skip
LAUNCHERS = {
    2: ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"],
    4: ["torch.distributed.run", "--standalone", "--nproc_per_node=4"],
}  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HPD_OPS": "reference"}
# seconds that nothing here takes, on however busy a machine
LONG = 600
# without parameters that all classes share, and of images that come one by one
EXACT = ("gan-one-by-one", "pixel")


@pytest.fixture(scope="module", autouse=True)
def same_arithmetic():
    """One thread, as sums of several are added up in another order, and the same operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPD_OPS", ENVIRONMENT["HPD_OPS"])
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    experts = str(tmp_path_factory.mktemp("experts") / "experts")
    base = {"data": DATA, "device": "cpu", "selection": {"kind": "last"}}
    found = {}
    for objective, options in OBJECTIVES.items():
        own = options | ({"experts": experts} if objective == "trajectory" else {})
        for source, settings in SOURCES.items():
            config = base | {"source": settings, "objective": own}
            found[f"{source}-{objective}"] = config
        if objective != "trajectory":
            one_by_one = SOURCES["gan"] | {"chunk_images": 1}
            found[f"gan-one-by-one-{objective}"] = base | {"source": one_by_one, "objective": own}
    scored = {"selection": {"kind": "loss", "every": 2}}
    searched = SOURCES["gan"] | {"levels": [0, 2, 6], "search": "levels", "trial_steps": 1}
    found["gan-searched"] = found["gan-distribution"] | scored | {"source": searched}
    found["pixel-scored"] = found["pixel-distribution"] | scored
    teacher = tmp_path_factory.mktemp("teachers") / "teacher"
    student = f"student={SMALL_STUDENT | {'norm': 'batch'}}"
    hpd.squeeze(DATA, student, "training={epochs: 1, batch_size: 64}", out=teacher)
    recovery = {
        "kind": "recovery", "teacher": str(teacher), "adjustment": {"mode": "directed", "steps": 2}
    }  # fmt: skip
    three = SOURCES["pixel"] | {"images_per_class": 3}
    found["pixel-recovery"] = found["pixel-distribution"] | {
        "source": three, "objective": recovery
    }  # fmt: skip
    hpd.train_experts(load_config(found["pixel-trajectory"]))
    return found


def launch(count, *arguments, **options):
    command = [sys.executable, "-m", *LAUNCHERS[count], *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **options)


@pytest.fixture(scope="module")
def alone(configs):
    """The sets of one process."""
    return {name: hpd.distill(config).distilled.images for name, config in configs.items()}


@pytest.mark.parametrize("count", LAUNCHERS)
def test_two_and_four_processes_distil_what_one_does(count, configs, alone, tmp_path):
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    arguments = [TESTS / "processes.py", tmp_path / "configs.json", tmp_path]
    started = launch(count, *arguments, stderr=subprocess.PIPE)
    _, said = started.communicate(timeout=LONG)
    assert started.returncode == 0, said[-3000:]
    assert (tmp_path / "count").read_text() == str(count)
    for name, wanted in alone.items():
        found = load_file(tmp_path / f"{name}.safetensors")
        assert not torch.equal(found["images"], found["initial"]), name
        torch.testing.assert_close(found["images"], wanted, rtol=0, atol=1e-5, msg=name)
        if name.startswith(EXACT):
            assert torch.equal(found["images"], wanted), name


def wait_for(found, started, seconds=LONG):
    """Wait until `found()` is true, and return it; the launcher must not have ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = found()
        if result:
            return result
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)
    raise TimeoutError


def children_of(pid):
    """The processes that a launcher started on Linux, without helpers of other programs."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"hpd" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_a_killed_process_ends_the_others_and_the_run_goes_on(configs, tmp_path):
    """A rank is killed; the run goes on with two, gets SIGTERM, and goes on with one."""
    steps = 240
    config = configs["pixel-gradient"] | {"checkpoint_every": 20}
    config["source"] = SOURCES["pixel"] | {"steps": steps}
    path, run = tmp_path / "config.yaml", RunFolder(tmp_path / "run")
    path.write_text(yaml.safe_dump(config))
    arguments = ["-m", "hpd", "distill", path, "--out", run.path, "--resume"]

    def steps_of_checkpoint():
        found = sorted(run.checkpoints.path.glob("step-*.json"))
        return int(found[-1].stem.split("-")[2]) if found else 0

    started = launch(2, *arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(steps_of_checkpoint, started)
    os.kill(children_of(started.pid)[1], signal.SIGKILL)
    started.communicate(timeout=LONG)
    assert started.returncode != 0
    kept = run.checkpoints.newest()
    assert kept is not None
    assert 0 < kept.step.index < steps
    assert kept.step.index % 20 == 0

    started = launch(2, *arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: steps_of_checkpoint() > kept.step.index, started)
    started.send_signal(signal.SIGTERM)
    said, complained = started.communicate(timeout=LONG)
    assert f"going on after {kept.step.index} of {steps} steps" in said
    assert complained.count("hpd: interrupted; this goes on: accelerate launch -m hpd distill") == 1
    last = run.checkpoints.newest()
    assert kept.step.index < last.step.index < steps

    ended = hpd.distill(config, out=run.path, resume=True)
    assert torch.equal(ended.distilled.images, hpd.distill(config).distilled.images)


def test_no_timer_ends_a_process_that_waits_for_long_work(tmp_path):
    """The group's own limit is far shorter than what the first one works for."""
    started = launch(2, TESTS / "waiting.py", tmp_path, stderr=subprocess.PIPE)
    _, said = started.communicate(timeout=LONG)
    assert started.returncode == 0, said[-3000:]
    for rank in range(2):
        waited, total = json.loads((tmp_path / f"{rank}.json").read_text())
        assert waited > 5
        assert total == 2


def test_only_the_first_process_speaks_and_writes(configs, tmp_path):
    config = configs["pixel-distribution"] | {"evaluation": SMALL_EVALUATION}
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(config))
    started = launch(
        2, "-m", "hpd", "distill", path, "--out", run, "--tracker", "tensorboard",
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    said, complained = started.communicate(timeout=LONG)
    assert started.returncode == 0, complained
    for once in ("a step: about", "\nstage pixels", "distilled 5 images in", "images and all else"):
        assert said.count(once) == 1, said
    assert RunFolder(run).evaluated
    # the students were shared out, and are those of one process
    (shared,) = hpd.load_run(run).evaluations.values()
    assert hpd.evaluate(run).rows == shared.rows
    # three steps, and what the stage came to
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    assert len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(("rank", "said"), [(0, "hpd: RunError: it failed\n"), (1, "")])
def test_what_all_processes_know_is_said_by_one(monkeypatch, tmp_path, rank, said):
    def distill(settings, *, processes, **options):
        processes.told = True
        raise RunError("it failed")

    monkeypatch.setattr(hpd.api, "distill", distill)
    monkeypatch.setattr(Processes, "started", lambda cpu: Processes(rank, 2))
    result = CliRunner().invoke(main, ["distill", "digits", "--out", str(tmp_path / "run")])
    assert (result.exit_code, result.stderr, result.stdout) == (2, said, "")


def test_what_one_process_alone_knows_is_said_with_its_number(monkeypatch):
    given = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["distill", "no-such-config"])
    assert result.exit_code == 2
    assert result.stderr.startswith("hpd (process 3): ConfigError: no config 'no-such-config'")


def test_a_device_is_not_shared(monkeypatch):
    given = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match="several processes cannot share a device: got meta:0"):
        open_device("meta:0")
    assert open_device("cpu") == torch.device("cpu")
