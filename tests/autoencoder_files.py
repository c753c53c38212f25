"""Files of tiny random autoencoders as others publish them, and their networks in plain torch."""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional


class _Block(nn.Module):
    """A residual block in the published names."""

    def __init__(self, width, pooled=False):
        super().__init__()

        def conv():
            return nn.Conv2d(width, width, 3, padding=1)

        self.conv = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False), nn.GroupNorm(4, 4 * width), nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )  # fmt: skip

    def forward(self, x):
        if self.pool is not None:
            x = x + self.pool(x)
        return functional.relu(self.conv(x) + x)


class _Clamp(nn.Module):
    def forward(self, x):
        return 3 * torch.tanh(x / 3)


def _up(inputs, outputs):
    return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]


def _down(inputs, outputs, bias=False):
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=bias)


def published(latent=4, pooled=False, stem=False, width=8):
    """Decoder and encoder of a factor of 4, chains of numbered layers, random and seeded.

    With a stem the factor is 8, as of those of 32 in the wild, and the decoder becomes narrower.
    """
    # constructors of torch draw weights, globally
    with torch.random.fork_rng():
        wide = 2 * width if stem else width
        decoder = [
            _Clamp(), nn.Conv2d(latent, wide, 3, padding=1), nn.ReLU(), _Block(wide, pooled),
            _Block(wide, pooled), *_up(wide, width), _Block(width), *_up(width, width),
            *([_Block(width), *_up(width, width)] if stem else []),
            _Block(width), nn.Conv2d(width, 3, 3, padding=1),
        ]  # fmt: skip
        encoder = [nn.Conv2d(3, width, 3, padding=1)]
        if stem:
            encoder = [_down(3, 4, True), nn.ReLU(), _down(4, width, True), nn.ReLU()]
        encoder += [
            _Block(width), _down(width, width), _Block(width), _Block(width),
            *([] if stem else [_down(width, width), _Block(width, pooled)]),
            nn.Conv2d(width, latent, 3, padding=1),
        ]  # fmt: skip
    networks = nn.Sequential(*decoder), nn.Sequential(*encoder)
    rng = torch.Generator().manual_seed(0)
    for network in networks:
        for value in network.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=rng) / math.sqrt(value[0].numel() or 1))
        network.requires_grad_(False)
    return networks


def write_pair(folder, networks, name="taesd"):
    """Write both files; return that of the decoder."""
    for part, network in zip(("decoder", "encoder"), networks, strict=True):
        torch.save(network.state_dict(), folder / f"{name}_{part}.pth")
    return folder / f"{name}_decoder.pth"


def write_folder(folder, weights, config, card=""):
    """Write a folder as diffusers does."""
    folder.mkdir(exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        folder / "diffusion_pytorch_model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config))
    if card:
        (folder / "README.md").write_text(card)
    return folder


def in_diffusers_names(networks):
    """The state dict of `AutoencoderTiny`, whose decoder does not count the clamp."""
    decoder, encoder = (network.state_dict() for network in networks)
    found = {f"encoder.layers.{name}": value for name, value in encoder.items()}
    for name, value in decoder.items():
        number, _, rest = name.partition(".")
        found[f"decoder.layers.{int(number) - 1}.{rest}"] = value
    return found


KL_CONFIG = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 3,
    "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "scaling_factor": 0.5, "shift_factor": 0.1, "sample_size": 64,
}  # fmt: skip


