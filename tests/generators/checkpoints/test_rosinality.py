"""Rosinality's files give the images of an independent re-implementation of its network."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from traps import Runs

from generators.checkpoints import convert_checkpoint, convert_rosinality, inspect_checkpoint
from generators.checkpoints.families.rosinality import channel_rule
from hpd.errors import GeneratorError

LR_MLP = 0.01


def make_weights(size=32, width=16, layers=3, *, cut=64, most=12, seed=0, noise=True):
    """A state dict with every term active, in the names and shapes of that project."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0, mean=0.0):
        return torch.randn(shape, generator=rng) * scale + mean

    def features(resolution):
        return min(cut // resolution * 4, most)

    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(row, row) / 64 * 4
    weights = {"input.input": draw(1, features(4), 4, 4)}

    def modulated(name, out, given, k):
        weights[f"{name}.conv.weight"] = draw(1, out, given, k, k)
        weights[f"{name}.conv.modulation.weight"] = draw(given, width)
        weights[f"{name}.conv.modulation.bias"] = draw(given, scale=0.3, mean=1.0)

    def styled(name, out, given, *, up=False):
        modulated(name, out, given, 3)
        weights[f"{name}.noise.weight"] = draw(1, scale=0.3)
        weights[f"{name}.activate.bias"] = draw(out, scale=0.3)
        if up:
            weights[f"{name}.conv.blur.kernel"] = kernel

    def colours(name, given):
        modulated(name, 3, given, 1)
        weights[f"{name}.bias"] = draw(1, 3, 1, 1, scale=0.3)

    for i in range(1, layers + 1):
        weights[f"style.{i}.weight"] = draw(width, width) / LR_MLP
        weights[f"style.{i}.bias"] = draw(width, scale=30)
    styled("conv1", features(4), features(4))
    colours("to_rgb1", features(4))
    weights["noises.noise_0"] = draw(1, 1, 4, 4)
    for i in range(int(math.log2(size)) - 2):
        resolution = 8 * 2**i
        out, given = features(resolution), features(resolution // 2)
        styled(f"convs.{2 * i}", out, given, up=True)
        styled(f"convs.{2 * i + 1}", out, out)
        colours(f"to_rgbs.{i}", out)
        weights[f"to_rgbs.{i}.upsample.kernel"] = kernel
        if noise:
            weights[f"noises.noise_{2 * i + 1}"] = draw(1, 1, resolution, resolution)
            weights[f"noises.noise_{2 * i + 2}"] = draw(1, 1, resolution, resolution)
    return weights


class Twin:
    """That project's network, written from its description: one image and one pixel at a time."""

    def __init__(self, weights):
        self.w = {name: value.double() for name, value in weights.items()}

    def linear(self, name, x, lr=1.0):
        weight = self.w[f"{name}.weight"]
        return x @ (weight * lr / math.sqrt(weight.shape[1])).t() + self.w[f"{name}.bias"] * lr

    def mapping(self, z):
        x = z / (z.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()
        i = 1
        while f"style.{i}.weight" in self.w:
            x = math.sqrt(2) * F.leaky_relu(self.linear(f"style.{i}", x, LR_MLP), 0.2)
            i += 1
        return x

    def modulated(self, name, x, w, *, demodulate, up=False):
        weight = self.w[f"{name}.conv.weight"][0]
        scale = 1 / math.sqrt(weight[0].numel())
        style = self.linear(f"{name}.conv.modulation", w)
        images = []
        for image, s in zip(x, style, strict=True):
            own = scale * weight * s[None, :, None, None]
            if demodulate:
                own = own / (own.pow(2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            if up:
                wide = F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2)
                images.append(self.filter(wide, self.w[f"{name}.conv.blur.kernel"], 1, 1, 1))
            else:
                images.append(F.conv2d(image[None], own, padding=weight.shape[-1] // 2))
        return torch.cat(images)

    def filter(self, x, kernel, up, before, after):
        """Zero-stuff, pad, and sum over the taps of the flipped kernel."""
        n, c, h, w = x.shape
        stuffed = x.new_zeros(n, c, h * up, w * up)
        stuffed[:, :, ::up, ::up] = x
        padded = F.pad(stuffed, (before, after, before, after))
        size = padded.shape[-1] - 3
        taps = [(i, j) for i in range(4) for j in range(4)]
        return sum(kernel[3 - i, 3 - j] * padded[:, :, i : i + size, j : j + size] for i, j in taps)

    def styled(self, name, x, w, noise, *, up=False):
        x = self.modulated(name, x, w, demodulate=True, up=up)
        x = x + self.w[f"{name}.noise.weight"] * self.w[f"noises.noise_{noise}"]
        bias = self.w[f"{name}.activate.bias"].view(1, -1, 1, 1)
        return math.sqrt(2) * F.leaky_relu(x + bias, 0.2)

    def colours(self, name, x, w, image):
        y = self.modulated(name, x, w, demodulate=False) + self.w[f"{name}.bias"]
        if image is None:
            return y
        return y + self.filter(image, self.w[f"{name}.upsample.kernel"], 2, 2, 1)

    def synthesis(self, ws):
        x = self.w["input.input"].repeat(len(ws), 1, 1, 1)
        x = self.styled("conv1", x, ws[:, 0], 0)
        image, i = self.colours("to_rgb1", x, ws[:, 1], None), 0
        while f"to_rgbs.{i}.bias" in self.w:
            x = self.styled(f"convs.{2 * i}", x, ws[:, 2 * i + 1], 2 * i + 1, up=True)
            x = self.styled(f"convs.{2 * i + 1}", x, ws[:, 2 * i + 2], 2 * i + 2)
            image = self.colours(f"to_rgbs.{i}", x, ws[:, 2 * i + 3], image)
            i += 1
        return image


def close(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    assert float((got.double() - want).abs().max()) <= tolerance * float(want.abs().max())


def build(converted):
    network = converted.settings.build()
    network.load_state_dict(converted.weights, strict=True)
    return network.requires_grad_(False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rosinality.pt"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_images_are_those_of_the_twin(path, rng, zipped, size):
    weights = make_weights(size)
    average = torch.randn(16, generator=rng)
    content = {"g_ema": weights, "latent_avg": average}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    converted = convert_checkpoint(path)
    network, twin = build(converted), Twin(weights)
    assert converted.settings.resolution == size and converted.settings.num_classes == 0
    assert converted.remarks == ()
    z = torch.randn(3, 16, generator=rng)
    w = twin.mapping(z.double())
    mixed = torch.randn(3, network.spec.num_ws, 16, generator=rng)
    close(network.map(z)[:, 0], w, 1e-5)
    close(network(mixed), twin.synthesis(mixed.double()))
    close(network.map(z, truncation_psi=0.7)[:, 0], average + 0.7 * (w - average), 1e-5)


def test_weights_close_to_zero_meet_the_same_epsilon(rng):
    """Where the squares of the weights are near 1e-8 the scale does not cancel by itself."""
    weights = make_weights(8)
    for name in ("conv1.conv.weight", "convs.0.conv.weight"):
        weights[name] *= 1e-4
    converted = convert_rosinality(weights, torch.zeros(16))
    ws = torch.randn(2, 4, 16, generator=rng)
    close(build(converted)(ws), Twin(weights).synthesis(ws.double()))


def test_the_average_is_computed_where_the_file_has_none(path, rng):
    weights = make_weights(8)
    # written by its training: with the command line, and the other networks
    args = argparse.Namespace(size=8, batch=4, path="data")
    torch.save({"g": weights, "d": {}, "g_ema": weights, "args": args, "ada_aug_p": 0.0}, path)
    average, again = (convert_checkpoint(path, n).weights["mapping.w_avg"] for n in ("G_ema", "G"))
    assert torch.equal(average, again)
    z = torch.randn(20_000, 16, generator=rng, dtype=torch.float64)
    drawn = Twin(weights).mapping(z)
    error = (average - drawn.mean(dim=0)).abs() / drawn.std(dim=0)
    assert float(error.max()) < 0.06


@pytest.mark.parametrize("multiplier, base", [(2, 32768), (1, 16384)])
def test_the_original_sizes_give_the_original_options(multiplier, base):
    """The table of channels of that project, at 256 px."""
    features = dict.fromkeys((4, 8, 16, 32), 512) | {
        r: c * multiplier for r, c in ((64, 256), (128, 128), (256, 64))
    }
    assert channel_rule(features) == (base, 512)
    with pytest.raises(GeneratorError, match=r"follow no rule.*128 at 64 px"):
        channel_rule({**features, 64: 128, 128: 256})


def change(weights, **changes):
    changed = {**weights, **{k.replace("__", "."): v for k, v in changes.items()}}
    return {k: v for k, v in changed.items() if v is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noises__noise_2": None}, "no tensor 'noises.noise_2'"),
        ({"conv1__conv__weight": torch.ones(3)}, "'conv1.conv.weight' has another shape"),
        ({"conv1__noise__weight": 3}, "no tensor 'conv1.noise.weight'"),
        ({"style__1__weight": None}, "no tensor 'style.1.weight'"),
        ({"style__2__bias": torch.ones(7)}, r"mapping\.fc1\.bias"),
        ({"convs__0__conv__blur__kernel": torch.ones(4, 4)}, "different low-pass filters"),
        ({"input__input": torch.ones(1, 12, 4, 5)}, r"synthesis\.b4\.const"),
        ({"to_rgb1__bias": torch.ones(1, 3, 1, 1, dtype=torch.int64)}, "no tensor 'to_rgb1.bias'"),
        ({f"style__{i}__weight": None for i in (1, 2, 3)}, "got 0 style layers"),
    ],
)
def test_files_that_are_not_whole(path, changes, message):
    torch.save({"g_ema": change(make_weights(8), **changes)}, path)
    with pytest.raises(GeneratorError, match=message):
        convert_checkpoint(path)


def test_other_contents_are_named(path):
    for content, message in (
        ({"model": {}}, "no generator of a family that hpd knows: got no tensors at all"),
        ([1], "got no tensors at all"),
        ({"g_ema": make_weights(8), "latent_avg": torch.ones(3)}, r"average w .* got \(3,\)"),
    ):
        torch.save(content, path)
        with pytest.raises(GeneratorError, match=message):
            convert_checkpoint(path)
    with pytest.raises(GeneratorError, match="cannot open"):
        convert_checkpoint(path.with_name("none.pt"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_is_named_and_not_run(path, zipped):
    sprung = path.with_name("sprung")
    content = {"g_ema": make_weights(8), "args": Runs(f"touch {sprung}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(GeneratorError, match=r"refused (posix|nt)\.system"):
        convert_checkpoint(path)
    assert inspect_checkpoint(path).refused in (("posix.system",), ("nt.system",))
    assert not sprung.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused(path, rng, zipped):
    torch.save({"g_ema": make_weights(4)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for end in range(0, len(content) - 1, len(content) // 40):
        path.write_bytes(content[:end])
        with pytest.raises(GeneratorError):
            convert_checkpoint(path)
        inspect_checkpoint(path)
