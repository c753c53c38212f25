"""Starts that are chosen from many candidates."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, tiny_generator

from generators import StoredGenerator
from hpd.data import ImageSet, Normalisation
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources import SOURCES, starts
from hpd.sources.starts import best_candidates, spread_of
from hpd.students.ridge import centred_targets, ridge_predictions


@pytest.fixture
def split(images):
    """Candidates of each class: the real images of it, and noise before them."""
    noise = torch.rand(3, 5, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return [torch.cat([noise[c], images.unit(own)[:6]]) for c, own in enumerate(images.by_class)]


def naive_error(images, labels, train, streams):
    """The error of a set, by the regression that selectors and objectives use."""
    real, wanted = starts._real(train, streams)
    errors = []
    for number in range(starts._NETWORKS):
        student = starts._network(train, CPU, streams.generator("network", number))
        r, s = (starts._embed(student, x, train, CPU) for x in (real, images))
        targets = (centred_targets(own, train.num_classes) for own in (labels, wanted))
        own, y = targets
        made = ridge_predictions(r, s, own, starts._RIDGE)
        errors.append(float((made - y).square().sum(dim=1).mean()))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("per_class", [1, 2])
def test_each_choice_is_the_best_with_the_others_as_they_are(split, images, per_class):
    chosen = best_candidates(iter(split), per_class, images, CPU, Streams(0))
    assert chosen.shape == (3, per_class)
    labels = torch.arange(3).repeat_interleave(per_class)

    def error(chosen):
        own = torch.cat([split[c][row] for c, row in enumerate(chosen)])
        return naive_error(own, labels, images, Streams(0))

    best = error(chosen)
    # the last image to be chosen had all others before it
    for j in set(range(11)) - set(chosen[2, :-1].tolist()):
        other = chosen.clone()
        other[2, -1] = j
        assert error(other) >= best - 1e-9
    assert best < error(torch.arange(per_class).repeat(3, 1))
    assert all(len(set(row)) == per_class for row in chosen.tolist())
    # real images of the class tell more of it than noise
    assert (chosen >= 5).float().mean() > 0.6


def test_the_choice_depends_on_the_streams_alone(split, images):
    first, again, other = (
        best_candidates(iter(split), 2, images, CPU, Streams(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_candidates_that_are_all_alike_choose_as_well(images):
    flat = [torch.zeros(4, 1, 8, 8)] * 3
    assert best_candidates(iter(flat), 1, images, CPU, Streams(0)).shape == (3, 1)


def test_the_first_candidate_is_the_mean():
    assert spread_of((0.5, 1.0), 2).tolist() == [0.0, 0.5]
    assert spread_of((0.5, 1.0), 3).tolist() == [0.0, 0.5, 1.0]


@pytest.fixture
def build(images):
    def make(generator=None, train=images, **options):
        given = {"kind": "gan", "generator": "in memory", "init": "best", "candidates": 6,
                 "average_draws": 20, **options}  # fmt: skip
        stored = StoredGenerator.of(generator or tiny_generator())
        return SOURCES.parse(given).build_from(stored, train, CPU, Streams(0))

    return make


def test_a_source_starts_from_the_best(build, images):
    for per_class in (1, 3):
        source = build(images_per_class=per_class)
        rendered = render_all(source)
        assert len(rendered) == 3 * per_class
        assert torch.equal(rendered, render_all(build(images_per_class=per_class)))
        # rounded otherwise in chunks, and the same are chosen
        chunked = render_all(build(images_per_class=per_class, chunk_images=2))
        torch.testing.assert_close(chunked, rendered, rtol=1e-4, atol=1e-5)
        # each is another one
        assert len(rendered.flatten(1).unique(dim=0)) == len(rendered)


def test_a_generator_without_classes_gives_each_class_what_suits_it(build):
    source = build(tiny_generator(num_classes=0))
    assert render_all(source).isfinite().all()


def test_more_images_than_candidates_are_refused(build):
    with pytest.raises(ConfigError, match="fewer candidates than images: got 6, expected at least"):
        build(images_per_class=7)


def test_images_of_another_kind_and_shape(build, rng):
    """Colour, not square batches, and a class that has few images."""
    pixels = (torch.rand(7, 1, 8, 8, generator=rng) * 255).to(torch.uint8)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    few = ImageSet(pixels, labels, ("a", "b", "c"), Normalisation((0.5,), (0.5,)))
    assert render_all(build(train=few)).shape == (3, 1, 8, 8)
