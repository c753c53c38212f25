"""`AutoencoderKL` of diffusers: its names and options to those of this project's network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from generators.checkpoints.converted import Converted
from generators.checkpoints.families.stylegan2 import check_weights
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.scope import Scope
from generators.families.autoencoder import Convolution
from generators.families.kl_autoencoder import (
    KLAttention,
    KLAutoencoderSettings,
    KLBlock,
    KLEnd,
    KLMiddle,
)
from hpd.errors import ConfigError, GeneratorError

_FIXED = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# what the parts of attention are called, also in files of 2022
_ATTENTION: dict[str, tuple[str, ...]] = {
    "query": ("to_q", "query"),
    "key": ("to_k", "key"),
    "value": ("to_v", "value"),
    "out": ("to_out.0", "proj_attn"),
}
_LARGEST = 2**31


def kl_from_scope(scope: Scope, config: Mapping[str, Any]) -> Converted:
    """Convert an `AutoencoderKL`.

    Args:
        scope: its tensors.
        config: its options.

    Raises:
        GeneratorError: for an option that is not known, or a tensor that is missing, left over or
            of another shape.
    """
    settings = _settings(scope, config)
    network = _described(settings)
    weights: dict[str, Tensor] = {}
    for target, source, module in _modules(network, settings):
        weights |= _tensors(scope, source, target, module)
    check_weights(settings, weights)
    left = scope.left()
    if left:
        raise GeneratorError(
            "the autoencoder has tensors that the known one has not", got=shown(left[0]),
            fix="The network would not compute the same images, so it is not converted.",
        )  # fmt: skip
    return Converted(settings, weights)


def check_options(config: Mapping[str, Any], fixed: Mapping[str, object]) -> None:
    """Check that options have the values that are known.

    Raises:
        GeneratorError: naming the first that has another.
    """
    for name, wanted in fixed.items():
        if config.get(name, wanted) != wanted:
            raise GeneratorError(
                f"{name} of the autoencoder is not known", got=repr(config[name])[:80],
                expected=wanted,
            )  # fmt: skip


def _described(settings: KLAutoencoderSettings) -> nn.Module:
    """Return the network without memory for its weights."""
    with torch.device("meta"):
        return settings.build()


def _settings(scope: Scope, config: Mapping[str, Any]) -> KLAutoencoderSettings:
    """Return settings from options, and from what there is in the file."""
    _check(config)
    widths = config.get("block_out_channels", [64])
    options = {
        "channels": config.get("out_channels", 3),
        "latent_channels": config.get("latent_channels", 4),
        "widths": widths,
        "blocks": config.get("layers_per_block", 1),
        "groups": config.get("norm_num_groups", 32),
        "attention": bool(scope.names(r"decoder\.mid_block\.attentions\.0\..*")),
        "quantised": "post_quant_conv.weight" in scope,
        "encoder": "encoder.conv_in.weight" in scope,
        "scale": _number(config, "scaling_factor", 0.18215),
        "shift": _number(config, "shift_factor", 0.0),
    }
    least = 2 ** (len(widths) - 1) if isinstance(widths, list) and len(widths) < 32 else 1
    try:
        return KLAutoencoderSettings.read(options | {"resolution": max(128, least)})
    except ConfigError as error:
        raise GeneratorError(f"no autoencoder that is known: {error}") from None


def _check(config: Mapping[str, Any]) -> None:
    """Check that options are those of the one network that is known."""
    check_options(config, _FIXED)
    for name, kind in _BLOCKS.items():
        kinds = config.get(name, [kind])
        if not isinstance(kinds, list) or any(found != kind for found in kinds):
            got = repr(kinds)[:80]
            raise GeneratorError(f"{name} of the autoencoder is not known", got=got, expected=kind)
    if config.get("in_channels", 3) != config.get("out_channels", 3):
        raise GeneratorError(
            "the autoencoder gives other images than it takes",
            got=f"{config.get('out_channels')!r} channels", expected=config.get("in_channels", 3),
        )  # fmt: skip


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number of a config; null means the default."""
    value = config.get(name)
    if value is None:
        return default
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or abs(value) > _LARGEST:
        raise GeneratorError(f"{name} of the autoencoder is no number", got=repr(value)[:80])
    return float(value)


