"""Convert a StyleGAN2 of which there are the tensors in official names, without its options.

Codes built on StyleGAN2-ADA save such state dicts, and so does ``torch.save`` of the state dict of
this project's own networks. What the options were follows from names and shapes, except for two:
the clamp of activations, and the learning rate multiplier of the mapping network.
"""

from __future__ import annotations

from typing import Any

from generators.checkpoints.converted import AVERAGES, Converted, complete
from generators.checkpoints.families.rosinality import channel_rule
from generators.checkpoints.families.stylegan2 import expected_weights
from generators.checkpoints.scope import Scope
from generators.families.stylegan2 import StyleGAN2Settings
from generators.ops import lowpass_filter
from hpd.errors import ConfigError, GeneratorError

ANCHORS = (
    "mapping.fc0.weight", "synthesis.b4.const", "synthesis.b4.conv1.weight",
    "synthesis.b4.conv1.affine.weight",
)  # fmt: skip
"""Names that the state dict of every such generator has."""

# what official training sets, to keep half precision within its range
_CLAMP = 256.0
_MAX_RESOLUTION, _MAX_LAYERS = 2**14, 64
_NAME = r"(mapping|synthesis)\..*"


def stylegan2_from_scope(scope: Scope) -> Converted:
    """Convert such a generator where it stands in a checkpoint.

    Raises:
        GeneratorError: naming the first tensor that is missing, of another shape or not finite.
    """
    settings = _settings(scope)
    dimensions = range(5)
    found = {name: scope.take(name, *dimensions) for name in scope.names(_NAME)}
    # some codes save parameters alone: no filters, noise or average
    for name in expected_weights(settings):
        if name.endswith("resample_filter"):
            found.setdefault(name, lowpass_filter())
    beside = None if "mapping.w_avg" in found else scope.around(AVERAGES)
    converted = complete(settings, found, None if beside is None else scope.whole(beside))
    others = list(dict.fromkeys(name.partition(".")[0] for name in scope.left()))
    return converted.beside(others).adding(
        f"it does not say its clamp of activations: {_CLAMP:g}, as in official training",
        conv_clamp=f"not in the file: {_CLAMP:g}",
    )


def _settings(scope: Scope) -> StyleGAN2Settings:
    """Deduce the constructor's arguments from names and shapes."""
    blocks = scope.names(r"synthesis\.b\d{1,5}\.conv1\.weight")
    last = max((int(name.split(".")[1][1:]) for name in blocks), default=4)
    layers = len(scope.names(r"mapping\.fc\d{1,3}\.weight"))
    if last > _MAX_RESOLUTION or layers > _MAX_LAYERS:
        raise GeneratorError(
            "the generator is out of all proportion", got=f"{layers} mapping layers, {last} px",
            expected=f"at most {_MAX_LAYERS} and {_MAX_RESOLUTION}",
        )  # fmt: skip
    features = {4: scope.take("synthesis.b4.const", 3).shape[0]}
    resolution = 8
    while resolution <= last:
        name = f"synthesis.b{resolution}.conv1.weight"
        features[resolution] = scope.take(name, 4).shape[0]
        resolution *= 2
    base, most = channel_rule(features)
    w_dim = scope.take("synthesis.b4.conv1.affine.weight", 2).shape[1]
    conditional = "mapping.embed.weight" in scope
    width = scope.take("mapping.fc0.weight", 2).shape[1]
    options: dict[str, Any] = {
        "resolution": max(features), "z_dim": width - (w_dim if conditional else 0), "w_dim": w_dim,
        "channels": scope.take(f"synthesis.b{max(features)}.torgb.bias", 1).shape[0],
        "num_classes": scope.take("mapping.embed.weight", 2).shape[1] if conditional else 0,
        "mapping_layers": layers, "channel_base": base, "channel_max": most,
        "architecture": _architecture(scope), "conv_clamp": _CLAMP,
    }  # fmt: skip
    try:
        return StyleGAN2Settings.read(options)
    except ConfigError as error:
        raise GeneratorError(f"no StyleGAN2: {error.problem}", got=error.got) from None


def _architecture(scope: Scope) -> str:
    if scope.names(r"synthesis\.b\d{1,5}\.skip\.weight"):
        return "resnet"
    return "skip" if "synthesis.b4.torgb.weight" in scope else "orig"
