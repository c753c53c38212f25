"""A training in its folder: one that was killed ends in the bytes of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import (
    TINY,
    about,
    read_metrics,
    read_steps,
    read_tensors,
    read_weights,
    train,
)

import hpd
from generators import read_generator
from generators.training.step import Trainer
from hpd.disk.files import write_tensors
from hpd.errors import ConfigError, RunError
from hpd.generator_runs.measure import Measure

TESTS = Path(__file__).parents[1]


class Killed(BaseException):
    pass


def ends_at(monkeypatch, steps, end):
    step = Trainer.step

    def step_until(self):
        if self.steps == steps:
            end()
        return step(self)

    monkeypatch.setattr(Trainer, "step", step_until)
    return lambda: monkeypatch.setattr(Trainer, "step", step)


def test_a_killed_run_ends_in_the_same_bytes(whole, tmp_path, monkeypatch):
    def kill():
        raise Killed

    undo = ends_at(monkeypatch, 5, kill)
    with pytest.raises(Killed):
        train(tmp_path)
    undo()
    assert read_steps(tmp_path) == [2, 4]
    train(tmp_path)
    assert read_weights(tmp_path) == read_weights(whole)
    assert read_metrics(tmp_path) == read_metrics(whole)
    assert read_steps(tmp_path) == read_steps(whole) == [4, 6]
    for steps in (4, 6):
        assert read_tensors(tmp_path, steps) == read_tensors(whole, steps)
        assert about(tmp_path, steps)["curve"] == about(whole, steps)["curve"]
    pictures = [p.name for p in sorted(whole.glob("*.png"))]
    assert pictures == [f"samples-{n:09d}.png" for n in (16, 32, 48)]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes() == (whole / picture).read_bytes()


def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(whole, tmp_path, caplog):
    train(tmp_path, 32)
    newest = tmp_path / "state-00000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    train(tmp_path)
    assert f"{newest} cannot be read and is left out" in caplog.text
    assert read_weights(tmp_path) == read_weights(whole)
    assert read_metrics(tmp_path) == read_metrics(whole)


def test_a_line_of_the_log_that_a_kill_cut_off_is_dropped(whole, tmp_path):
    train(tmp_path, 32)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"images": 40, "gen')
    train(tmp_path)
    assert read_metrics(tmp_path) == read_metrics(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_write_the_state_first(whole, tmp_path, monkeypatch, number):
    undo = ends_at(monkeypatch, 2, lambda: signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert signal.getsignal(number) is before
    assert read_steps(tmp_path) == [2, 3]
    assert not (tmp_path / "generator").exists()
    undo()
    train(tmp_path)
    assert read_weights(tmp_path) == read_weights(whole)
    assert about(tmp_path, 6)["curve"] == about(whole, 6)["curve"]


def test_who_goes_on_after_the_end_ends_where_one_would_that_never_stopped(whole, tmp_path):
    """The last state is measured, but is no point of the curve where no save was due."""
    train(tmp_path, 40)
    assert read_steps(tmp_path) == [4, 5]
    assert [n for n, _ in about(tmp_path, 5)["curve"]] == [16, 32]
    assert about(tmp_path, 5)["final"][0] == 40
    train(tmp_path)
    assert about(tmp_path, 6)["curve"] == about(whole, 6)["curve"]
    assert about(tmp_path, 6)["final"] is None
    assert read_weights(tmp_path) == read_weights(whole)


def test_a_finished_training_is_exported_again_and_nothing_else_happens(
    whole, tmp_path, monkeypatch
):
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "generator")
    monkeypatch.setattr(Measure, "prepare", lambda self, file: pytest.fail("measures again"))
    train(out)
    assert read_weights(out) == read_weights(whole)
    generator, same = (json.loads((f / "generator/generator.json").read_text())
                       for f in (out, whole))  # fmt: skip
    assert generator == same


KILLS = """
import random
import sys
from pathlib import Path

from kills import FORK, count_events, die_at
import torch
from small_trainings import train

torch.set_num_threads(1)
# so that those forked off this process have everything at hand
train(Path(sys.argv[1]) / "before", 8)


def attempt(out, event):
    if event:
        count_events(out, die_at(event))
    train(out)


draw, killed = random.Random(0), 0
for run in range(3):
    out = Path(sys.argv[1]) / str(run)
    for event in (draw.randint(3, 34), 0):
        child = FORK.Process(target=attempt, args=(out, event))
        child.start()
        child.join()
        killed += child.exitcode == -9
    assert child.exitcode == 0
print(killed)
"""


def test_runs_killed_at_any_moment_end_in_the_same_bytes(whole, tmp_path):
    """SIGKILL, which no handler sees, before the n-th change of a file."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 3
    for run in range(3):
        out = tmp_path / str(run)
        assert read_weights(out) == read_weights(whole)
        assert read_metrics(out) == read_metrics(whole)
        assert read_steps(out) == [4, 6]
        assert read_tensors(out, 6) == read_tensors(whole, 6)
        assert read_steps(out, "best-*") == read_steps(whole, "best-*")


def test_another_seed_gives_other_weights(whole, tmp_path):
    train(tmp_path, seed=1)
    assert read_weights(tmp_path) != read_weights(whole)