def _modules(
    network: nn.Module, settings: KLAutoencoderSettings
) -> Sequence[tuple[str, str, nn.Module]]:
    """Return the modules that have names in the file: ours, those of the file, the module."""
    found = [
        ("decoder.0.conv", "decoder.conv_in"),
        ("decoder.0.middle", "decoder.mid_block"),
    ]
    each, stages = settings.blocks + 1, len(settings.widths)
    for place in range(each * stages):
        stage, block = divmod(place, each)
        found.append((f"decoder.{place + 1}.block", f"decoder.up_blocks.{stage}.resnets.{block}"))
        if stage and not block:
            up = f"decoder.up_blocks.{stage - 1}.upsamplers.0.conv"
            found.append((f"decoder.{place + 1}.conv", up))
    found.append((f"decoder.{each * stages + 1}", "decoder"))
    if settings.quantised:
        found.append(("decoder.0.quant", "post_quant_conv"))
    if settings.encoder:
        found += _encoder_names(settings)
    return [(target, source, network.get_submodule(target)) for target, source in found]


def _encoder_names(settings: KLAutoencoderSettings) -> list[tuple[str, str]]:
    found = [
        ("encoder.conv", "encoder.conv_in"),
        ("encoder.middle", "encoder.mid_block"),
        ("encoder.end", "encoder"),
    ]
    number = 0
    for stage in range(len(settings.widths)):
        below = f"encoder.down_blocks.{stage}"
        if stage:
            halving = f"encoder.down_blocks.{stage - 1}.downsamplers.0.conv"
            found.append((f"encoder.layers.{number}", halving))
            number += 1
        for block in range(settings.blocks):
            found.append((f"encoder.layers.{number}", f"{below}.resnets.{block}"))
            number += 1
    return [*found, *([("encoder.quant", "quant_conv")] if settings.quantised else [])]


def _tensors(scope: Scope, source: str, target: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module by our names."""
    if isinstance(module, Convolution | nn.GroupNorm):
        return _pair(scope, source, target)
    names: dict[str, tuple[str, ...]]
    if isinstance(module, KLEnd):
        names = {"norm": ("conv_norm_out",), "conv": ("conv_out",)}
    elif isinstance(module, KLAttention):
        names = {"norm": ("group_norm",), **_ATTENTION}
    elif isinstance(module, KLMiddle):
        names = {f"blocks.{i}": (f"resnets.{i}",) for i in range(len(module.blocks))}
        if module.attention is not None:
            names["attention"] = ("attentions.0",)
    else:
        assert isinstance(module, KLBlock), "what `_modules` names"
        names = {name: (name,) for name in ("norm1", "conv1", "norm2", "conv2")}
        if module.shortcut is not None:
            names["shortcut"] = ("conv_shortcut",)
    found: dict[str, Tensor] = {}
    for own, theirs in names.items():
        there = [name for name in theirs if scope.names(rf"{source}\.{name}\..*")]
        part = module.get_submodule(own)
        found |= _tensors(scope, f"{source}.{(there or theirs)[0]}", f"{target}.{own}", part)
    return found


def _pair(scope: Scope, source: str, target: str) -> dict[str, Tensor]:
    """Return weight and bias; what acts on each place by itself may be a matrix."""
    weight = scope.take(f"{source}.weight", 4, 2, 1)
    weight = weight[:, :, None, None] if weight.ndim == 2 else weight
    return {f"{target}.weight": weight, f"{target}.bias": scope.take(f"{source}.bias", 1)}
