"""Read the checkpoints of the widespread PyTorch StyleGAN2 by rosinality.

Its networks compute the same functions with other names, and with other scales at run time:

- mapping and style layers are equal: ``x W^T * lr / sqrt(in) + lr * b`` on both sides;
- its convolutions scale the weight by ``1 / sqrt(I k k)`` before they demodulate, here nothing
  does. Demodulation cancels the scale but for its epsilon, so the scale is put into the weight,
  which makes both sides equal also where weights are close to zero;
- its colour layers are not demodulated and scale by ``1 / sqrt(I)``, as here: equal;
- its filters are stored with the gain of upsampling, a factor of 4.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.checkpoints.nodes import shown
from generators.checkpoints.reader import MAX_FILE_BYTES
from generators.checkpoints.source import open_source
from generators.checkpoints.stylegan2 import check_weights
from generators.ops import lowpass_filter
from generators.stylegan2 import StyleGAN2, StyleGAN2Settings
from hpd.errors import ConfigError, GeneratorError

_UP_GAIN = 4.0
_AVERAGE_DRAWS, _AVERAGE_SEED = 10_000, 0
_USUAL_CHANNEL_BASE = 32768
_MAX_BLOCKS = 13


def read_rosinality(
    path: str | Path, network: str = "g_ema"
) -> tuple[StyleGAN2Settings, dict[str, Tensor]]:
    """Read a generator from a rosinality ``.pt`` file, without running code from it.

    Args:
        path: a file written by ``torch.save``, zipped or in the older format: the result of its
            training or of its conversion from TensorFlow.
        network: ``"g_ema"``, or ``"g"`` where a training checkpoint has it.

    Returns:
        Settings and a state dict in official names that their network loads strictly. Where the
        file has no ``latent_avg``, ``mapping.w_avg`` is the mean of 10,000 draws of a fixed seed.

    Raises:
        GeneratorError: if the file cannot be read safely or holds no such generator.
    """
    content = _load(Path(path).expanduser())
    if not isinstance(content, dict) or not isinstance(content.get(network), Mapping):
        keys = ", ".join(shown(str(k)) for k in content) if isinstance(content, dict) else "none"
        raise GeneratorError(
            f"{path} holds no generator {network!r}", got=f"keys {keys}", expected="a dict with it"
        )
    try:
        return convert_rosinality(content[network], content.get("latent_avg"))
    except GeneratorError as error:
        raise GeneratorError(f"cannot convert {path}: {error}") from None


def _load(path: Path) -> Any:
    with open_source(path, MAX_FILE_BYTES):
        pass
    try:
        # its training checkpoints keep their command line
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch gives no list of what a damaged file can raise
    except Exception as error:
        raise GeneratorError(
            f"cannot read {path} as a torch file", got=_reason(error),
            fix="`inspect_checkpoint` lists what is in it.",
        ) from None  # fmt: skip


def _reason(error: Exception) -> str:
    """Return the part of torch's message that names what it refused."""
    text = str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", text)
    if refused:
        return f"the refused name {refused[1]}"
    return shown(f"{type(error).__name__}: {text.splitlines()[0] if text else ''}")


def convert_rosinality(
    weights: Mapping[Any, Any], latent_avg: object = None
) -> tuple[StyleGAN2Settings, dict[str, Tensor]]:
    """Convert the state dict of a rosinality generator to official names and layout.

    Args:
        weights: its ``g_ema``.
        latent_avg: average w, [D], or None to compute it.

    Raises:
        GeneratorError: naming the first tensor that is missing or of another shape.
    """
    source = _Weights(weights)
    settings = _settings(source)
    found = _mapping(source, settings) | _synthesis(source, settings)
    if isinstance(latent_avg, Tensor) and latent_avg.numel() == settings.w_dim:
        found["mapping.w_avg"] = latent_avg.detach().reshape(-1).float()
    elif latent_avg is not None:
        raise GeneratorError("latent_avg is no vector w", expected=f"{settings.w_dim} values")
    check_weights(settings, {"mapping.w_avg": torch.zeros(settings.w_dim), **found})
    if latent_avg is None:
        found["mapping.w_avg"] = _average(settings, found)
    return settings, found


