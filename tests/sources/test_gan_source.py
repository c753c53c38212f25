"""Generators as the source: what is initialised, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import CPU, tiny_generator

from generators import read_generator, save_generator
from generators.base import GeneratorSpec
from hpd.data.kinds.imagenet import SUBSETS, wnids_of
from hpd.disk.yaml_text import parse_value
from hpd.engine.rendered import Drawn, render_all
from hpd.errors import ConfigError, GeneratorError, NumericError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.class_matching import match_classes
from hpd.typing import Step


@pytest.fixture
def build(images, generator_folder, streams):
    def make(train=images, **options):
        given = {"kind": "gan", "generator": generator_folder, **options}
        return SOURCES.parse(given).build(train, CPU, streams)

    return make


def test_average_is_the_mean_of_its_draws(build, generator_folder):
    source = build(init="average", average_draws=50)
    rng = Streams(0).generator("gan init", 1, 0)
    z = torch.randn(50, 8, generator=rng)
    ws = read_generator(generator_folder).generator.map(z, torch.full((50,), 1))
    torch.testing.assert_close(source.ws[1], ws.mean(dim=0))


def test_sampled_images_differ_within_a_class(build):
    rendered = render_all(build(images_per_class=2))
    assert not torch.equal(rendered[0], rendered[1])


def test_truncation_pulls_to_the_average(build):
    ws = build(images_per_class=2, truncation_psi=0.0).ws
    torch.testing.assert_close(ws[0], ws[1])


def test_projection_starts_at_real_images(build, images):
    options = {"init": "project", "project_distance": "squared", "images_per_class": 2}
    near, far = (render_all(build(project_steps=steps, **options)) for steps in (60, 0))
    rng = Streams(0).generator("gan init")
    real = images.unit(images.draw_per_class(2, rng))
    assert (near - real).square().mean() < 0.9 * (far - real).square().mean()


def test_classes_are_matched_by_name_in_any_order(build, images):
    turned = images.only([2, 0])
    assert turned.classes == ("c", "a")
    both, alone = build(init="average"), build(train=turned, init="average")
    generator = both.generator
    assert not torch.equal(both.ws[2], alone.ws[0])  # other streams, the same class:
    by_index = build(train=turned, init="average", generator_classes=[2, 0])
    assert torch.equal(by_index.ws, alone.ws)
    assert generator.spec.classes == ("a", "b", "c")


def test_a_level_is_one_stage(build):
    source = build(levels=[2], steps=5)
    assert [(s.name, s.steps) for s in source.stages] == [("2 b8.conv0", 5)]
    groups = source.enter(0)
    assert [group.name for group in groups] == ["ws", "features"]
    assert len(groups[1].tensors) == 2  # features, and the image so far


def test_steps_per_level(build):
    source = build(levels=[0, 4], steps=[3, 0])
    assert [s.steps for s in source.stages] == [3, 0]
    assert [group.name for group in source.enter(0)] == ["ws"]
    assert [group.name for group in source.enter(1)] == ["pixels"]


def test_provenance_names_the_generator(build):
    about = build().provenance["generator"]
    assert about["licence"] == "MIT"
    assert len(about["sha256"]) == 64


def test_features_can_be_limited_between_levels(build):
    source = build(levels=[1], feature_limit=0.01)
    source.enter(0)
    assert float(source.features[0].abs().max().detach()) <= 0.01


def test_features_that_are_not_finite_stop_the_run(build):
    source = build()
    source.enter(0)
    with torch.no_grad():
        source.ws.fill_(float("nan"))
    with pytest.raises(NumericError, match=r"features at level 1 \(b4.conv1\)"):
        source.enter(1)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"generator": "nowhere"}, GeneratorError, "no generator 'nowhere'"),
        ({"levels": [2, 1]}, ConfigError, "ascending levels"),
        ({"levels": [5]}, ConfigError, "expected 0 to 4"),
        ({"levels": []}, ConfigError, "ascending levels"),
        ({"steps": [1, 2]}, ConfigError, "one for each level"),
        ({"steps": -1}, ConfigError, "one for each level"),
        ({"generator_classes": [0, 1]}, GeneratorError, "got 2 for 3, in the order a, b, c"),
        ({"generator_classes": [0, 1, 3]}, GeneratorError, "no class 3"),
        ({"init": "average", "images_per_class": 2}, ConfigError, "alike"),
    ],
)
def test_what_does_not_fit_is_refused(build, options, kind, message):
    with pytest.raises(kind, match=message):
        build(**options)


def test_classes_that_the_generator_does_not_have_are_named(build, images):
    with pytest.raises(GeneratorError, match=r"no class 'dog'.*Known: a, b, c"):
        build(train=replace(images, classes=("a", "b", "dog")))


def test_images_of_another_size_are_refused(build, images):
    large = images.with_images(images.images.repeat(1, 1, 2, 2))
    with pytest.raises(GeneratorError, match=r"got images \[1, 8, 8\], expected \[1, 16, 16\]"):
        build(train=large)


def test_stages_go_in_order(build):
    source = build()
    with pytest.raises(RunError, match="in order"):
        source.enter(1)


def test_an_unconditional_generator_serves_any_class(build, tmp_path):
    network = tiny_generator(num_classes=0)
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance={})
    assert render_all(build(generator=str(tmp_path / "g"), init="sample")).shape == (3, 1, 8, 8)


def spec_of(num_classes, classes=()):
    return GeneratorSpec("stylegan_xl", 32, 3, 64, 512, num_classes, 9, (), classes)


def test_classes_of_imagenet_are_known_to_a_generator_of_its_thousand():
    thousand = spec_of(1000)
    assert match_classes(thousand, ["n01440764", "n02102040"], None) == [0, 217]
    assert match_classes(thousand, ["cassette player", "tench"], None) == [482, 0]
    # what the user says, and what the generator knows of itself, come first
    assert match_classes(thousand, ["n01440764", "n02102040"], [7, 9]) == [7, 9]
    named = spec_of(1000, (*(f"class{i}" for i in range(999)), "tench"))
    assert match_classes(named, ["tench", "class3"], None) == [999, 3]


@pytest.mark.parametrize(("count", "names"), [(1000, ["tench", "dog"]), (10, ["tench"])])
def test_others_have_to_be_said(count, names):
    with pytest.raises(GeneratorError, match=r"source\.generator_classes="):
        match_classes(spec_of(count), names, None)


def test_classes_of_a_generator_go_by_number_by_name_and_by_wnid():
    named = spec_of(4, ("cat", "dog", "n01440764", "goldfish"))
    data = ["a", "b", "c", "d"]
    assert match_classes(named, data, ["dog", 0, "tench", "n01443537"]) == [1, 0, 2, 3]
    assert match_classes(named, ["tench", "cat"], None) == [2, 0]
    thousand = spec_of(1000)
    assert match_classes(thousand, ["x", "y"], ["n02102040", "tench"]) == [217, 0]


def test_classes_may_be_given_by_those_of_the_data_in_any_order():
    named = spec_of(3, ("cat", "dog", "bird"))
    given = {"wolf": "dog", "sparrow": 2}
    assert match_classes(named, ["cat", "sparrow", "wolf"], given) == [0, 2, 1]
    assert match_classes(named, ["wolf", "cat", "sparrow"], given) == [1, 0, 2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["cat"], r"got 1 for 2, in the order wolf, sparrow\."),
        (["cat", "brid"], r"no class 'brid'\. Did you mean 'bird'\?"),
        (["cat", 3], r"no class 3\. It has the numbers 0 to 2\."),
        (["cat", "n02979186"], r"no class 'n02979186'\. It has: cat, dog, bird\."),
        ({"wofl": "dog"}, r"names 'wofl', which is no class of the data\. Did you mean 'wolf'"),
        ({"wolf": "dog"}, r"no class 'sparrow'"),
    ],
)
def test_what_names_no_class_is_refused_with_what_to_write(given, said):
    named = spec_of(3, ("cat", "dog", "bird"))
    with pytest.raises(GeneratorError, match=said) as refused:
        match_classes(named, ["wolf", "sparrow"], given)
    if "data." not in said and "no class of the data" not in str(refused.value):
        example = str(refused.value).partition('"source.generator_classes=')[2].rpartition('"')[0]
        # as it stands it means nothing, so that nobody pastes it with another's classes in it
        with pytest.raises(GeneratorError, match="no class 'CLASS'"):
            match_classes(named, ["wolf", "sparrow"], parse_value(example, "x"))
        meant = parse_value(example.replace("CLASS", "bird"), "x")
        assert match_classes(named, ["wolf", "sparrow"], meant) == [2, 2]


def test_only_classes_that_the_generator_lacks_are_to_be_named():
    with pytest.raises(GeneratorError, match=r'"source.generator_classes=\{fish: CLASS\}"'):
        match_classes(spec_of(3, ("cat", "dog", "bird")), ["cat", "dog", "fish"], None)


def test_no_wnid_is_taken_for_another_that_looks_like_it():
    named = spec_of(2, ("n02979187", "n02102040"))
    with pytest.raises(GeneratorError) as refused:
        match_classes(named, ["n02979186", "n02102040"], None)
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize("subset", ["nette", "woof", "c"])
def test_subsets_of_imagenet_set_the_classes_of_a_generator(subset):
    assert match_classes(spec_of(1000), wnids_of(subset), None) == list(SUBSETS[subset])


def test_a_step_may_take_some_images_of_each_class(generator_folder, images):
    options = {"kind": "gan", "generator": generator_folder, "images_per_class": 4, "steps": 2}
    whole, some = (
        SOURCES.parse(options | more).build(images, CPU, Streams(0))
        for more in ({}, {"batch_images": 2})
    )
    some.enter(0)
    chosen = some.batch(Step(0, 1))
    assert some.labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(chosen, some.batch(Step(0, 1)))
    assert not torch.equal(chosen, some.batch(Step(0, 2)))
    assert whole.batch(Step(0, 1)).tolist() == list(range(12))
    assert Drawn.of(whole, Step(0, 1)).all
    assert not Drawn.of(some, Step(0, 1)).all
