"""Tiny random networks of every family, in which every term is active."""

from __future__ import annotations

import math

import torch
from conftest import tiny_generator

from generators.base import FAMILIES, Generator

_ALIAS_FREE = {
    "resolution": 16, "channels": 2, "z_dim": 8, "w_dim": 8, "num_classes": 3,
    "channel_base": 64, "channel_max": 12, "num_layers": 4, "margin": 2,
}  # fmt: skip
_XL = {"num_embeddings": 5, "embedding_dim": 6}

_TINY_AUTOENCODER = {
    "resolution": 16, "channels": 2, "latent_channels": 3,
    "stages": [
        {"width": 12, "blocks": 2, "pooled": True},
        {"width": 8, "blocks": 1},
        {"width": 8, "blocks": 1},
        {"width": 8, "blocks": 1},
    ],
    "encoder_stages": [{"width": 8, "blocks": 1}] * 3 + [{"width": 8, "blocks": 1, "pooled": True}],
}  # fmt: skip


def super_resolution(stem: dict, sides: list[int], head_layers: int = 7) -> list[dict]:
    """Layers of a super-resolution network of StyleGAN-XL on a stem, as its training stacks them.

    Of what is below, the last critically sampled layers and the colours go, and a stage of
    `head_layers` layers and colours comes on top, whose cutoffs and stopbands rise from those of
    the layer that is left, geometrically as in a stem. An index is left out at each seam.

    Args:
        stem: options of the stem.
        sides: of the images after each stage.
        head_layers: of a stage, without its colours.

    Source: Sauer et al., SIGGRAPH 2022, section 3.2, and the layers of its checkpoints.
    """
    options = FAMILIES.parse({"kind": "stylegan_xl", **stem})
    critical = options.num_critical
    layers = [layer.model_dump() for layer in options.plan()]
    for side in sides:
        layers = layers[: -critical - 1]
        below = {k.removeprefix("out_"): v for k, v in layers[-1].items() if k.startswith("out_")}
        rest = range(1, head_layers + 1)
        bands = [below, *(_band(options, below, side, index, head_layers) for index in rest)]
        first = int(layers[-1]["name"].split("_")[0][1:]) + 2
        for i, after in enumerate(bands):
            before = bands[i - 1] if i else below
            ends = {f"in_{k}": v for k, v in before.items()}
            ends |= {f"out_{k}": v for k, v in after.items()}
            name = f"L{first + i}_{after['size']}_{after['channels']}"
            critically = i >= head_layers - critical
            layers.append({"name": name, "critically_sampled": critically, **ends})
        layers[-1]["to_rgb"] = True
    return layers


def _band(options, below: dict, side: int, index: int, head_layers: int) -> dict:
    """What layer `index` of a stage gives out."""
    last, critical = side / 2, options.num_critical
    exponent = min(index / (head_layers - critical), 1)
    stopband = below["cutoff"] + below["half_width"]
    cutoff = below["cutoff"] * (last / below["cutoff"]) ** exponent
    stopband *= (last * options.last_stopband_rel / stopband) ** exponent
    rate = int(2 ** math.ceil(math.log2(min(2 * stopband, side))))
    features = round(min(options.channel_base / 2 / cutoff, options.channel_max))
    return {
        "sampling_rate": rate, "cutoff": cutoff, "half_width": max(stopband, rate / 2) - cutoff,
        "size": side if index >= head_layers - 1 else rate + 2 * options.margin,
        "channels": options.channels if index == head_layers else features,
    }  # fmt: skip


def xl_of_128_pixels(share: int = 1) -> dict:
    """A StyleGAN-XL of 128 px for ImageNet, a stem of 16 px under three stages.

    Args:
        share: by which features are divided, and the widths of z, w and the embedding.
    """
    stem = {
        "resolution": 16, "z_dim": 64, "w_dim": 512 // share, "num_classes": 1000,
        "embedding_dim": 320 // share, "channel_base": 32768 // share,
        "channel_max": 1024 // share, "num_layers": 10,
    }  # fmt: skip
    kept = ("z_dim", "w_dim", "num_classes", "embedding_dim")
    layers = super_resolution(stem, [32, 64, 128])
    return {
        "kind": "stylegan_xl",
        "resolution": 128,
        "layers": layers,
        **{k: stem[k] for k in kept},
    }


