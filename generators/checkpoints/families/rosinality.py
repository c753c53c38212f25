"""Convert the tensors of the widespread PyTorch StyleGAN2 by rosinality, and of its relatives.

Its networks compute the same functions with other names, and with other scales at run time:

- mapping and style layers are equal: ``x W^T * lr / sqrt(in) + lr * b`` on both sides;
- its convolutions scale the weight by ``1 / sqrt(I k k)`` before they demodulate, here nothing
  does. Demodulation cancels the scale but for its epsilon, so the scale is put into the weight,
  which makes both sides equal also where weights are close to zero;
- its colour layers are not demodulated and scale by ``1 / sqrt(I)``, as here: equal;
- its filters are stored with the gain of upsampling, a factor of 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from generators.checkpoints.converted import AVERAGES, Converted, complete
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.scope import Scope
from generators.families.stylegan2 import StyleGAN2Settings
from generators.ops import lowpass_filter
from hpd.errors import ConfigError, GeneratorError

ANCHORS = (
    "input.input", "style.1.weight", "conv1.conv.weight", "conv1.conv.modulation.weight",
    "to_rgb1.conv.weight", "to_rgb1.conv.modulation.weight",
)  # fmt: skip
"""Names that the state dict of every such generator has."""

_UP_GAIN = 4.0
_USUAL_CHANNEL_BASE = 32768
_MAX_BLOCKS = 13
_OWN = frozenset(("input", "style", "conv1", "to_rgb1", "convs", "to_rgbs", "noises"))


def convert_rosinality(weights: Mapping[str, Tensor], average: Tensor | None = None) -> Converted:
    """Convert the state dict of a rosinality generator to official names and layout.

    Args:
        weights: its ``g_ema``.
        average: w, [D], or vectors w, [..., D], whose mean is taken; None to compute it.

    Raises:
        GeneratorError: naming the first tensor that is missing, of another shape or not finite.
    """
    return _convert(Scope(weights), average)


def rosinality_from_scope(scope: Scope) -> Converted:
    """Convert such a generator where it stands in a checkpoint, with the average beside it.

    Raises:
        GeneratorError: as `convert_rosinality`.
    """
    name = scope.around(AVERAGES)
    return _convert(scope, None if name is None else scope.whole(name))


def _convert(scope: Scope, average: Tensor | None) -> Converted:
    settings = _settings(scope)
    converted = complete(settings, _mapping(scope, settings) | _synthesis(scope, settings), average)
    left = scope.left()
    own = [name for name in left if name.partition(".")[0] in _OWN]
    if own:
        raise GeneratorError(
            "the generator has tensors that rosinality's has not", got=shown(own[0]),
            fix="The network would not compute the same images, so it is not converted.",
        )  # fmt: skip
    return converted.beside(list(dict.fromkeys(name.partition(".")[0] for name in left)))


def _settings(scope: Scope) -> StyleGAN2Settings:
    """Deduce the constructor's arguments from names and shapes."""
    blocks = len(scope.names(r"to_rgbs\.\d{1,3}\.bias"))
    layers = len(scope.names(r"style\.\d{1,3}\.weight"))
    if not layers or blocks > _MAX_BLOCKS:
        raise GeneratorError("no rosinality generator", got=f"{layers} style layers")
    first = scope.take("style.1.weight", 2)
    # [1, O, I, k, k]: the first block has its features twice
    features = {4: scope.take("conv1.conv.weight", 5).shape[1]}
    for block in range(blocks):
        features[8 * 2**block] = scope.take(f"convs.{2 * block + 1}.conv.weight", 5).shape[1]
    base, most = channel_rule(features)
    try:
        return StyleGAN2Settings.read(
            {
                "resolution": 4 * 2**blocks, "z_dim": first.shape[1], "w_dim": first.shape[0],
                "channels": scope.take("to_rgb1.bias", 4).shape[1], "num_classes": 0,
                "mapping_layers": layers, "channel_base": base, "channel_max": most,
            }
        )  # fmt: skip
    except ConfigError as error:
        raise GeneratorError(f"no rosinality generator: {error}") from None


