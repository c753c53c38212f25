"""Checkpoints of others, from file to distilled set, by command line and Python."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from click.testing import CliRunner
from conftest import CPU, GOLDEN, SMALL_STUDENT, Golden
from small_runs import check_refused

import hpd
from generators import read_generator
from generators.checkpoints import inspect_checkpoint
from hpd.cli import main
from hpd.data import ImageSet, Normalisation
from hpd.engine import SELECTORS, OptimizerSettings, optimise
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES

FOLDERS = sorted(p.parent.name for p in GOLDEN.glob("*/network.pkl"))


@pytest.fixture(params=FOLDERS)
def golden(request):
    return Golden(GOLDEN / request.param)


def close(got, want, tolerance):
    assert got.shape == want.shape
    assert float((got.detach() - want).abs().max()) <= tolerance * float(want.abs().max())


def check_numbers(generator, golden, monkeypatch):
    """ws, image and gradient are those of the official code.

    The gradient is that of the reference operations: one value of ada_cond32 lies 8e-8 below the
    kink of a leaky ReLU, and how the native ones round decides on which side its derivative is
    taken, which moves the gradient by 2e-4. They have tests of their own.
    """
    values, spec = golden.values, generator.spec
    labels = values["c"].argmax(dim=1) if spec.num_classes else None
    close(generator.map(values["z"], labels), values["ws"], 1e-5)
    close(generator.map(values["z"], labels, truncation_psi=0.7), values["ws_psi07"], 1e-5)
    ws = values["ws"].clone().requires_grad_()
    images = generator(ws)
    close(images, values["image"], 1e-4)
    with monkeypatch.context() as patched:
        patched.setenv("HPD_OPS", "reference")
        (grad,) = torch.autograd.grad((generator(ws) * values["probe"]).sum(), ws)
    close(grad, values["grad_ws"], 1e-4)


def test_the_file_and_the_converted_folder_give_the_official_numbers(golden, tmp_path, monkeypatch):
    file = golden.folder / "network.pkl"
    check_numbers(read_generator(file).generator, golden, monkeypatch)
    for out in ("one", "two"):
        result = CliRunner().invoke(main, ["generator", "convert", str(file), str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    check_numbers(read_generator(tmp_path / "one").generator, golden, monkeypatch)
    for name in ("model.safetensors", "generator.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    about = json.loads((tmp_path / "one" / "generator.json").read_text())
    assert about["provenance"]["original"] == "network.pkl"
    assert len(about["provenance"]["sha256"]) == 64
    assert "non-commercial" in about["licence"]


@pytest.mark.parametrize("name", ["sg3t_uncond64", "sg3r_cond32", "xl_stem_cond", "xl_super_cond"])
def test_hpd_runs_on_foreign_files(name):
    """All levels of a StyleGAN3 and a StyleGAN-XL, a few steps each."""
    file = GOLDEN / name / "network.pkl"
    spec = read_generator(file).generator.spec
    rng = torch.Generator().manual_seed(0)
    shape = (8, spec.channels, spec.resolution, spec.resolution)
    pixels = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    train = ImageSet(pixels, torch.arange(2).repeat(4), ("x", "y"), Normalisation.of(pixels))
    options = {"kind": "gan", "generator": str(file), "steps": 2, "average_draws": 10}
    if spec.num_classes:
        options["generator_classes"] = [1, 0]
    source = SOURCES.parse(options).build(train, CPU, Streams(0))
    matching = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 2}
    objective = OBJECTIVES.parse(matching).build(train, CPU, Streams(1))
    selector = SELECTORS.parse("last").build(train, CPU, Streams(2), objective)

    class Quiet:
        def on_step(self, report): ...

        def on_stage(self, report): ...

    outcome = optimise(source, objective, selector, OptimizerSettings(), Quiet(), select_every=1)
    assert len(outcome.stages) == len(spec.levels)
    assert torch.isfinite(outcome.images).all()
    assert not torch.equal(outcome.images, outcome.initial_images)


def test_a_run_says_what_was_made_up_for_the_generator(tmp_path):
    weights = hpd.load_generator("digits16").state_dict()
    bare = {name: value for name, value in weights.items() if not name.endswith("noise_const")}
    torch.save({"generator": bare}, tmp_path / "g.pt")
    pixels = torch.zeros(10, 1, 16, 16, dtype=torch.uint8)
    names = tuple("0123456789")
    train = ImageSet(pixels, torch.arange(10), names, Normalisation.of(pixels + pixels.new_ones(1)))
    options = {"kind": "gan", "generator": str(tmp_path / "g.pt"), "average_draws": 2}
    source = SOURCES.parse(options | {"generator_classes": list(range(10))}).build(
        train, CPU, Streams(0)
    )
    about = source.provenance["generator"]
    assert about["read"]["prefix"] == "generator" and "seed 0" in about["read"]["noise"]


def test_convert_takes_the_generator_that_is_named(tmp_path):
    weights = {name: hpd.load_generator(name).state_dict() for name in ("digits16", "fashion32")}
    torch.save(weights, tmp_path / "two.pt")
    out = tmp_path / "out"
    check_refused(run("convert", str(tmp_path / "two.pt"), str(out)), "digits16, fashion32")
    assert not out.exists()
    result = run("convert", str(tmp_path / "two.pt"), str(out), "--network", "fashion32")
    assert result.exit_code == 0, result.output
    assert read_generator(out).generator.spec.resolution == 32


def run(*arguments):
    return CliRunner().invoke(main, ["generator", *arguments])


def test_inspect_shows_a_payload_and_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"G_ema": Payload()}))
    result = run("inspect", str(tmp_path / "bad.pkl"))
    assert result.exit_code == 0
    assert "posix.mkdir" in result.output
    assert "refused" in result.output
    assert inspect_checkpoint(tmp_path / "bad.pkl").refused
    for command in (["convert", str(tmp_path / "bad.pkl"), str(tmp_path / "out")],
                    ["levels", str(tmp_path / "bad.pkl")]):  # fmt: skip
        check_refused(run(*command), "posix.mkdir")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pkl"]


def test_inspect_an_official_file():
    result = run("inspect", str(GOLDEN / "ada_cond32" / "network.pkl"))
    assert result.exit_code == 0
    assert "official pickle" in result.output
    assert "G_ema" in result.output


def test_classes_are_named_when_converting(tmp_path):
    file = str(GOLDEN / "ada_cond16_orig_gray" / "network.pkl")
    out = tmp_path / "named"
    result = run("convert", file, str(out), "--classes", "cat,dog,owl", "--licence", "mine")
    assert result.exit_code == 0, result.output
    stored = read_generator(out)
    assert stored.generator.spec.classes == ("cat", "dog", "owl")
    assert stored.licence == "mine"
    result = run("convert", file, str(tmp_path / "x"), "--classes", "cat")
    assert result.exit_code == 2
    assert "expected 3" in result.stderr
    result = run("convert", file, str(out))
    assert result.exit_code == 2
    assert "already holds" in result.stderr


def test_python_loads_a_file_and_either_of_its_networks():
    file = GOLDEN / "ada_cond16_orig_gray" / "network.pkl"
    average, last = (hpd.load_generator(file, network=name) for name in ("G_ema", "G"))
    assert average.spec == last.spec
    assert not any(p.requires_grad for p in average.parameters())


def test_levels_and_samples_of_a_file(tmp_path):
    file = str(GOLDEN / "xl_stem_cond" / "network.pkl")
    result = run("levels", file)
    assert result.exit_code == 0
    assert "pixels" in result.output
    result = run("sample", file, "--classes", "0,3", "--seeds", "0-2", "--out", f"{tmp_path}/a.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["levels", "nowhere"], "no generator 'nowhere'"),
        (["inspect", "nowhere.pkl"], "nowhere.pkl"),
        (["convert", "digits16", "out"], "nothing to convert"),
        (["sample", "digits16", "--classes", "eleven", "--out", "a.png"], "no class 'eleven'"),
        (["sample", "digits16", "--seeds", "a-b", "--out", "a.png"], "cannot read seeds"),
        (["sample", "digits16", "--seeds", "3-1", "--out", "a.png"], "cannot read seeds"),
        (["sample", "digits16", "--seeds", f"0-{10**30}", "--out", "a.png"], "at most 10,000"),
        (["sample", "digits16", "--seeds", "0-5000,0-5000", "--out", "a.png"], "at most 10,000"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(run(*arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_goes_without_a_generator_that_is_not_at_hand(tmp_path, caplog):
    """A run whose generator was in memory can be evaluated later, and names what is missing."""
    own = hpd.load_generator("digits16")
    with torch.no_grad():
        next(own.parameters()).mul_(1.01)
    student = "evaluation.students=[{kind: convnet, width: 4, depth: 1}]"
    quick = [
        "source.steps=0", "source.average_draws=2", "selection=last", student,
        "evaluation.seeds=1", "evaluation.training.steps=1", "evaluation.full_training=null",
    ]  # fmt: skip
    run = hpd.distill("digits", *quick, generator=own, out=tmp_path / "run")
    assert hpd.evaluate(run).row("prior_samples").images_per_class == 4
    names = [row.name for row in hpd.evaluate(tmp_path / "run").rows]
    assert "prior_samples" not in names
    assert "distilled" in names
    assert "not the generator of the run" in caplog.text
    given = hpd.evaluate(tmp_path / "run", generator=own)
    assert given.row("prior_samples").images_per_class == 4
    with pytest.raises(hpd.HpdError, match="not the generator of the run"):
        hpd.evaluate(tmp_path / "run", generator=hpd.load_generator("digits16"))