def stacked_layers() -> list[dict]:
    """Layers of a network of 16 px on the first layers of one of 8 px; an index is missing."""
    stem = FAMILIES.parse({"kind": "stylegan_xl", **_ALIAS_FREE, **_XL, "resolution": 8})
    before = stem.plan()[1].model_dump()
    band = {k.removeprefix("out_"): v for k, v in before.items() if k.startswith("out_")}
    wide = {"channels": 5, "size": 20, "sampling_rate": 16, "cutoff": 8.0, "half_width": 1.8}
    cropped = {**wide, "size": 16}
    colours = {**cropped, "channels": 2}
    layers = [layer.model_dump() for layer in stem.plan()[:2]]
    for name, given, made in (
        ("L3_20_5", band, wide), ("L4_16_5", wide, cropped), ("L5_16_2", cropped, colours)
    ):  # fmt: skip
        ends = {f"in_{k}": v for k, v in given.items()} | {f"out_{k}": v for k, v in made.items()}
        layers.append({"name": name, "critically_sampled": True, **ends})
    layers[-1]["to_rgb"] = True
    return layers


def _stacked() -> dict:
    shared = {k: _ALIAS_FREE[k] for k in ("resolution", "channels", "z_dim", "w_dim")}
    return {**shared, **_XL, "num_classes": 3, "layers": stacked_layers()}


VARIANTS = {
    **{
        f"stylegan2-{name}": {"kind": "stylegan2", "architecture": name}
        for name in ("skip", "resnet", "orig")
    },
    "stylegan3-t": {"kind": "stylegan3", **_ALIAS_FREE},
    "stylegan3-r": {"kind": "stylegan3", **_ALIAS_FREE, "conv_kernel": 1, "radial_filters": True},
    "stylegan_xl-stem": {"kind": "stylegan_xl", **_ALIAS_FREE, **_XL},
    "stylegan_xl-super": {"kind": "stylegan_xl"},
    "tiny_autoencoder": {"kind": "tiny_autoencoder", **_TINY_AUTOENCODER},
    "tiny_autoencoder-stem": {
        "kind": "tiny_autoencoder", **_TINY_AUTOENCODER, "encoder_stem": [4, 8],
        "encoder_stages": [{"width": 8, "blocks": 1}, {"width": 8, "blocks": 1, "pooled": True}],
    },
    "kl_autoencoder": {
        "kind": "kl_autoencoder", "resolution": 16, "channels": 2, "latent_channels": 3,
        "widths": [4, 8, 8], "blocks": 1, "groups": 2, "shift": 0.1,
    },
}  # fmt: skip


def tiny_network(variant: str, **changes) -> Generator:
    """A network of one of `VARIANTS`, with other options where wanted.

    3 classes, z and w of 8; an autoencoder has no classes, and as many numbers as its latents.
    """
    options = VARIANTS[variant] | changes
    if variant == "stylegan_xl-super":
        options = {**_stacked(), **options}
    if options["kind"] == "stylegan2":
        larger = {"resolution": 16, "channels": 2, "channel_base": 128}
        return tiny_generator(**larger | {k: v for k, v in options.items() if k != "kind"})
    network = FAMILIES.parse(options).build()
    rng = torch.Generator().manual_seed(1)
    network.initialise(rng)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("magnitude_ema"):
                value.uniform_(0.5, 2, generator=rng)
            elif name.endswith(("bias", "w_avg", "input.affine.weight")):
                value.add_(torch.randn(value.shape, generator=rng), alpha=0.3)
    return network.requires_grad_(False)
