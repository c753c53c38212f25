"""Options of the generator's levels: random features, learnt weights, rates of each level."""

from __future__ import annotations

import logging

import pytest
import torch
from conftest import CPU, tiny_generator

from generators import StoredGenerator
from hpd.engine import OptimizerSettings
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources import SOURCES


@pytest.fixture
def build(images):
    def make(seed=0, **options):
        settings = SOURCES.parse({"kind": "gan", "generator": "in memory", **options})
        stored = StoredGenerator.of(tiny_generator())
        return settings.build_from(stored, images, CPU, Streams(seed))

    return make


def groups_of(source, stage=0):
    return {group.name: group for group in source.enter(stage)}


def test_rates_and_steps_of_each_level(build):
    source = build(levels=[0, 2, 4], steps=[3, 2, 1], lr_ws=[0.1, 0.2, 0.3],
                   lr_features=[9.0, 0.5, 9.0], lr_pixels=0.7)  # fmt: skip
    assert [stage.steps for stage in source.stages] == [3, 2, 1]
    told = [{group.name: group.lr for group in source.enter(stage)} for stage in range(3)]
    assert told == [{"ws": 0.1}, {"ws": 0.2, "features": 0.5}, {"pixels": 0.7}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_ws": [0.1, 0.2]}, "lr_ws must be one number or one for each level"),
        ({"lr_features": 0.0}, "lr_features must be.*expected 5 numbers, above 0"),
        ({"lr_features": [0.1, 0.1, -1.0, 0.1, 0.1]}, "lr_features must be"),
        ({"features": "random"}, "needs a first level that has features: got 0, expected 1 to 4"),
    ],
)
def test_what_does_not_fit_is_refused(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize("level", [1, 3, 4])
def test_random_features_have_the_moments_of_the_generators(build, level):
    options = {"levels": [level], "images_per_class": 100, "init": "sample"}
    plain, random = build(**options), build(**options, features="random")
    plain.enter(0)
    random.enter(0)
    for ours, own in zip(random.features, plain.features, strict=True):
        assert ours.shape == own.shape
        assert not torch.equal(ours, own)
        dims = (0, 2, 3)
        means, stds = ours.detach().mean(dims), ours.detach().std(dims)
        want_means, want_stds = own.detach().mean(dims), own.detach().std(dims)
        assert float(((means - want_means) / (want_stds + 1e-6)).abs().max()) < 0.15
        torch.testing.assert_close(stds, want_stds, rtol=0.15, atol=1e-6)


def test_random_features_are_of_the_seed_and_only_at_the_start(build):
    def features(seed):
        source = build(seed, levels=[1, 2], features="random")
        source.enter(0)
        first = source.features[0].detach().clone()
        before = render_all(source)
        source.enter(1)
        assert torch.equal(render_all(source), before)
        return first

    assert torch.equal(features(0), features(0))
    assert not torch.equal(features(0), features(1))


@pytest.mark.parametrize("chunk_images", [1, 8])
def test_the_weights_get_the_gradient_of_autograd(build, float64, rng, chunk_images):
    source = build(levels=[2], lr_generator=0.01, chunk_images=chunk_images, images_per_class=2)
    source.generator.double()
    source.ws = source.ws.detach().double().requires_grad_()
    weights = groups_of(source)["generator"].tensors
    probe = torch.randn(6, 1, 8, 8, generator=rng)
    indices = torch.arange(6)
    wanted = torch.autograd.grad((source._decode(indices) * probe).sum(), weights)
    _, pullback = source.render(indices)
    pullback(probe)
    for weight, want in zip(weights, wanted, strict=True):
        torch.testing.assert_close(weight.grad, want, rtol=0, atol=1e-10 * float(want.abs().max()))


def test_only_layers_after_the_level_learn(build):
    """The mapping and the layers before are no part of the images' graph."""
    source = build(levels=[0, 2, 4], lr_generator=0.01)
    names = {id(value): name for name, value in source.generator.named_parameters()}
    first = {names[id(tensor)] for tensor in groups_of(source, 0)["generator"].tensors}
    second = {names[id(tensor)] for tensor in groups_of(source, 1)["generator"].tensors}
    assert second < first < set(names.values())
    assert not any("mapping" in name for name in first)
    thawed = {names[id(p)] for p in source.generator.parameters() if p.requires_grad}
    assert thawed == second
    assert list(groups_of(source, 2)) == ["pixels"]


def test_learning_changes_images_and_not_the_generator_that_was_given(images):
    given = tiny_generator()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    options = {"kind": "gan", "generator": "x", "levels": [1, 2], "lr_generator": 0.05}
    source = SOURCES.parse(options).build_from(StoredGenerator.of(given), images, CPU, Streams(0))
    kept, start = None, render_all(source)
    for stage in (0, 1):
        groups = source.enter(stage)
        learnt = [group for group in groups if group.name == "generator"]
        optimizer = OptimizerSettings().build(learnt)  # the weights alone
        rendered, pullback = source.render(torch.arange(3))
        pullback(torch.ones_like(rendered))
        kept = source.state()
        optimizer.step()
        assert not torch.equal(render_all(source), rendered)
    source.load_state(kept)
    assert torch.equal(render_all(source), rendered)
    assert not torch.equal(rendered, start)
    for name, value in given.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in given.parameters())
    assert source.provenance["generator"]["weights_learnt"] is True
    assert source.stored_floats == 3 * 64


def test_frozen_weights_are_shared_and_not_in_the_state(images):
    given = tiny_generator()
    source = SOURCES.parse({"kind": "gan", "generator": "x"}).build_from(
        StoredGenerator.of(given), images, CPU, Streams(0)
    )
    assert source.generator is given
    source.enter(0)
    assert set(source.state()) == {"ws"}
    assert "weights_learnt" not in source.provenance["generator"]


@pytest.mark.parametrize("kind", ["gan", "latents"])
@pytest.mark.parametrize(("there", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_what_the_generator_computes_in_is_told(kind, there, dtype, images, monkeypatch, caplog):
    monkeypatch.setattr("hpd.machine.precision.has_fast_bfloat16", lambda device: there)
    settings = SOURCES.parse({"kind": kind, "generator": "in memory", "precision": "auto"})
    with caplog.at_level(logging.INFO, "hpd.sources.gan.settings"):
        source = settings.build_from(StoredGenerator.of(tiny_generator()), images, CPU, Streams(0))
    assert source.provenance["generator_precision"] == dtype
    assert caplog.messages == [f"the generator computes in {dtype} on cpu"]
