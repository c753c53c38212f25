"""Few bits a number: every source with every codec, trained through rounding, and given back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, THREE_DIGITS
from small_runs import EndsAfter

import hpd
from hpd.artifacts import RunFolder
from hpd.artifacts.run_folder import CODES
from hpd.codecs import Codec
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.coded import IMAGES
from hpd.typing import Step, StoresBits, stored_of

CODECS = list(itertools.product((2, 4, 8, 16, 32), ("tensor", "channel", "row")))


def build(kind, images, source_settings, storage, **options):
    values = {**source_settings(kind, steps=4), "storage": storage, **options}
    settings = SOURCES.parse(values)
    return settings.build_whole(images, CPU, Streams(0)), settings


def to_the_end(source):
    for stage in range(len(source.stages)):
        groups = source.enter(stage)
    return groups


@pytest.mark.parametrize("kind", list(SOURCES))
def test_what_is_stored_is_counted_whole(kind, images, source_settings):
    """The names of what a source stores make up its floats; else these are its images."""
    source = SOURCES.parse(source_settings(kind, steps=2)).build(images, CPU, Streams(0))
    source.enter(0)
    stored = stored_of(source)
    if stored is None:
        assert source.stored_floats == render_all(source).numel()
        return
    assert sum(value.numel() for value in stored.values()) == source.stored_floats
    state = source.state()
    for name, value in stored.items():
        assert torch.equal(state[name], value.detach())


@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize(("bits", "per"), CODECS)
def test_every_source_gives_its_images_again_from_its_codes(
    kind, bits, per, images, source_settings
):
    storage = {"bits": bits, "per": per, "start": 0.5}
    source, settings = build(kind, images, source_settings, storage)
    *before, last = source.stages
    if bits == 32:
        # as they are: there is nothing to round
        assert last.steps == 4 and not last.final
    else:
        assert (before[-1].steps, last.steps) == (2, 2)
        assert last.final and not any(stage.final for stage in before)
    to_the_end(source)
    rendered, codes = render_all(source), source.codes()
    assert isinstance(source, StoresBits)
    weight = 8 * sum(tensor.numel() * tensor.element_size() for tensor in codes.values())
    assert weight == source.stored_bits
    again = settings.build_whole(images, CPU, Streams(1))
    to_the_end(again)
    assert torch.equal(again.decoded(codes), rendered)
    # the state is what the optimiser goes on from, not what it was rounded to
    fresh = settings.build_whole(images, CPU, Streams(2))
    to_the_end(fresh)
    fresh.load_state(source.state())
    assert torch.equal(render_all(fresh), rendered)
    assert all(torch.equal(v, fresh.state()[k]) for k, v in source.state().items())


@pytest.mark.parametrize("kind", list(SOURCES))
def test_the_gradient_is_that_at_the_rounded_values(kind, images, source_settings):
    """Straight through: what comes to the values is what comes to those they are rounded to."""
    source, settings = build(kind, images, source_settings, {"bits": 4, "start": 0.5})
    groups = to_the_end(source)
    before = {name: value.clone() for name, value in source.state().items()}
    some = torch.arange(len(source.labels))
    pictures, pullback = source.render(some)
    grad = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    pullback(grad)
    # a twin without a codec, whose values are set to the rounded ones
    twin = settings.model_copy(update={"storage": None}).build_whole(images, CPU, Streams(0))
    plain = [twin.enter(stage) for stage in range(len(twin.stages))][-1]
    twin.load_state({k: v for k, v in before.items() if not k.startswith("code_")})
    live = stored_of(twin)
    if live is not None:
        codec = Codec(bits=4)
        with torch.no_grad():
            for value in live.values():
                value.copy_(codec.rounded(value, codec.fit(value)))
    theirs, pull = twin.render(some)
    if live is not None:
        torch.testing.assert_close(theirs, pictures)
    pull(grad)
    for ours, other in zip(groups, plain, strict=True):
        for one, two in zip(ours.tensors, other.tensors, strict=True):
            torch.testing.assert_close(one.grad, two.grad)
    # and the values are where they were
    assert all(torch.equal(value, before[name]) for name, value in source.state().items())


@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_classes_are_taken_and_given_back_with_their_scales(kind, per, images, source_settings):
    source, _ = build(kind, images, source_settings, {"bits": 4, "per": per, "start": 0.5})
    to_the_end(source)
    labels, whole, rendered = source.labels, source.state(), render_all(source)
    assert set(source.owned) <= set(whole)
    source.narrow(torch.tensor([0, 2]))
    torch.testing.assert_close(render_all(source), rendered[labels != 1])
    source.widen(whole, labels)
    assert torch.equal(render_all(source), rendered)


def test_fewer_bits_lose_more(images, source_settings):
    plain = SOURCES.parse(source_settings("pixel", steps=4)).build(images, CPU, Streams(0))
    wanted, errors = render_all(plain), []
    for bits in (32, 16, 8, 4, 2):
        source, _ = build("pixel", images, source_settings, {"bits": bits, "start": 0.5})
        source.enter(0)
        assert torch.equal(render_all(source), wanted)
        source.enter(len(source.stages) - 1)
        errors.append(float((render_all(source) - wanted).square().mean()))
    assert errors[0] == 0 < errors[1] < errors[2] < errors[3] < errors[4]
    # the gain of eight bits: as large an error as a step of 1/255 makes at most
    assert math.sqrt(errors[2]) < 1 / 255


def config(**storage):
    return {
        "data": THREE_DIGITS,
        "source": {"kind": "pixel", "steps": 6, "images_per_class": 2,
                   "storage": {"bits": 4, "start": 0.5, **storage}},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": {"kind": "ridge", "every": 2},
    }  # fmt: skip


def test_a_run_is_judged_as_it_is_stored_and_as_large_as_it_says(tmp_path):
    run = hpd.distill(config(), out=tmp_path / "run")
    values = 6 * 256
    assert run.distilled.stored_floats == values
    assert run.distilled.storage.images.bits == values * 4 + 64
    assert run.stages[-1].stage.final
    # sixteen levels, whatever was better before
    pixels = run.distilled.normalisation.apply(run.distilled.images)
    assert len(pixels.round(decimals=4).unique()) <= 16
    file = tmp_path / "run" / CODES
    manifest = RunFolder(tmp_path / "run").read_manifest()
    assert manifest["storage"]["images"] == {"floats": values, "bits": values * 4 + 64}
    assert manifest["codec"] == {"bits": 4, "per": "tensor"}
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert 8 * (file.stat().st_size - header) == manifest["storage"]["images"]["bits"]
    assert header < 400
    assert torch.equal(hpd.decode(tmp_path / "run").images, run.distilled.images)
    loaded = hpd.load_distilled(tmp_path / "run")
    assert loaded.storage == run.distilled.storage
    file.write_bytes(file.read_bytes()[:-1] + b"\0" + b"\0")
    with pytest.raises(RunError, match="not as it was written"):
        hpd.decode(tmp_path / "run")


def test_rounding_at_the_end_alone(tmp_path):
    run = hpd.distill(config(start=1.0), out=tmp_path / "run")
    assert [report.stage.steps for report in run.stages] == [6, 0]
    assert torch.equal(hpd.decode(run).images, run.distilled.images)


def test_learnt_labels_are_stored_in_few_bits_too(tmp_path):
    values = config(label_bits=2)
    values["source"]["learnt_labels"] = {"confidence": 0.6, "lr": 0.1}
    values["objective"] = {"kind": "regression", "student": SMALL_STUDENT, "real_batch": 6}
    run = hpd.distill(values, out=tmp_path / "run")
    assert run.distilled.storage.labels.floats == 18
    assert run.distilled.storage.labels.bits == 8 * math.ceil(18 * 2 / 8) + 64
    logits = run.distilled.soft_labels.log()
    logits -= logits.mean(dim=1, keepdim=True)
    source = hpd.load_config(values).source.build_whole(
        hpd.load_dataset("digits", classes=["0", "1", "8"]).train, CPU, Streams(0)
    )
    assert source.label_bits == run.distilled.storage.labels.bits
    assert len(run.distilled.soft_labels.round(decimals=5).unique()) < 18
    again = hpd.load_distilled(tmp_path / "run")
    assert again.storage == run.distilled.storage


@pytest.mark.parametrize("storage", [{}, {"per": "row"}, {"start": 1.0}])
def test_a_run_goes_on_to_the_same_codes(storage, tmp_path):
    values = config(**storage) | {"checkpoint_every": 1}
    whole = hpd.distill(values, out=tmp_path / "whole")

    for at in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            hpd.distill(values, out=tmp_path / "parts", observers=[EndsAfter(at)], resume=at > 2)
    parts = hpd.distill(values, out=tmp_path / "parts", resume=True)
    assert torch.equal(parts.distilled.images, whole.distilled.images)
    ours, theirs = ((tmp_path / name / CODES).read_bytes() for name in ("whole", "parts"))
    assert ours == theirs


def test_what_has_no_codes_says_so(tmp_path, images, source_settings):
    plain = config()
    del plain["source"]["storage"]
    run = hpd.distill(plain, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="the run has no codes"):
        hpd.decode(run)
    with pytest.raises(ConfigError, match="the run has no codes"):
        hpd.decode(hpd.distill(config()))
    source, _ = build("pixel", images, source_settings, {"bits": 8})
    with pytest.raises(ConfigError, match="before the last stage"):
        source.codes()
    assert IMAGES not in source.state()
    inner = source_settings("gan", steps=2)
    with pytest.raises(ConfigError, match="has no name"):
        build("multi_formation", images, source_settings, {"bits": 8}, of=inner)
    assert source.batch(Step(0, 0)).tolist() == list(range(len(source.labels)))
