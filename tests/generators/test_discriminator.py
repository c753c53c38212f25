"""The discriminator: shapes, classes, groups, and derivatives of derivatives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import generators
from generators import bundled_generators, read_generator
from generators.ops import lowpass_filter
from generators.training.discriminator import (
    DiscriminatorSettings,
    add_group_deviation,
    down_convolve,
)
from hpd.errors import ConfigError, GeneratorError, ShapeError


def tiny(**options):
    options = {"resolution": 16, "channels": 2, "num_classes": 3, "group_size": 2} | options
    network = DiscriminatorSettings.read({"channel_base": 64, "channel_max": 8} | options).build()
    network.initialise(torch.Generator().manual_seed(1))
    return network


def batch(rng, count=4, channels=2, size=16):
    images = torch.randn(count, channels, size, size, generator=rng)
    return images, torch.tensor([0, 0, 2, 2])[:count]


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_one_logit_per_image(rng, resolution):
    images, labels = batch(rng, size=resolution)
    assert tiny(resolution=resolution)(images, labels).shape == (4,)
    assert tiny(resolution=resolution, num_classes=0)(images).shape == (4,)


def test_same_seed_same_weights(rng):
    images, labels = batch(rng)
    assert torch.equal(tiny()(images, labels), tiny()(images, labels))
    other = tiny()
    other.initialise(torch.Generator().manual_seed(2))
    assert not torch.equal(tiny()(images, labels), other(images, labels))


def test_fresh_logits_have_unit_scale(rng):
    network = tiny(channel_base=1024, channel_max=64, group_size=4)
    images = torch.randn(64, 2, 16, 16, generator=rng)
    labels = torch.randint(3, (64,), generator=rng)
    assert 0.05 < network(images, labels).square().mean().sqrt().item() < 5


def test_the_class_decides(rng):
    """Images and groups the same, labels not: the logits differ, for that image alone."""
    network = tiny()
    images, labels = batch(rng)
    changed = labels.clone()
    changed[0] = 1
    before, after = network(images, labels), network(images, changed)
    assert before[0] != after[0]
    assert torch.equal(before[1:], after[1:])


def test_projection_is_an_inner_product(rng):
    network = tiny()
    images, labels = batch(rng)
    x = network.b4(network.b8(network.b16(images)))
    table = network.mapping(torch.arange(3))
    expected = torch.stack([x[i] @ table[labels[i]] for i in range(4)]) / x.shape[1] ** 0.5
    torch.testing.assert_close(network(images, labels), expected)


def test_second_derivatives_are_right(rng):
    """R1 differentiates a gradient: its slope along a direction equals the difference quotient."""
    network = tiny().double()
    images, labels = batch(rng)
    images = images.double().requires_grad_()
    parameters = list(network.parameters())
    direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]

    def penalty():
        (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
        return gradient.square().sum()

    slopes = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    slope = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True) if s is not None)
    shifted = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * 1e-6)
        shifted.append(penalty().item())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=-sign * 1e-6)
    quotient = (shifted[0] - shifted[1]) / 2e-6
    assert slope.item() == pytest.approx(quotient, rel=1e-4)


def test_operations_pass_gradgradcheck(rng):
    x = torch.randn(2, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    kernel = lowpass_filter().double()

    def check(function, *inputs):
        # without given ones the check draws them from the global generator
        shape = function(*inputs).shape
        outer = torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradgradcheck(function, inputs, outer)

    check(lambda x, w: down_convolve(x, w, kernel), x, weight)
    check(lambda x: add_group_deviation(x, 2), x)


@pytest.mark.parametrize("size", [1, 3])
def test_down_convolution_filters_then_strides(rng, size):
    """The same as to filter at full size, convolve at full size and keep every second pixel."""
    x = torch.randn(2, 3, 8, 8, generator=rng)
    weight = torch.randn(4, 3, size, size, generator=rng)
    kernel = lowpass_filter()
    pad = size // 2
    padded = F.pad(x, (pad + 1, pad + 1, pad + 1, pad + 1))
    filtered = F.conv2d(padded.reshape(-1, 1, *padded.shape[2:]), kernel.flip(0, 1)[None, None])
    filtered = filtered.reshape(2, 3, *filtered.shape[2:])
    expected = F.conv2d(filtered, weight)[:, :, ::2, ::2]
    got = down_convolve(x, weight, kernel)
    assert got.shape == (2, 4, 4, 4)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_group_deviation_is_that_of_numpy(rng):
    x = torch.randn(6, 2, 3, 3, generator=rng)
    got = add_group_deviation(x, 3)
    assert torch.equal(got[:, :2], x)
    for group in (slice(0, 3), slice(3, 6)):
        expected = x[group].numpy().std(axis=0).mean()
        assert got[group, 2].numpy() == pytest.approx(expected, rel=1e-4)


def test_group_deviation_finds_images_that_are_alike(rng):
    one = torch.randn(1, 2, 3, 3, generator=rng)
    assert float(add_group_deviation(one.expand(4, -1, -1, -1), 4)[:, 2].max()) < 1e-3


def test_groups_do_not_mix(rng):
    network = tiny()
    images, labels = batch(rng)
    changed = torch.cat([images[:2], -images[2:]])
    # the same sums in batches of the same size
    assert torch.equal(network(images, labels)[:2], network(changed, labels)[:2])
    inside = torch.cat([images[:1], -images[1:2], images[2:]])
    assert network(images, labels)[0] != network(inside, labels)[0]


def test_wrong_input_is_refused(rng):
    images, labels = batch(rng)
    with pytest.raises(ShapeError, match="multiple of 2"):
        tiny()(images[:3], labels[:3])
    with pytest.raises(ShapeError, match="images"):
        tiny()(images[:, :1], labels)
    with pytest.raises(ShapeError, match="out of range"):
        tiny()(images, labels + 1)
    with pytest.raises(GeneratorError, match="no labels"):
        tiny()(images)
    with pytest.raises(GeneratorError, match="labels do not fit"):
        tiny(num_classes=0)(images, labels)
    with pytest.raises(ConfigError, match="power of two"):
        tiny(resolution=24)


def test_digits16_is_bundled():
    assert "digits16" in bundled_generators()
    stored = read_generator("digits16")
    spec = stored.generator.spec
    assert spec.classes == tuple("0123456789")
    assert (spec.family, spec.resolution, spec.channels) == ("stylegan2", 16, 1)
    assert stored.licence == "MIT"
    assert stored.provenance["data_part"] == "train"


def test_digits16_is_small():
    folder = Path(generators.__file__).parent / "zoo" / "digits16"
    assert (folder / "model.safetensors").stat().st_size < 3_000_000
    assert (folder / "README.md").is_file()
    assert (folder / "samples.png").is_file()


def test_digits16_varies_within_a_class(rng):
    generator = read_generator("digits16").generator
    labels = torch.arange(10).repeat_interleave(20)
    z = torch.randn(200, generator.spec.z_dim, generator=rng)
    images = generator(generator.map(z, labels)).reshape(10, 20, -1)
    assert float(images.abs().max()) < 3
    inside = images.var(dim=1).sum(dim=1).sqrt()
    between = images.mean(dim=1).var(dim=0).sum().sqrt()
    # in the data the two are about as large
    assert float(inside.min()) > 0.3 * float(between)
