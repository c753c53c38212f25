"""Hierarchical memories: what an image is made of, and that it is made alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, tiny_generator

from generators import StoredGenerator
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import DrawsBatches, Step

CONV = {"kind": "conv", "init": "noise"}


@pytest.fixture
def build(images, generator_folder):
    """Builds a source with its own convolutions, or on a generator if a level is given."""

    def make(level=None, seed=0, **options):
        if level is not None:
            own = {"kind": "stylegan", "generator": generator_folder, "level": level}
            options["decoder"] = own | options.get("decoder", {})
        given = {"kind": "hmn", "budget_images": 4, "decoder": CONV, **options}
        return SOURCES.parse(given).build(images, CPU, Streams(seed))

    return make


DECODERS = pytest.mark.parametrize("level", [None, 0, 2], ids=["conv", "ws", "features"])


@DECODERS
@pytest.mark.parametrize("chunk_images", [1, 5, 64])
def test_dropping_an_image_changes_no_other_to_the_bit(build, level, chunk_images):
    """Whatever goes with it, and in whatever chunks."""
    options = {"images_per_class": 5}
    before = render_all(build(level, **options))
    for dropped in ([0, 5, 10], [4, 7, 14], [2, 3, 8, 9, 10, 13]):
        source = build(level, chunk_images=chunk_images, **options)
        kept = torch.tensor([i for i in range(15) if i not in dropped])
        source.keep(kept)
        assert torch.equal(source.labels, torch.arange(3).repeat_interleave(len(kept) // 3))
        assert torch.equal(render_all(source), before[kept])
        assert source.stored_floats == sum(t.numel() for t in source.state().values())


def test_an_image_is_the_decoding_of_its_three_memories(build, float64, images):
    """The definition, one image and one channel at a time."""
    source = build(images_per_class=2)
    decoder = source.decoder
    for i, got in enumerate(render_all(source)):
        c = i // 2
        code = []
        for row, bias in zip(source.extractor[c], source.extractor_bias[c], strict=True):
            total = sum(w * memory for w, memory in zip(row, source.dataset_memory, strict=True))
            total = total + bias
            code.append(torch.where(total > 0, total, 0.2 * total))
        code += [*source.class_memory[c], *source.instance_memory[i]]
        x = torch.stack(code)[None]
        x = F.conv2d(x, decoder.weights[0], decoder.biases[0], padding=1)
        for weight, bias in zip(decoder.weights[1:], decoder.biases[1:], strict=True):
            x = torch.where(x > 0, x, 0.2 * x)
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = F.conv2d(x, weight, bias, padding=1)
        want = x[0] * images.normalisation.std[0] + images.normalisation.mean[0]
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_generator_decoder_has_the_gradient_of_differences(build, level, rng):
    decoder = build(level, images_per_class=2).decoder.double()
    width = decoder.head.shape[1]
    code = torch.randn(2, width, 1, 1, generator=rng, dtype=torch.float64).requires_grad_()
    weights = list(decoder.learnt().values())
    assert [tuple(p.shape) for p in weights] == [(len(decoder.head), width), (len(decoder.head),)]

    def decode(code, *weights):
        return decoder(code, torch.tensor([0, 2]))

    assert torch.autograd.gradcheck(decode, (code, *weights), fast_mode=True)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_direction_leads_to_a_draw_of_its_class(build, level):
    """From the average along one direction, as far as there are directions: that very draw."""
    source = build(level, images_per_class=2)
    decoder, generator = source.decoder, source.decoder.generator
    count = len(decoder.head)
    with torch.no_grad():
        decoder.head[:, :-count] = 0
        decoder.head[:, -count:] = torch.eye(count)
    code = torch.zeros(1, decoder.head.shape[1], 1, 1)
    code[0, -count + 1] = count**0.5
    state, ws = decoder.latents(code, torch.tensor([1]))
    rng = Streams(0).fork("decoder").generator("directions", 1)
    z = torch.randn(count, 8, generator=rng)
    drawn = generator.map(z, torch.ones(count, dtype=torch.int64))[1:2]
    got = (ws,) if level == 0 else state
    want = (drawn,) if level == 0 else generator.advance((), drawn, 0, level)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_one_image_a_class_starts_at_its_average_and_more_start_apart(build):
    one = build(0, images_per_class=1)
    averages = (one.decoder.generator(one.decoder.averages) + 1) / 2
    close = float((render_all(one) - averages).abs().max().detach())
    far = float((render_all(build(0, images_per_class=2))[::2] - averages).abs().max().detach())
    assert close < 0.3 * far
    pulled = build(0, images_per_class=2, decoder={"truncation_psi": 0.0})
    assert torch.equal(pulled.instance_memory.detach(), torch.zeros_like(pulled.instance_memory))


def test_the_generator_is_named_and_not_counted(build):
    source = build(0)
    assert source.provenance["generator"]["licence"] == "MIT"
    head = source.decoder.head.numel() + source.decoder.bias.numel()
    assert source.provenance["account"]["lines"][-1]["floats"] == head
    kept = build(0, budget_images=2, decoder={"keep": "images"})
    assert (kept.account.images_per_class, kept.stored_floats) == (2, 6 * 64)


def test_batches_are_random_and_of_every_class_alike(build):
    source = build(images_per_class=5, batch_images=2)
    assert isinstance(source, DrawsBatches)
    drawn = [source.batch(Step(0, i)) for i in range(30)]
    for batch in drawn:
        assert source.labels[batch].tolist() == [0, 0, 1, 1, 2, 2]
        assert batch.tolist() == sorted(set(batch.tolist()))
    assert torch.cat(drawn).unique().tolist() == list(range(15))
    again = build(images_per_class=5, batch_images=2)
    assert torch.equal(again.batch(Step(0, 7)), drawn[7])
    assert not all(torch.equal(batch, drawn[0]) for batch in drawn)
    assert torch.equal(build(images_per_class=2).batch(Step(0, 0)), torch.arange(6))


def test_the_fit_comes_closer_to_real_images_of_the_class(build, images):
    real = torch.stack([images.unit(own).mean(dim=0) for own in images.by_class])

    def error(steps):
        decoder = {"kind": "conv", "fit_steps": steps}
        return float((render_all(build(decoder=decoder, images_per_class=2))[::2] - real).norm())

    assert error(40) < 0.6 * error(0)


def test_a_class_of_few_images_comes_round_again(images):
    from hpd.sources.hmn.start import draw_targets

    chosen = draw_targets(images, 30, torch.Generator().manual_seed(0))
    assert images.labels[chosen].tolist() == [c for c in range(3) for _ in range(30)]
    assert torch.equal(chosen[:12], chosen[12:24])
    assert len(chosen[:12].unique()) == 12


def test_a_generator_in_memory_serves_only_its_decoder(build, images):
    stored = StoredGenerator.of(tiny_generator())
    source = build(0).settled.build_from(stored, images, CPU, Streams(0))
    assert torch.equal(render_all(source), render_all(build(0)))
    with pytest.raises(ConfigError, match="decoder takes no generator: got conv"):
        build().settled.build_from(stored, images, CPU, Streams(0))


def test_what_cannot_be_is_refused(build):
    with pytest.raises(ConfigError, match="no such level: got 9, expected 0 to 4"):
        build(9)
    with pytest.raises(RunError, match="single stage"):
        build().enter(1)
    with pytest.raises(RunError, match=r"same number of images: got \[1, 1, 0\]"):
        build(images_per_class=2).keep(torch.tensor([0, 2]))


@pytest.mark.parametrize("level", [0, 2])
def test_levels_go_on_from_what_the_memories_gave(build, level):
    decoder = {"then_levels": [2, 4], "then_steps": 7}
    source = build(level, steps=5, budget_images=2, decoder=decoder)
    assert [(s.name, s.steps) for s in source.stages] == [
        ("memories", 5), ("2 b8.conv0", 7), ("4 pixels", 7),
    ]  # fmt: skip
    before = render_all(source)
    entered = [group.name for group in source.enter(0)]
    assert entered == ["memories", "instance memories", "networks"]
    kept = source.state()
    assert [group.name for group in source.enter(1)] == ["ws", "features"]
    torch.testing.assert_close(render_all(source), before, rtol=1e-4, atol=1e-5)
    assert [group.name for group in source.enter(2)] == ["pixels"]
    torch.testing.assert_close(render_all(source), before, rtol=1e-4, atol=1e-5)
    assert kept.keys() != source.state().keys()
    # images share nothing any more, so they are what counts
    assert (source.stored_floats, len(source.labels)) == (6 * 64, 6)
    assert source.provenance["account"]["total"] == 6 * 64


@pytest.mark.parametrize("levels", [[1], [3, 2], [5]])
def test_levels_before_the_memories_are_refused(build, levels):
    with pytest.raises(ConfigError, match=r"then_levels must be ascending.*expected 2 to 4"):
        build(2, decoder={"then_levels": levels})


def test_a_dry_run_fits_nothing(images, monkeypatch):
    def fit(self, train, steps):
        raise AssertionError("it was fitted")

    monkeypatch.setattr("hpd.sources.hmn.memories.HmnSource.fit", fit)
    settings = SOURCES.parse({"kind": "hmn", "decoder": {"kind": "conv", "fit_steps": 5}})
    whole, plain = (
        SOURCES.parse({"kind": "multi_formation", "of": {"kind": "hmn"}}).unprojected(),
        settings.unprojected(),
    )
    assert whole.of.decoder.fit_steps == plain.decoder.fit_steps == 0
    plain.build(images, CPU, Streams(0))
    with pytest.raises(AssertionError, match="it was fitted"):
        settings.build(images, CPU, Streams(0))