def kl_weights(legacy=False, quantised=True):
    """The random state dict of an `AutoencoderKL` of `KL_CONFIG`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def pair(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def resnet(name, inputs, outputs):
        pair(f"{name}.norm1", inputs)
        pair(f"{name}.conv1", outputs, inputs, 3, 3)
        pair(f"{name}.norm2", outputs)
        pair(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            pair(f"{name}.conv_shortcut", outputs, inputs, 1, 1)

    def middle(name):
        for number in range(2):
            resnet(f"{name}.resnets.{number}", 8, 8)
        pair(f"{name}.attentions.0.group_norm", 8)
        new, old = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")
        for part in old if legacy else new:
            pair(f"{name}.attentions.0.{part}", 8, 8)

    pair("encoder.conv_in", 4, 3, 3, 3)
    resnet("encoder.down_blocks.0.resnets.0", 4, 4)
    pair("encoder.down_blocks.0.downsamplers.0.conv", 4, 4, 3, 3)
    resnet("encoder.down_blocks.1.resnets.0", 4, 8)
    middle("encoder.mid_block")
    pair("encoder.conv_norm_out", 8)
    pair("encoder.conv_out", 6, 8, 3, 3)
    if quantised:
        pair("quant_conv", 6, 6, 1, 1)
        pair("post_quant_conv", 3, 3, 1, 1)
    pair("decoder.conv_in", 8, 3, 3, 3)
    middle("decoder.mid_block")
    for number in range(2):
        resnet(f"decoder.up_blocks.0.resnets.{number}", 8, 8)
    pair("decoder.up_blocks.0.upsamplers.0.conv", 8, 8, 3, 3)
    resnet("decoder.up_blocks.1.resnets.0", 8, 4)
    resnet("decoder.up_blocks.1.resnets.1", 4, 4)
    pair("decoder.conv_norm_out", 4)
    pair("decoder.conv_out", 3, 4, 3, 3)
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=rng) / math.sqrt(math.prod(shape[1:]))
        for name, shape in shapes.items()
    }


class KLTwin:
    """An `AutoencoderKL` straight from its state dict, one function a layer."""

    def __init__(self, weights, groups=2):
        self.weights, self.groups = weights, groups

    def _conv(self, name, x, padding=1, stride=1):
        weight = self.weights[f"{name}.weight"]
        return functional.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding)

    def _norm(self, name, x):
        grouped = x.reshape(len(x), self.groups, -1)
        variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
        x = ((grouped - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
        weight, bias = (self.weights[f"{name}.{part}"] for part in ("weight", "bias"))
        return x * weight[:, None, None] + bias[:, None, None]

    def _swish(self, x):
        return x * torch.sigmoid(x)

    def _resnet(self, name, x):
        y = self._conv(f"{name}.conv1", self._swish(self._norm(f"{name}.norm1", x)))
        y = self._conv(f"{name}.conv2", self._swish(self._norm(f"{name}.norm2", y)))
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self._conv(f"{name}.conv_shortcut", x, padding=0)
        return x + y

    def _attention(self, name, x):
        new, old = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")
        names = new if f"{name}.to_q.weight" in self.weights else old
        places = self._norm(f"{name}.group_norm", x).flatten(2).transpose(1, 2)

        def dense(part, values):
            weight, bias = (self.weights[f"{name}.{part}.{kind}"] for kind in ("weight", "bias"))
            return values @ weight.t() + bias

        q, k, v = (dense(part, places) for part in names[:3])
        mixed = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1) @ v
        return x + dense(names[3], mixed).transpose(1, 2).reshape(x.shape)

    def _middle(self, name, x):
        x = self._resnet(f"{name}.resnets.0", x)
        x = self._attention(f"{name}.attentions.0", x)
        return self._resnet(f"{name}.resnets.1", x)

    def decode(self, x):
        if "post_quant_conv.weight" in self.weights:
            x = self._conv("post_quant_conv", x, padding=0)
        x = self._middle("decoder.mid_block", self._conv("decoder.conv_in", x))
        for block in range(2):
            for number in range(2):
                x = self._resnet(f"decoder.up_blocks.{block}.resnets.{number}", x)
            if block == 0:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self._conv("decoder.up_blocks.0.upsamplers.0.conv", x)
        return self._conv("decoder.conv_out", self._swish(self._norm("decoder.conv_norm_out", x)))

    def encode(self, x):
        x = self._conv("encoder.conv_in", 2 * x - 1)
        x = self._resnet("encoder.down_blocks.0.resnets.0", x)
        x = functional.pad(x, (0, 1, 0, 1))
        x = self._conv("encoder.down_blocks.0.downsamplers.0.conv", x, padding=0, stride=2)
        x = self._middle("encoder.mid_block", self._resnet("encoder.down_blocks.1.resnets.0", x))
        x = self._conv("encoder.conv_out", self._swish(self._norm("encoder.conv_norm_out", x)))
        if "quant_conv.weight" in self.weights:
            x = self._conv("quant_conv", x, padding=0)
        return x[:, :3]
