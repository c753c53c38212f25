"""ZCA: what students see, its inverse, its recipe, and runs with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_STUDENT

import hpd
from hpd.artifacts import RunFolder
from hpd.data import Dataset, ImageSet, whitening
from hpd.data.normalisation import Normalisation
from hpd.data.whitening import Zca, measure, recipe_of, whitened
from hpd.errors import ConfigError, DataError, RunError
from hpd.students.experts.record import default_folder

KINDS = ("standardised", "pixels", "per_image")
DATA = {"kind": "digits", "classes": ["0", "1", "8"]}
CONFIG = {
    "data": {**DATA, "zca": "standardised"}, "device": "cpu",
    "source": {"kind": "pixel", "steps": 3},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8},
    "evaluation": {
        "students": [SMALL_STUDENT], "seeds": 1, "training": {"epochs": 2}, "full_training": None,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zca"


@pytest.fixture
def colour():
    """Forty images of 3 x 4 x 5 whose pixels go together."""
    rng = torch.Generator().manual_seed(3)
    mix = torch.randn(60, 60, generator=rng)
    values = (torch.randn(40, 60, generator=rng) @ mix * 12 + 128).clamp(0, 255)
    images = values.view(40, 3, 4, 5).to(torch.uint8)
    part = ImageSet(images, torch.arange(40) % 2, ("a", "b"), Normalisation((0.0,), (1.0,)))
    part = part.measured()
    return Dataset(part, part.at(torch.arange(10)))


def prepared(part, kind):
    """What the matrix is applied to, image by image, in float64."""
    rows = []
    for image in part.unit().double():
        if kind == "standardised":
            mean, std = (torch.tensor(v).double() for v in (part.normalisation.mean,
                                                            part.normalisation.std))  # fmt: skip
            rows.append(((image - mean[:, None, None]) / std[:, None, None]).flatten())
        elif kind == "pixels":
            rows.append(image.flatten())
        else:
            flat = image.flatten() - image.mean()
            rows.append(flat / flat.norm())
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_formula(kind, colour, monkeypatch):
    """By a symmetric root from another decomposition, with the covariance of a plain loop."""
    monkeypatch.setattr(whitening, "_CHUNK_IMAGES", 7)
    seen = whitened(colour, kind).train.normalisation
    flat = prepared(colour.train, kind)
    mean = torch.zeros(60).double() if kind == "per_image" else flat.mean(0)
    covariance = sum(torch.outer(row, row) for row in flat) / 40 - torch.outer(mean, mean)
    ridge = 0.1 * float(covariance.trace()) / 60 if kind == "per_image" else 0.1
    left, values, _ = torch.linalg.svd(covariance + ridge * torch.eye(60).double())
    root = left @ torch.diag(values.rsqrt()) @ left.t()
    got = seen.apply(colour.train.unit())
    want = ((flat - mean) @ root).view(40, 3, 4, 5)
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-4)
    # what is left of the variances: those that are large against the ridge come to one
    white = (want.flatten(1) - want.flatten(1).mean(0)).t() @ want.flatten(1) / 40
    assert float(torch.linalg.eigvalsh(white).max()) <= 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_undoing_it_gives_the_images_again(kind, colour):
    seen = whitened(colour, kind).train.normalisation
    images = colour.train.unit()
    if kind == "per_image":
        # of unit contrast, at the mean: the others come to that
        again = seen.undo(seen.apply(images))
        torch.testing.assert_close(seen.apply(again), seen.apply(images), rtol=1e-3, atol=1e-4)
        assert abs(float(again.mean()) - float(images.mean())) < 0.02
        centred = again - again.mean(dim=(1, 2, 3), keepdim=True)
        assert centred.flatten(1).norm(dim=1).std() < 1e-3
        # brightness and contrast of an image change nothing
        torch.testing.assert_close(
            seen.apply(0.5 * images + 0.2), seen.apply(images), rtol=1e-3, atol=1e-4
        )
    else:
        torch.testing.assert_close(seen.undo(seen.apply(images)), images, rtol=1e-4, atol=1e-4)
    flat = torch.full((1, 3, 4, 5), 0.5)
    assert seen.apply(flat).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through(kind, colour, float64):
    seen = whitened(colour, kind).train.normalisation
    images = colour.train.unit(torch.arange(2)).double().requires_grad_()
    assert torch.autograd.gradcheck(seen.apply, images, eps=1e-6, atol=1e-5)
    assert torch.autograd.gradcheck(seen.undo, images, eps=1e-6, atol=1e-5)


def test_the_test_part_sees_what_the_training_part_does_and_bytes_stay(colour):
    both = whitened(colour, "standardised")
    assert both.test.normalisation is both.train.normalisation
    assert both.train.sha256 == colour.train.sha256
    assert torch.equal(both.train.pixels(), colour.train.pixels())
    chosen = torch.tensor([3, 1])
    seen = both.train.seen_on()
    torch.testing.assert_close(
        seen[chosen], both.train.normalisation.apply(both.train.unit(chosen))
    )
    assert whitened(both, "standardised") is both


def test_statistics_are_kept_and_made_again_where_they_are_broken(colour, cache, monkeypatch):
    first = whitened(colour, "per_image").train.normalisation
    (path,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(whitening, "measure", None)
        again = whitened(colour, "per_image").train.normalisation
    assert again == first and torch.equal(again.matrix, first.matrix)
    assert (again.level, again.length) == (first.level, first.length)
    path.write_bytes(b"broken")
    mended = whitened(colour, "per_image").train.normalisation
    assert torch.equal(mended.matrix, first.matrix)
    assert path.stat().st_size > 1000
    # others have another recipe
    other = replace(colour, train=colour.train.at(torch.arange(30)))
    kinds = [whitened(colour, "standardised"), whitened(other, "per_image")]
    assert len({first.sha256, *(own.train.normalisation.sha256 for own in kinds)}) == 3


def test_where_nothing_can_be_kept_it_is_measured_each_time(colour, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HPD_CACHE", str(tmp_path / "file"))
    assert isinstance(whitened(colour, "per_image").train.normalisation, Zca)


def test_images_that_are_too_large_are_refused():
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    part = ImageSet(images, torch.tensor([0, 1]), ("a", "b"), Normalisation((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ConfigError, match=r"got 12,288 values an image, 604 MB.*data\.resolution"):
        whitened(Dataset(part, part), "standardised")


def test_constant_pixels_do_no_harm():
    images = torch.zeros(4, 1, 3, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([0, 50, 100, 150])
    part = ImageSet(images, torch.arange(4) % 2, ("a", "b"), Normalisation((0.0,), (1.0,)))
    part = part.measured()
    for kind in KINDS:
        own = part.normalisation
        assert measure(part, Zca(own.mean, own.std, kind=kind)).apply(part.unit()).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_whole_with_it(kind, tmp_path):
    config = {**CONFIG, "data": {**DATA, "zca": kind}}
    run = hpd.distill(config, out=tmp_path / "run")
    recipe = recipe_of(hpd.load_dataset(config["data"]).train.normalisation)
    manifest = RunFolder(tmp_path / "run").read_manifest()
    assert manifest["normalisation"]["zca"] == recipe
    # pictures are as they look
    assert 0 <= float(run.distilled.images.mean()) <= 1
    seen = hpd.load_dataset(config["data"]).train.normalisation
    assert seen.apply(run.distilled.images).isfinite().all()
    first = hpd.evaluate(run).row("distilled").accuracies
    again = hpd.evaluate(hpd.load_run(tmp_path / "run")).row("distilled").accuracies
    assert first == again
    loaded = hpd.load_distilled(tmp_path / "run")
    assert recipe_of(loaded.normalisation) == recipe
    with pytest.raises(DataError, match=r"whitened.*dataset\.train\.normalisation\.apply"):
        loaded.normalised()
    plain = hpd.distill({**config, "data": DATA})
    assert not torch.equal(plain.distilled.images, run.distilled.images)


def test_a_run_goes_on_with_it_to_the_bit(tmp_path):
    whole = hpd.distill(CONFIG, out=tmp_path / "whole").distilled.images
    config = {**CONFIG, "checkpoint_every": 1}

    class EnoughError(Exception):
        pass

    class Stop:
        def on_step(self, report):
            if report.step.index == 1:
                raise EnoughError

        def on_stage(self, report):
            pass

    with pytest.raises(EnoughError):
        hpd.distill(config, out=tmp_path / "run", observers=[Stop()])
    again = hpd.distill(config, out=tmp_path / "run", resume=True)
    assert torch.equal(again.distilled.images, whole)


def test_a_run_is_judged_as_it_was_made(tmp_path):
    hpd.distill(CONFIG, out=tmp_path / "run")
    with pytest.raises((DataError, ConfigError, RunError), match="zca: standardised -> none"):
        hpd.evaluate(tmp_path / "run", "data.zca=none")


def test_exports_say_so(tmp_path):
    run = hpd.distill(CONFIG, out=tmp_path / "run")
    hpd.export(run.distilled, "imagefolder", tmp_path / "pictures")
    about = json.loads((tmp_path / "pictures" / "about.json").read_text())
    assert about["zca"]["kind"] == "standardised" and "whitened" in about["zca"]["note"]
    lines = (tmp_path / "pictures" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["zca"]["kind"] == "standardised"


def test_experts_are_those_of_what_students_see(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objective = {
        "kind": "trajectory", "student": SMALL_STUDENT, "student_steps": 2,
        "expert_training": {"count": 1, "training": {"epochs": 2, "lr": 0.1, "batch_size": 64}},
    }  # fmt: skip
    config = {**CONFIG, "objective": objective}
    folder = hpd.train_experts(config)
    assert folder.record.zca["kind"] == "standardised"
    assert hpd.distill(config).distilled.images.isfinite().all()
    plain = hpd.load_dataset(DATA).train
    assert Path(default_folder(hpd.load_config(config).objective.student, plain)) != folder.path
    other = {**config, "data": DATA, "objective": {**objective, "experts": str(folder.path)}}
    with pytest.raises(RunError, match="the experts have another zca"):
        hpd.distill(other)


def test_what_knows_no_zca_refuses_it(tmp_path):
    with pytest.raises(ConfigError, match="a teacher sees images by mean and deviation alone"):
        hpd.squeeze(DATA, "data.zca=standardised", out=tmp_path / "teacher")
    course = {
        "data": {"kind": "digits", "classes": ["0", "1", "3", "7"], "zca": "per_image"},
        "buffers": {"random": {"kind": "random"}},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="a course measures its images anew"):
        hpd.continual(course)