class _Weights:
    """A state dict whose missing tensors are named."""

    def __init__(self, weights: Mapping[Any, Any]) -> None:
        self._weights = weights

    def names(self, pattern: str) -> list[str]:
        return [n for n in self._weights if isinstance(n, str) and re.fullmatch(pattern, n)]

    def take(self, name: str, *dimensions: int) -> Tensor:
        """Return a tensor as float32; `dimensions` are the numbers it may have."""
        value = self._weights.get(name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise GeneratorError(f"there is no tensor {name!r}")
        if value.ndim not in dimensions or value.numel() == 0:
            raise GeneratorError(
                f"the tensor {name!r} has another shape than it should",
                got=tuple(value.shape), expected=f"{dimensions[0]} dimensions",
            )  # fmt: skip
        return value.detach().float()


def _settings(source: _Weights) -> StyleGAN2Settings:
    """Deduce the constructor's arguments from names and shapes."""
    blocks = len(source.names(r"to_rgbs\.\d{1,3}\.bias"))
    layers = len(source.names(r"style\.\d{1,3}\.weight"))
    if not layers or blocks > _MAX_BLOCKS:
        raise GeneratorError("no rosinality generator", got=f"{layers} style layers")
    first = source.take("style.1.weight", 2)
    # [1, O, I, k, k]: the first block has its features twice
    features = {4: source.take("conv1.conv.weight", 5).shape[1]}
    for block in range(blocks):
        features[8 * 2**block] = source.take(f"convs.{2 * block + 1}.conv.weight", 5).shape[1]
    base, most = _channels(features)
    try:
        return StyleGAN2Settings.read(
            {
                "resolution": 4 * 2**blocks, "z_dim": first.shape[1], "w_dim": first.shape[0],
                "channels": source.take("to_rgb1.bias", 4).shape[1], "num_classes": 0,
                "mapping_layers": layers, "channel_base": base, "channel_max": most,
            }
        )  # fmt: skip
    except ConfigError as error:
        raise GeneratorError(f"no rosinality generator: {error}") from None


def _channels(features: Mapping[int, int]) -> tuple[int, int]:
    """Return base and maximum so that ``features[r] == min(base // r, maximum)``."""
    most = max(features.values())
    for base in (_USUAL_CHANNEL_BASE, *(count * r for r, count in features.items())):
        if all(min(base // r, most) == count for r, count in features.items()):
            return base, most
    raise GeneratorError(
        "the numbers of features follow no rule that hpd's StyleGAN2 has",
        got=", ".join(f"{count} at {r} px" for r, count in features.items()),
        expected="min(base // resolution, maximum)",
    )


def _mapping(source: _Weights, settings: StyleGAN2Settings) -> dict[str, Tensor]:
    found = {}
    for i in range(settings.mapping_layers):
        # style.0 is the normalisation of z
        found[f"mapping.fc{i}.weight"] = source.take(f"style.{i + 1}.weight", 2)
        found[f"mapping.fc{i}.bias"] = source.take(f"style.{i + 1}.bias", 1)
    return found


def _synthesis(source: _Weights, settings: StyleGAN2Settings) -> dict[str, Tensor]:
    kernel = _kernel(source)
    found = {
        "b4.const": source.take("input.input", 4)[0],
        "b4.resample_filter": kernel,
        **_layer(source, "b4.conv1", "conv1", 0, kernel),
        **_colours(source, "b4.torgb", "to_rgb1"),
    }
    blocks = settings.resolution.bit_length() - 3
    for i in range(blocks):
        block = f"b{8 * 2**i}"
        found[f"{block}.resample_filter"] = kernel
        found |= _layer(source, f"{block}.conv0", f"convs.{2 * i}", 2 * i + 1, kernel)
        found |= _layer(source, f"{block}.conv1", f"convs.{2 * i + 1}", 2 * i + 2, kernel)
        found |= _colours(source, f"{block}.torgb", f"to_rgbs.{i}")
    return {f"synthesis.{name}": value for name, value in found.items()}


def _kernel(source: _Weights) -> Tensor:
    """Return the low-pass filter, which must be the same everywhere."""
    names = source.names(r"(convs|to_rgbs)\.\d{1,3}\.(conv\.blur|upsample)\.kernel")
    if not names:
        return lowpass_filter()
    kernels = [source.take(name, 2) / _UP_GAIN for name in names]
    if any(k.shape != kernels[0].shape or not torch.allclose(k, kernels[0]) for k in kernels):
        raise GeneratorError("the layers have different low-pass filters")
    return kernels[0]


def _layer(source: _Weights, to: str, name: str, index: int, kernel: Tensor) -> dict[str, Tensor]:
    weight = source.take(f"{name}.conv.weight", 5)[0]
    noise = source.take(f"noises.noise_{index}", 4)
    return {
        f"{to}.affine.weight": source.take(f"{name}.conv.modulation.weight", 2),
        f"{to}.affine.bias": source.take(f"{name}.conv.modulation.bias", 1),
        f"{to}.weight": weight / math.sqrt(weight[0].numel()),
        f"{to}.bias": source.take(f"{name}.activate.bias", 1, 4).reshape(-1),
        f"{to}.noise_strength": source.take(f"{name}.noise.weight", 1)[0],
        f"{to}.noise_const": noise[0, 0],
        f"{to}.resample_filter": kernel,
    }


def _colours(source: _Weights, to: str, name: str) -> dict[str, Tensor]:
    return {
        f"{to}.affine.weight": source.take(f"{name}.conv.modulation.weight", 2),
        f"{to}.affine.bias": source.take(f"{name}.conv.modulation.bias", 1),
        f"{to}.weight": source.take(f"{name}.conv.weight", 5)[0],
        f"{to}.bias": source.take(f"{name}.bias", 4).reshape(-1),
    }


@torch.no_grad()
def _average(settings: StyleGAN2Settings, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the mean w of many draws."""
    network: StyleGAN2 = settings.build()
    network.load_state_dict({**weights, "mapping.w_avg": torch.zeros(settings.w_dim)})
    rng = torch.Generator().manual_seed(_AVERAGE_SEED)
    return network.class_average(None, _AVERAGE_DRAWS, rng)[0]