def channel_rule(features: Mapping[int, int]) -> tuple[int, int]:
    """Return base and maximum so that ``features[r] == min(base // r, maximum)``.

    Raises:
        GeneratorError: if there are none.
    """
    most = max(features.values())
    for base in (_USUAL_CHANNEL_BASE, *(count * r for r, count in features.items())):
        if all(min(base // r, most) == count for r, count in features.items()):
            return base, most
    raise GeneratorError(
        "the numbers of features follow no rule that hpd's StyleGAN2 has",
        got=", ".join(f"{count} at {r} px" for r, count in features.items()),
        expected="min(base // resolution, maximum)",
    )


def _mapping(scope: Scope, settings: StyleGAN2Settings) -> dict[str, Tensor]:
    found = {}
    for i in range(settings.mapping_layers):
        # style.0 is the normalisation of z
        found[f"mapping.fc{i}.weight"] = scope.take(f"style.{i + 1}.weight", 2)
        found[f"mapping.fc{i}.bias"] = scope.take(f"style.{i + 1}.bias", 1)
    return found


def _synthesis(scope: Scope, settings: StyleGAN2Settings) -> dict[str, Tensor]:
    kernel = _kernel(scope)
    found = {
        "b4.const": scope.take("input.input", 4)[0],
        "b4.resample_filter": kernel,
        **_layer(scope, "b4.conv1", "conv1", 0, kernel),
        **_colours(scope, "b4.torgb", "to_rgb1"),
    }
    blocks = settings.resolution.bit_length() - 3
    for i in range(blocks):
        block = f"b{8 * 2**i}"
        found[f"{block}.resample_filter"] = kernel
        found |= _layer(scope, f"{block}.conv0", f"convs.{2 * i}", 2 * i + 1, kernel)
        found |= _layer(scope, f"{block}.conv1", f"convs.{2 * i + 1}", 2 * i + 2, kernel)
        found |= _colours(scope, f"{block}.torgb", f"to_rgbs.{i}")
    return {f"synthesis.{name}": value for name, value in found.items()}


def _kernel(scope: Scope) -> Tensor:
    """Return the low-pass filter, which must be the same everywhere."""
    names = scope.names(r"(convs|to_rgbs)\.\d{1,3}\.(conv\.blur|upsample)\.kernel")
    if not names:
        return lowpass_filter()
    kernels = [scope.take(name, 2) / _UP_GAIN for name in names]
    if any(k.shape != kernels[0].shape or not torch.allclose(k, kernels[0]) for k in kernels):
        raise GeneratorError("the layers have different low-pass filters")
    return kernels[0]


def _layer(scope: Scope, to: str, name: str, index: int, kernel: Tensor) -> dict[str, Tensor]:
    weight = scope.take(f"{name}.conv.weight", 5)[0]
    found = {
        f"{to}.affine.weight": scope.take(f"{name}.conv.modulation.weight", 2),
        f"{to}.affine.bias": scope.take(f"{name}.conv.modulation.bias", 1),
        f"{to}.weight": weight / math.sqrt(weight[0].numel()),
        f"{to}.bias": scope.take(f"{name}.activate.bias", 1, 4).reshape(-1),
        f"{to}.noise_strength": scope.take(f"{name}.noise.weight", 1)[0],
        f"{to}.resample_filter": kernel,
    }
    # some published files have none at all; one that lacks some of them is damaged
    if scope.names(r"noises\.noise_\d{1,3}"):
        found[f"{to}.noise_const"] = scope.take(f"noises.noise_{index}", 4)[0, 0]
    return found


def _colours(scope: Scope, to: str, name: str) -> dict[str, Tensor]:
    return {
        f"{to}.affine.weight": scope.take(f"{name}.conv.modulation.weight", 2),
        f"{to}.affine.bias": scope.take(f"{name}.conv.modulation.bias", 1),
        f"{to}.weight": scope.take(f"{name}.conv.weight", 5)[0],
        f"{to}.bias": scope.take(f"{name}.bias", 4).reshape(-1),
    }
