"""Training a generator from the command line: as in Python, and refused in one line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from small_runs import check_refused, contents

import hpd
from generators import read_generator
from generators.training.step import Trainer
from hpd.cli import main

TINY = [
    "batch=8", "group=2", "r1_interval_steps=3", "z_dim=4", "w_dim=4", "channel_base=64",
    "channel_max=4", "curve.every_images=16", "curve.samples=20", "curve.network_images=128",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def invoke(*arguments):
    return CliRunner().invoke(
        main, ["generator", "train", "--out", "out", *arguments], catch_exceptions=False
    )


def weights(out):
    return (Path(out) / "generator/model.safetensors").read_bytes()


def write_photos(root, size, mode="RGB"):
    draws = torch.Generator().manual_seed(0)
    channels = 3 if mode == "RGB" else 1
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            shape = (*size, channels) if channels == 3 else size
            pixels = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{i}.png")


def test_the_command_does_what_the_function_does():
    result = invoke("--data", "digits", "--images", "32", "--seed", "3", "--device", "cpu", *TINY)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "1,297 images: shifted and cut, always"
    assert lines[-1] == f"the generator, and a page about it: {Path('out/generator')}"
    stored = hpd.train_generator("digits", *TINY, out="again", images=32, seed=3, device="cpu")
    assert weights("again") == weights("out")
    assert stored.provenance["training"]["seed"] == 3
    for name in ("generator/samples.png", "generator/curve.png"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()


def test_the_command_on_its_page_makes_the_same_weights():
    given = ["--images", "40", "--device", "cpu", "--half", "--licence", "CC BY 4.0", *TINY]
    assert invoke("--data", "digits", *given, "mirror=true").exit_code == 0
    page = Path("out/generator/README.md").read_text()
    (line,) = (text for text in page.splitlines() if text.startswith("hpd generator train"))
    words = [word if word != "OUT" else "again" for word in shlex.split(line)]
    result = CliRunner().invoke(main, [*words[1:], "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert weights("again") == weights("out")
    assert read_generator("again/generator").licence == "CC BY 4.0"


def test_an_interrupted_run_says_how_to_go_on_and_does(monkeypatch):
    data = ["--data", "digits", "--images", "48", "--device", "cpu", "--half"]
    step = Trainer.step

    def step_and_signal(self):
        if self.steps == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(Trainer, "step", step_and_signal)
    result = invoke(*data, *TINY)
    assert result.exit_code == 128 + signal.SIGTERM
    said = "hpd: interrupted; this goes on: hpd "
    assert result.stderr.startswith(f"{said}generator train --data digits --out out")
    monkeypatch.setattr(Trainer, "step", step)
    again = CliRunner().invoke(main, shlex.split(result.stderr.removeprefix(said)))
    assert again.exit_code == 0, again.output
    assert "going on after 24 images" in again.stdout
    hpd.train_generator("digits", *TINY, out="whole", images=48, device="cpu", half=True)
    assert weights("out") == weights("whole")


@pytest.mark.parametrize(
    ("size", "fix"),
    [((20, 20), "Set data.resolution=32."), ((16, 24), "Set data.resolution=16.")],
)
def test_images_of_another_shape_are_refused_before_anything_is_written(size, fix):
    write_photos(Path("photos"), size)
    result = invoke("--data", "photos", "--images", "16", *TINY)
    check_refused(result, fix)
    assert not Path("out").exists()
    shown = fix.removeprefix("Set ").removesuffix(".")
    assert invoke("--data", "photos", shown, "--images", "8", "batch=8", *TINY[1:]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits", "miror=true"], "Did you mean 'mirror'?"),
        (["--data", "digits", "curve.patience=-1"], "curve.patience"),
        (["--data", "digits", "curve.patience=0"], "would never end"),
        (["--data", "digits", "batch=9"], "cannot be shared out in whole groups"),
        (["--data", "digits", "start=nowhere"], "no generator 'nowhere'"),
        (["--data", "digits", "--device", "quantum"], "no device 'quantum'"),
        (["--data", "digitz"], "Did you mean 'digits'?"),
        (["--data", "digits", "data=cifar10"], "the data are named twice"),
        ([], "no data"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    check_refused(invoke(*arguments), message)
    assert not Path("out").exists()


def test_data_go_by_overrides_too_and_grey_pictures_of_two_classes_will_do():
    write_photos(Path("photos"), (16, 16), "L")
    result = invoke("data=photos", "data.channels=1", "--images", "16", "--device", "cpu", *TINY)
    assert result.exit_code == 0, result.output
    generator = hpd.load_generator("out/generator")
    assert (generator.spec.channels, generator.spec.classes) == (1, ("cat", "dog"))
    page = Path("out/generator/README.md").read_text()
    assert "--data '{kind: folder, channels: 1, root: FOLDER}'" in page
    assert "photos" not in page
    assert "photos" not in Path("out/generator/generator.json").read_text()


def test_another_training_is_not_overwritten():
    assert invoke("--data", "digits", "--images", "16", *TINY).exit_code == 0
    before = contents("out")
    result = invoke("--data", "digits", "--images", "16", *TINY, "mirror=true")
    assert result.exit_code == 2
    assert "mirror=True, expected mirror=False" in result.stderr
    assert contents("out") == before


def test_two_processes_write_what_one_does():
    data = ["--data", "digits", "--images", "32", "--device", "cpu", "lr=0.0001", *TINY]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "hpd", "generator", "train", "--out", "out", *data),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the generator, and a page about it") == 1
    hpd.train_generator("digits", *data[6:], out="one", images=32, device="cpu")
    found, wanted = (load_file(f"{out}/generator/model.safetensors") for out in ("out", "one"))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)
