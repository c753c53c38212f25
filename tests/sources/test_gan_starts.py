"""Starts that fit the decoder: averages where they are images, encoded real images, ws kept."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch
from conftest import CPU, tiny_generator
from families import tiny_network
from small_runs import small_config
from torch import nn

import hpd
from generators import StoredGenerator, read_generator, save_generator
from generators.adapter import LayeredGenerator
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, GeneratorError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.gan.starts import Starts

Z, PROTOTYPES = 16, 12


@cache
def digits():
    return hpd.load_dataset("digits").train


class Gated(nn.Module):
    """z in the place of its class, 0 elsewhere: as of decoders that multiply z by an embedding."""

    def forward(self, z, labels):
        places = nn.functional.one_hot(labels, 10).to(z)
        return (places[:, :, None] * z[:, None]).flatten(1)


def gated_decoder():
    """A decoder whose samples are mixtures of real digits of a class, and whose z = 0 is grey."""
    train, rng = digits(), torch.Generator().manual_seed(0)
    mixing = nn.utils.skip_init(nn.Linear, 10 * Z, 10 * PROTOTYPES, bias=False)
    drawing = nn.utils.skip_init(nn.Linear, 10 * PROTOTYPES, 256, bias=False)
    mixing.weight.data.zero_()
    for c in range(10):
        rows = slice(c * PROTOTYPES, (c + 1) * PROTOTYPES)
        columns = slice(c * Z, (c + 1) * Z)
        mixing.weight.data[rows, columns] = torch.randn(PROTOTYPES, Z, generator=rng) / Z**0.5
        images = train.unit(train.by_class[c][:PROTOTYPES]) * 2 - 1
        drawing.weight.data[:, rows] = images.flatten(1).t() * 3 / PROTOTYPES
    layers = [
        nn.Sequential(mixing, nn.ReLU()),
        nn.Sequential(drawing, nn.Tanh(), nn.Unflatten(1, (1, 16, 16))),
    ]
    names = [str(c) for c in range(10)]
    return LayeredGenerator(layers, Gated(), z_dim=Z, num_classes=10, classes=names)


def started(generator, train, **options):
    settings = SOURCES.parse({"kind": "gan", "generator": "given", **options})
    return settings.build_from(StoredGenerator.of(generator), train, CPU, Streams(0).fork("source"))


@pytest.mark.parametrize("options", [{}, {"init": "average"}], ids=str)
def test_where_the_average_is_no_image_the_nearest_sample_is_taken(options, caplog):
    generator = gated_decoder()
    with caplog.at_level(logging.WARNING):
        source = started(generator, digits(), **options)
    assert "the mean w of a class makes no image of it" in caplog.text
    assert "nearest of 16 samples" in caplog.text
    assert source.provenance["start"].startswith("the nearest samples")
    averages = torch.stack(
        [generator.class_average(c, 1000, Streams(0).generator("any", c)) for c in range(10)]
    )
    grey, images = (generator(averages) + 1) / 2, render_all(source)
    # hardly any contrast before, that of images now
    assert float(grey.std(dim=(1, 2, 3)).max()) < 0.05
    assert float(images.std(dim=(1, 2, 3)).min()) > 0.15
    # and of its class: nearest to the mean of real images of it
    real = torch.stack([digits().unit(own).mean(dim=0) for own in digits().by_class])
    nearest = torch.cdist(images.flatten(1), real.flatten(1)).argmin(dim=1)
    assert int((nearest == torch.arange(10)).sum()) >= 9


def test_the_bundled_generator_keeps_its_averages(caplog):
    stored = read_generator("digits16")
    settings = SOURCES.parse({"kind": "gan", "generator": "digits16"})
    with caplog.at_level(logging.WARNING):
        source = settings.build_from(stored, digits(), CPU, Streams(0).fork("source"))
    assert not caplog.records
    assert "start" not in source.provenance
    rng = Streams(0).fork("source").generator("gan init", 4, 0)
    wanted = stored.generator.class_average(4, 1000, rng)
    assert torch.equal(source.ws[4], wanted)


def test_a_check_of_averages_draws_nothing_that_others_draw(images):
    generator = tiny_generator()
    starts = Starts(generator, [0, 1, 2], images, Streams(0), 1, 64)
    assert torch.equal(starts.averages(50, 1.0).ws, starts.drawn(50, 1.0))


def test_several_averages_of_a_class_are_still_refused_without_a_build(images, generator_folder):
    options = {"kind": "gan", "generator": generator_folder, "init": "average"}
    settings = SOURCES.parse({**options, "images_per_class": 2}).unprojected()
    with pytest.raises(ConfigError, match="would make all images of a class alike"):
        settings.build(images, CPU, Streams(0))


@pytest.fixture
def autoencoder(tmp_path):
    """A stored autoencoder of grey images of 24 px, three numbers for 8 x 8 pixels."""
    network = tiny_network("tiny_autoencoder", channels=1, resolution=24)
    folder = tmp_path / "autoencoder"
    save_generator(network, network.settings, folder, licence="MIT", provenance={})
    return str(folder)


@pytest.mark.parametrize("init", ["encode", None])
def test_encoded_real_images_at_the_size_of_the_data(init, autoencoder):
    train, streams = digits(), Streams(0)
    settings = SOURCES.parse(
        {"kind": "gan", "generator": autoencoder, "init": init, "images_per_class": 2}
    )
    source = settings.build(train, CPU, streams)
    assert source.generator.spec.resolution == 16
    chosen = train.draw_per_class(2, Streams(0).generator("gan init"))
    wanted = source.generator.encode(train.unit(chosen))
    torch.testing.assert_close(source.ws.detach(), wanted)
    assert source.ws.shape == (20, 1, 3 * 2 * 2)
    assert torch.equal(source.labels, train.labels[chosen])


def test_the_best_of_real_images_are_encoded_ones(autoencoder):
    train = digits()
    options = {"kind": "gan", "generator": autoencoder, "init": "best", "candidates": 6}
    source = SOURCES.parse(options).build(train, CPU, Streams(0))
    every = [source.generator.encode(train.unit(own)) for own in train.by_class]
    for own, row in zip(every, source.ws.detach(), strict=True):
        assert float((own - row).abs().amax(dim=(1, 2)).min()) < 1e-5


def test_a_generator_without_an_encoder_encodes_nothing(images, generator_folder):
    options = {"kind": "gan", "generator": generator_folder, "init": "encode"}
    with pytest.raises(GeneratorError, match="has no encoder"):
        SOURCES.parse(options).build(images, CPU, Streams(0))


@pytest.mark.parametrize(("storage", "bits"), [(None, 27 * 32), ({"bits": 8}, 27 * 8 + 64)])
def test_kept_latents_are_what_is_counted_and_give_the_images_again(
    storage, bits, autoencoder, tmp_path
):
    source = {
        "kind": "gan", "generator": autoencoder, "levels": [0], "store": "ws", "steps": 2,
        "images_per_class": 3, "storage": storage,
    }  # fmt: skip
    run = hpd.distill(
        small_config(tmp_path / "data", autoencoder, source=source), out=tmp_path / "run"
    )
    storage = run.distilled.storage
    assert (storage.images.floats, storage.images.bits) == (3 * 3 * 3, bits)
    # the decoder is needed again, and is counted beside
    assert storage.generator.floats == read_generator(autoencoder).generator.floats
    again = hpd.decode(tmp_path / "run")
    assert torch.equal(again.images, run.distilled.images)


@pytest.mark.parametrize(
    "options", [{}, {"levels": [0, 1]}, {"levels": [0], "lr_generator": 0.1}], ids=str
)
def test_latents_that_do_not_make_the_images_are_not_kept(options):
    with pytest.raises(ConfigError, match="the images cannot be had again"):
        SOURCES.parse({"kind": "gan", "generator": "digits16", "store": "ws", **options})


def test_every_level_of_an_autoencoder_is_optimised(autoencoder, tmp_path):
    source = {"kind": "gan", "generator": autoencoder, "steps": 1}
    run = hpd.distill(small_config(tmp_path / "data", autoencoder, source=source))
    assert run.distilled.images.shape == (3, 1, 8, 8)
    assert run.distilled.images.isfinite().all()