@pytest.mark.parametrize("changes", [{"lr": 0.001}, {"curve.samples": 30}])
def test_other_options_are_refused(whole, changes):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="a training with other options") as caught:
        train(whole, **changes)
    ((key, value),) = changes.items()
    assert key.rpartition(".")[2] in str(caught.value)
    assert str(value) in str(caught.value)
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_how_it_ends_may_change_between_two_parts(whole, tmp_path):
    train(tmp_path, 32, **{"curve.patience": 3})
    train(tmp_path, **{"curve.patience": 5})
    assert read_weights(tmp_path) == read_weights(whole)


def test_other_images_are_refused(tmp_path, monkeypatch):
    from hpd.data.images import ImageSet

    train(tmp_path, 16)
    monkeypatch.setattr(ImageSet, "sha256", "another")
    with pytest.raises(RunError, match="a training on other images"):
        train(tmp_path, 16)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"already holds other files: got notes\.txt"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_is_held_against_a_second_process(tmp_path):
    from hpd.disk.locks import held

    with held(tmp_path, "test"), pytest.raises(RunError, match="cannot train a generator in"):
        train(tmp_path)


def test_it_says_what_was_chosen_and_what_it_will_take(tmp_path):
    lines = []
    train(tmp_path, 64, say=lines.append)
    assert lines[0] == "1,297 images: shifted and cut, always"
    assert lines[1].startswith("about ")
    assert lines[1].endswith(" for 64 images")
    assert lines[2].startswith("ended: 64 images are seen; kept: ")
    again = []
    train(tmp_path, 128, say=again.append)
    assert again[1] == "going on after 64 images"
    assert again[2].endswith(" for 64 more images")


def test_reports_tell_how_far_it_is(tmp_path):
    heard = []
    options = [f"{key}={value}" for key, value in TINY.items()]
    hpd.train_generator("digits", *options, out=tmp_path, images=32, report=heard.append)
    assert [report.images for report in heard] == [8, 16, 24, 32]
    assert heard[0].expected_images == 32
    assert heard[0].distance is None and heard[-1].distance > 0


def test_the_export_says_where_it_comes_from(whole):
    stored = read_generator(whole / "generator")
    assert stored.generator.spec.classes == tuple("0123456789")
    facts = stored.provenance
    assert facts["images_seen"] in (16, 32, 48)
    assert facts["training"]["seed"] == 0
    assert (facts["training"]["data"]["kind"], facts["data_part"]) == ("digits", "train")
    assert facts["data_images"] == 1297
    assert set(facts["versions"]) == {"hpd", "torch", "python"}
    assert float(stored.generator.mapping.w_avg.abs().max()) > 0
    page = (whole / "generator/README.md").read_text()
    assert "hpd generator train --data digits --size tiny" in page
    assert "1,297 training images, `digits`" in page
    assert page.count("| kept |") == 1
    for picture in ("samples.png", "curve.png"):
        assert (whole / "generator" / picture).is_file()
        assert f"({picture})" in page


def test_logs_show_every_loss(whole):
    lines = read_metrics(whole)
    assert [line["images"] for line in lines if "distance" in line] == [16, 32, 48]
    for line in lines:
        assert {"generator_loss", "discriminator_loss", "real_sign"} <= set(line)
    assert any("r1" in line for line in lines)


def test_a_folder_of_the_former_tool_goes_on(whole, tmp_path):
    """Its states know no curve, no data's hash, and nothing of later options."""
    trained = train(tmp_path, 32)
    newest = tmp_path / "state-00000004.safetensors"
    facts = about(tmp_path, 4)
    del facts["curve"], facts["final"], facts["data_sha256"]
    del facts["settings"]["curve"], facts["settings"]["start"], facts["settings"]["start_images"]
    facts["settings"]["data"] = {"kind": "digits", "classes": None}
    write_tensors(newest, load_file(newest), facts)
    for name in ("state-00000002.safetensors", "measure.safetensors"):
        (tmp_path / name).unlink()
    for best in tmp_path.glob("best-*"):
        best.unlink()
    shutil.rmtree(tmp_path / "generator")
    again = train(tmp_path)
    assert again.provenance["curve"]["points"] == [about(whole, 6)["curve"][-1]]
    assert read_tensors(tmp_path, 6) == read_tensors(whole, 6)
    assert again.provenance["training"] == trained.provenance["training"]


def test_a_best_generator_that_is_gone_begins_the_curve_anew(tmp_path, caplog):
    train(tmp_path, 32)
    for best in tmp_path.glob("best-*"):
        best.unlink()
    assert [n for n, _ in train(tmp_path).provenance["curve"]["points"]] == [48]
    assert "the curve begins anew" in caplog.text


def test_a_generator_to_go_on_from_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="another shape"):
        train(tmp_path / "out", data={"kind": "digits", "classes": ["0", "1"]}, start="digits16",
              **{"z_dim": 64, "w_dim": 64, "channel_base": 768, "channel_max": 96})  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_float16_takes_half_the_room(tmp_path, whole):
    options = [f"{key}={value}" for key, value in TINY.items()]
    hpd.train_generator("digits", *options, out=tmp_path, images=16, half=True, device="cpu")
    tensors = load_file(tmp_path / "generator/model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}


def test_the_result_distils(whole, tmp_path):
    quick = ["source.steps=1", "selection=last", "source.average_draws=4", "device=cpu"]
    student = "objective.student={kind: convnet, width: 4, depth: 1}"
    run = hpd.distill("digits", f"source.generator={whole / 'generator'}", student, *quick)
    assert tuple(run.distilled.images.shape) == (10, 1, 16, 16)
