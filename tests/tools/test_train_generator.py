"""The training tool: a killed run ends in the bytes of one that was not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from generators import read_generator, training

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
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


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
    assert json.loads((tmp_path / "state.json").read_text())["steps"] == 4
    assert train(tmp_path, 48).exit_code == 0
    assert read_weights(tmp_path) == read_weights(whole)
    assert read_metrics(tmp_path) == read_metrics(whole)
    name = "state-00000006.safetensors"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    pictures = [p.name for p in sorted(whole.glob("*.png"))]
    assert pictures == [f"samples-{n:09d}.png" for n in (16, 32, 48)]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes() == (whole / picture).read_bytes()


def test_kill_between_tensors_and_json_leaves_the_older_pair(whole, tmp_path, monkeypatch):
    def refuse(*_):
        raise KeyboardInterrupt

    assert train(tmp_path, 32).exit_code == 0
    write_json = tool.write_json
    monkeypatch.setattr(tool, "write_json", refuse)
    train(tmp_path, 48)
    monkeypatch.setattr(tool, "write_json", write_json)
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 2
    assert train(tmp_path, 48).exit_code == 0
    assert read_weights(tmp_path) == read_weights(whole)
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 1


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


def test_translation_moves_whole_images(rng):
    images = torch.arange(1.0, 17).reshape(1, 1, 4, 4).repeat(50, 1, 1, 1)
    seen = set()
    for moved in training.translate(images, 1, rng):
        padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
        places = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if torch.equal(padded[:, y : y + 4, x : x + 4], moved)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9


def test_cutout_is_one_square_of_zeros(rng):
    cut = training.cut_out(torch.ones(200, 1, 8, 8), 3, rng)
    zeros = cut == 0
    assert int(zeros.sum(dim=(1, 2, 3)).max()) == 9
    for one in zeros[:, 0]:
        rows, columns = one.any(dim=1), one.any(dim=0)
        assert torch.equal(one, rows[:, None] & columns[None])
    # every pixel is cut out at some time
    assert bool(zeros.any(dim=0).all())


def test_augmentation_switched_off_is_the_same_tensor(rng):
    images = torch.ones(2, 1, 4, 4)
    assert training.cut_out(training.translate(images, 0, rng), 0, rng) is images


def test_augmentation_passes_gradgradcheck(rng):
    images = torch.randn(2, 1, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)

    def augmented(x):
        own = torch.Generator().manual_seed(3)
        return training.cut_out(training.translate(x, 1, own), 2, own) ** 3

    # without given ones the check draws them from the global generator
    outer = torch.randn(images.shape, generator=rng, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(augmented, (images,), outer)


def test_real_images_are_of_the_class_asked_for(rng):
    part = tool.DATASETS.parse("digits").build().train
    labels = torch.tensor([3, 3, 7, 0])
    drawn = training.RealImages(part).draw(labels, rng)
    assert drawn.shape == (4, 1, 16, 16)
    for image, label in zip(drawn, labels, strict=True):
        same = ((part.unit() * 2 - 1) == image).all(dim=(1, 2, 3)).nonzero()
        assert len(same) >= 1
        assert label in part.labels[same]
