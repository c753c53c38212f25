"""The training tool: a killed run ends in the bytes of one that was not."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from generators import read_generator

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # pydantic looks annotations up in the module's own namespace
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool("train_generator")

TINY = {
    "--batch": 8, "--group": 2, "--r1-interval-steps": 3, "--z-dim": 4, "--w-dim": 4,
    "--channel-base": 64, "--channel-max": 4, "--log-images": 16, "--save-images": 16,
}  # fmt: skip


def train(out, images, **changes):
    options = TINY | {"--images": images} | {f"--{k}": v for k, v in changes.items()}
    words = [str(word) for pair in options.items() for word in pair]
    return CliRunner().invoke(tool.main, ["--out", str(out), *words], catch_exceptions=False)


def read_weights(out):
    return (out / "generator" / "model.safetensors").read_bytes()


def read_metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def read_states(out):
    return [int(p.stem.split("-")[1]) for p in sorted(out.glob("state-*.safetensors"))]


def read_tensors(out, steps):
    """The bytes of a state without its head, in which the seconds stand."""
    content = (out / f"state-{steps:08d}.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The bytes of a training depend on the number of threads; processes to be killed have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert train(out, 48).exit_code == 0
    return out


def test_killed_run_ends_in_the_same_bytes(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    step = tool.Trainer.step

    def step_until_killed(self):
        if self.steps == 5:
            raise Killed
        return step(self)

    monkeypatch.setattr(tool.Trainer, "step", step_until_killed)
    with pytest.raises(Killed):
        train(tmp_path, 48)
    monkeypatch.setattr(tool.Trainer, "step", step)
    assert read_states(tmp_path) == [2, 4]
    assert train(tmp_path, 48).exit_code == 0
    assert read_weights(tmp_path) == read_weights(whole)
    assert read_metrics(tmp_path) == read_metrics(whole)
    assert read_states(tmp_path) == read_states(whole) == [4, 6]
    for steps in (4, 6):
        assert read_tensors(tmp_path, steps) == read_tensors(whole, steps)
    pictures = [p.name for p in sorted(whole.glob("*.png"))]
    assert pictures == [f"samples-{n:09d}.png" for n in (16, 32, 48)]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes() == (whole / picture).read_bytes()


def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(whole, tmp_path):
    assert train(tmp_path, 32).exit_code == 0
    newest = tmp_path / "state-00000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    result = train(tmp_path, 48)
    assert result.exit_code == 0
    assert f"{newest} cannot be read and is left out" in result.output
    assert read_weights(tmp_path) == read_weights(whole)
    assert read_metrics(tmp_path) == read_metrics(whole)


def test_a_line_of_the_log_that_a_kill_cut_off_is_dropped(whole, tmp_path):
    assert train(tmp_path, 32).exit_code == 0
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"images": 40, "gen')
    assert train(tmp_path, 48).exit_code == 0
    assert read_metrics(tmp_path) == read_metrics(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_write_the_state_first(whole, tmp_path, monkeypatch, number):
    step = tool.Trainer.step

    def step_and_signal(self):
        if self.steps == 2:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(tool.Trainer, "step", step_and_signal)
    before = signal.getsignal(number)
    result = train(tmp_path, 48)
    assert signal.getsignal(number) is before
    assert result.exit_code == 128 + number
    assert "Stopped; the same command goes on from the last state." in result.output
    assert read_states(tmp_path) == [2, 3]
    monkeypatch.setattr(tool.Trainer, "step", step)
    assert train(tmp_path, 48).exit_code == 0
    assert read_weights(tmp_path) == read_weights(whole)


KILLS = """
import random
import sys
from pathlib import Path

from kills import FORK, count_events, die_at
import torch
from test_train_generator import TINY, tool

torch.set_num_threads(1)
# so that those forked off this process have everything at hand
tool.DATASETS.parse("digits").build()
words = [str(word) for pair in (TINY | {"--images": 48}).items() for word in pair]


def train(out, event):
    if event:
        count_events(out, die_at(event))
    tool.main(["--out", str(out), *words], standalone_mode=False)


draw, killed = random.Random(0), 0
for run in range(4):
    out = Path(sys.argv[1]) / str(run)
    # once, and the last one again and again
    while True:
        child = FORK.Process(target=train, args=(out, draw.randint(3, 22)))
        child.start()
        child.join()
        killed += child.exitcode == -9
        if run < 3 or child.exitcode != -9:
            break
    child = FORK.Process(target=train, args=(out, 0))
    child.start()
    child.join()
    assert child.exitcode == 0
print(killed)
"""


def test_runs_killed_at_any_moment_end_in_the_same_bytes(whole, tmp_path):
    """SIGKILL, which no handler sees, before the n-th change of a file."""
    paths = os.pathsep.join(map(str, (TOOLS, TOOLS.parent / "tests", Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 4
    for run in range(4):
        out = tmp_path / str(run)
        assert read_weights(out) == read_weights(whole)
        assert read_metrics(out) == read_metrics(whole)
        assert read_states(out) == [4, 6]
        assert read_tensors(out, 6) == read_tensors(whole, 6)


def test_another_seed_gives_other_weights(whole, tmp_path):
    assert train(tmp_path, 48, seed=1).exit_code == 0
    assert read_weights(tmp_path) != read_weights(whole)


def test_other_options_are_refused(whole):
    before = sorted(p.name for p in whole.iterdir())
    result = train(whole, 48, lr=0.001)
    assert result.exit_code == 1
    message = " ".join(result.output.split())
    assert "other options" in message
    assert "lr=0.001" in message
    assert "lr=0.0025" in message
    assert sorted(p.name for p in whole.iterdir()) == before


def test_export_says_where_it_comes_from(whole):
    stored = read_generator(whole / "generator")
    assert stored.generator.spec.classes == tuple("0123456789")
    about = stored.provenance
    assert (about["images_seen"], about["training"]["seed"]) == (48, 0)
    assert (about["training"]["data"]["kind"], about["data_part"]) == ("digits", "train")
    assert about["data_images"] == 1297
    assert set(about["versions"]) == {"hpd", "torch", "python"}
    assert float(stored.generator.mapping.w_avg.abs().max()) > 0


def test_logs_show_every_loss(whole):
    lines = read_metrics(whole)
    assert [line["images"] for line in lines] == [16, 32, 48]
    assert {"generator_loss", "discriminator_loss", "real_sign", "r1"} <= set(lines[0])
