"""Multi-formation: which part is which, what it starts from, and what it stores."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, tiny_generator
from reference import enlarged_part

from generators import StoredGenerator
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, DataError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.multi_formation import parts_of, tile


def build(images, seed=0, **options):
    return SOURCES.parse({"kind": "multi_formation", **options}).build(images, CPU, Streams(seed))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_parts_equal_their_twin_in_order(float64, rng, factor):
    images = torch.rand(3, 2, 8, 4, generator=rng)
    parts = parts_of(images, factor)
    assert len(parts) == 3 * factor**2
    for i, part in enumerate(parts):
        want = enlarged_part(images[i // factor**2], factor, i % factor**2)
        torch.testing.assert_close(part, want)


def test_the_gradient_of_parts(float64, rng):
    images = torch.rand(2, 1, 4, 4, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: parts_of(x, 2), images)


@pytest.mark.parametrize("inner", [{"kind": "pixel"}, {"kind": "low_rank", "rank": 1}])
def test_it_stores_what_the_source_inside_stores(images, inner):
    many = images.with_images(images.images.repeat(4, 1, 1, 1), images.labels.repeat(4))
    inside = SOURCES.parse(inner).build(many, CPU, Streams(0))
    source = build(many, of=inner)
    assert source.stored_floats == inside.stored_floats
    assert len(source.labels) == 4 * len(inside.labels)
    assert source.labels.tolist() == inside.labels.repeat_interleave(4).tolist()
    assert source.provenance["multi_formation"] == {"factor": 2}


def test_one_part_is_the_source_itself(images):
    alone = SOURCES.parse({"kind": "pixel", "images_per_class": 2}).build(images, CPU, Streams(0))
    source = build(images, factor=1, of={"kind": "pixel", "images_per_class": 2})
    torch.testing.assert_close(render_all(source), render_all(alone))


def test_a_tile_holds_small_real_images_of_one_class(images, rng):
    tiled = tile(images, 2, rng)
    assert (tiled.image_shape, tiled.normalisation) == (images.image_shape, images.normalisation)
    assert tiled.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    small = images.images.double().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    used = []
    for image, label in zip(tiled.images, tiled.labels, strict=True):
        for top, left in ((0, 0), (0, 4), (4, 0), (4, 4)):
            part = image[:, top : top + 4, left : left + 4].double()
            distance = (small - part).abs().amax(dim=(1, 2, 3))
            assert distance.min() <= 0.5
            used.append(int(distance.argmin()))
            assert images.labels[used[-1]] == label
    assert sorted(used) == list(range(36))


def test_it_starts_from_tiles(images):
    source = build(images, of={"kind": "pixel", "images_per_class": 3})
    tiled = tile(images, 2, Streams(0).generator("tiles"))
    whole = render_all(source.inner)
    for image, label in zip(whole, source.inner.labels.tolist(), strict=True):
        own = tiled.unit(tiled.by_class[label])
        assert float((own - image).abs().amax(dim=(1, 2, 3)).min()) < 1e-6


def test_a_generator_in_memory_is_passed_on(images):
    settings = SOURCES.parse({"kind": "multi_formation", "of": {"kind": "gan", "generator": "x"}})
    stored = StoredGenerator.of(tiny_generator())
    source = settings.build_from(stored, images, CPU, Streams(0))
    assert len(render_all(source)) == 12
    assert source.provenance["generator"]["family"] == "stylegan2"
    pixel = SOURCES.parse({"kind": "multi_formation"})
    with pytest.raises(ConfigError, match="takes no generator: got pixel"):
        pixel.build_from(stored, images, CPU, Streams(0))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"factor": 3}, ConfigError, "must divide.*got 3, expected a divisor of 8 and 8"),
        ({"factor": 4}, DataError, "too few images: got 0"),
        ({"of": {"kind": "pixel", "images_per_class": 4}}, DataError, "got 3, expected at least 4"),
    ],
)
def test_what_does_not_fit_is_refused(images, options, kind, message):
    with pytest.raises(kind, match=message):
        build(images, **options)
