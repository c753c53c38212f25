"""The script of docs/cluster.md, run on one machine as if it were two, of one process each."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, SMALL_STUDENT

import hpd
from hpd.artifacts import RunFolder

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("bash") is None, reason="runs a script of Linux"
)
LONG = 600
# as Slurm's: one task on each machine, and all end where one fails
SRUN = f"""#!{sys.executable}
import os, pathlib, signal, subprocess, sys, time

command = sys.argv[next(i for i, word in enumerate(sys.argv) if word == "bash"):]
tasks = [
    subprocess.Popen(
        command, env=os.environ | {{"SLURM_NODEID": str(node)}}, start_new_session=True
    )
    for node in range(int(os.environ["SLURM_NNODES"]))
]
pids = pathlib.Path(os.environ["PIDS"])
pids.write_text(" ".join(str(task.pid) for task in tasks))
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):
        until = time.monotonic() + float(os.environ["GRACE"])
        while any(task.poll() is None for task in tasks) and time.monotonic() < until:
            time.sleep(0.1)
        for task in tasks:
            if task.poll() is None:
                os.killpg(task.pid, signal.SIGTERM)
    time.sleep(0.1)
sys.exit(max(abs(task.returncode) for task in tasks))
"""
SCONTROL = '#!/bin/bash\n[ "$*" = \'show hostnames \'"$SLURM_JOB_NODELIST" ] && echo 127.0.0.1\n'


@pytest.fixture
def submit(tmp_path):
    """Runs the script of the page in a cluster of so many machines."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    script = tmp_path / "hpd.sbatch"
    script.write_text(re.search(r'^```sh title="hpd.sbatch"\n(.*?)^```', page, re.S | re.M)[1])
    tools = tmp_path / "bin"
    tools.mkdir()
    accelerate = f'#!/bin/bash\nexec {sys.executable} -m accelerate.commands.accelerate_cli "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("accelerate", accelerate)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755 | stat.S_IXUSR)

    def go(machines, *arguments, grace=30):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PIDS": str(tmp_path / "pids"),
            "SLURM_NNODES": str(machines), "SLURM_JOB_NODELIST": "node[1-2]",
            # of which the script makes a port
            "SLURM_JOB_ID": str(port - 20000), "HPD_PROCESSES": "1", "GRACE": str(grace),
            "OMP_NUM_THREADS": "1", "HPD_OPS": "reference",
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(script), *map(str, arguments)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip

    return go


def config(path: Path, steps: int) -> Path:
    path.write_text(
        f"""
data: {{kind: digits, classes: ["0", "1", "2"]}}
device: cpu
source: {{kind: pixel, steps: {steps}}}
objective: {{kind: distribution, student: {SMALL_STUDENT}, real_batch: 8}}
selection: last
checkpoint_every: 20
evaluation:
  students: [{SMALL_STUDENT}]
  seeds: 1
  training: {{epochs: 1}}
  full_training: null
"""
    )
    return path


def test_two_machines_distil_what_one_process_does(submit, tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "reference")
    given, out = config(tmp_path / "config.yaml", 10), tmp_path / "shared" / "run"
    job = submit(2, given, "--out", out)
    said, complained = job.communicate(timeout=LONG)
    assert job.returncode == 0, complained[-800:]
    # the machines say it once between them
    assert said.count("distilled 3 images in") == 1, said
    assert RunFolder(out).evaluated
    assert list((out / "checkpoints").glob("*.0-of-2.safetensors"))
    alone = hpd.distill(str(given)).distilled.images
    assert torch.equal(hpd.load_run(out).distilled.images, alone)


def test_a_machine_dies_and_one_that_is_left_goes_on(submit, tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "reference")
    given, out = config(tmp_path / "config.yaml", 800), tmp_path / "run"
    job = submit(2, given, "--out", out)
    written, until = [], time.monotonic() + LONG
    while not written and time.monotonic() < until:
        assert job.poll() is None, job.communicate()
        written = list((out / "checkpoints").glob("step-*.json"))
        time.sleep(0.05)
    # the launcher of the second machine, and all that it started
    launcher = psutil.Process(int((tmp_path / "pids").read_text().split()[1]))
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    _, complained = job.communicate(timeout=LONG)
    assert job.returncode != 0
    assert "another process of the run has ended" in complained
    left = RunFolder(out).checkpoints.newest()
    assert left.step.stage == 0
    assert 0 < left.step.index < 800
    # the same command on another number of machines
    job = submit(1, given, "--out", out, "source.steps=800")
    said, complained = job.communicate(timeout=LONG)
    assert job.returncode == 0, complained[-800:]
    assert f"going on after {left.step.index} of 800 steps" in said
    assert torch.equal(hpd.load_run(out).distilled.images, hpd.distill(str(given)).distilled.images)
