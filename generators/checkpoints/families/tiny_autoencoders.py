"""Tiny autoencoders from their files: numbered layers, whose kinds tell how they are connected.

A decoder is published as ``1.weight`` (from the latents), ``3.conv.0.weight`` and on (blocks),
convolutions without bias where the size doubles, and the last one, to colours. What has no weights
has a number, too: 0 the clamp, 2 a ReLU, and one for each doubling. diffusers has the same layers
below ``decoder.layers``, without the number for the clamp. Encoders likewise, to smaller sizes.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from generators.base import FamilySettings
from generators.checkpoints.contents import open_contents
from generators.checkpoints.converted import Converted
from generators.checkpoints.families.stylegan2 import check_weights
from generators.checkpoints.finite import finite_floats
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.scope import Scope
from generators.families.tiny_autoencoder import (
    TinyAutoencoderSettings,
    TinyBlock,
)
from hpd.errors import ConfigError, GeneratorError, HpdError

DECODER_ANCHORS = ("1.weight", "1.bias", "3.conv.0.weight", "3.conv.2.weight", "3.conv.4.weight")
"""Names that every published decoder has."""
DIFFUSERS_ANCHORS = tuple(
    f"decoder.layers.{name}"
    for name in ("0.weight", "0.bias", "2.conv.0.weight", "2.conv.2.weight", "2.conv.4.weight")
)
"""Names that every `AutoencoderTiny` has."""

_DECODER, _ENCODER = "decoder", "encoder"
_PUBLISHED = ("taesd", "taesdxl", "taesd3", "taef1", "taef2", "taesana")
_LICENCE = "MIT (madebyollin/taesd, by the name of the file)"
_MOST_LAYERS = 256


def tiny_decoder_from_scope(scope: Scope) -> Converted:
    """Convert a published decoder where it stands in a file, without its encoder.

    Raises:
        GeneratorError: naming what is missing, left over or of another shape.
    """
    return _converted(scope, 1, "", None)


def diffusers_tiny_from_scope(scope: Scope) -> Converted:
    """Convert an `AutoencoderTiny` of diffusers where it stands in a file, with its encoder.

    Raises:
        GeneratorError: as `tiny_decoder_from_scope`.
    """
    encoder = "encoder.layers." if scope.names(r"encoder\.layers\..*") else None
    return _converted(scope, 0, "decoder.layers.", encoder)


def with_encoder(found: Converted, path: Path) -> Converted:
    """Return a decoder with the encoder that lies beside its file, if one does.

    The file's name tells: ``taef2_decoder.pth`` has ``taef2_encoder.pth``.

    Args:
        found: as it was read; what is no tiny autoencoder, or has an encoder, is returned as it is.
        path: of its file.

    Raises:
        GeneratorError: if there is such a file, and it is none or does not fit.
    """
    settings = found.settings
    if not isinstance(settings, TinyAutoencoderSettings) or settings.encoder_stages is not None:
        return found
    beside = _beside(path)
    if beside is None or not beside.is_file():
        name = "" if beside is None else f", such as {beside.name},"
        return found.adding(f"no encoder{name} lies beside it: init=encode needs one")
    try:
        with open_contents(beside) as contents:
            scope = Scope(contents.tensors)
            stem, stages = _encoder_plan(scope, "")
            whole = _settings(
                {**settings.model_dump(), "encoder_stem": stem, "encoder_stages": stages}
            )
            weights = _encoder_weights(scope, whole, "")
            _all_taken(scope, found)
            weights = {name: finite_floats(name, value) for name, value in weights.items()}
    except HpdError as error:
        raise GeneratorError(
            f"cannot read the encoder {beside}: {error.problem}", got=error.got,
            expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    weights = found.weights | weights
    check_weights(whole, weights)
    return Converted(whole, weights, found.facts, found.remarks).adding(encoder=beside.name)


def licence_of(settings: FamilySettings, path: Path) -> str | None:
    """Return the licence of a tiny autoencoder, by its file's name; None for another family."""
    if not isinstance(settings, TinyAutoencoderSettings):
        return None
    stem = path.stem.lower().removesuffix(f"_{_DECODER}")
    return _LICENCE if stem in _PUBLISHED else "that of the file's source"


def _beside(path: Path) -> Path | None:
    """Return where the encoder of a decoder's file should lie; None if its name tells nothing."""
    before, word, after = path.name.rpartition(_DECODER)
    return path.with_name(f"{before}{_ENCODER}{after}") if word else None


def _converted(scope: Scope, first: int, prefix: str, encoder: str | None) -> Converted:
    """Convert a decoder whose first convolution has the number `first`."""
    if first and "0.weight" in scope:
        raise GeneratorError(
            "this is the encoder of an autoencoder, or another network of numbered layers",
            expected="the decoder: its encoder is found beside it",
            fix="Give the file of the decoder, such as taef2_decoder.pth.",
        )
    stages, latent_channels, channels = _decoder_plan(scope, first, prefix)
    stem, encoder_stages = ([], None) if encoder is None else _encoder_plan(scope, encoder)
    settings = _settings(
        {
            "latent_channels": latent_channels, "channels": channels, "stages": stages,
            "encoder_stem": stem, "encoder_stages": encoder_stages,
        }
    )  # fmt: skip
    weights = _decoder_weights(scope, settings, first, prefix)
    if encoder is not None:
        weights |= _encoder_weights(scope, settings, encoder)
    check_weights(settings, weights)
    return _all_taken(scope, Converted(settings, weights))


def _settings(options: dict[str, object]) -> TinyAutoencoderSettings:
    """Return settings, with a size of images that every factor divides."""
    stages = options["stages"]
    least = 2 ** (len(stages) - 1) if isinstance(stages, list) else 1
    try:
        return TinyAutoencoderSettings.read(options | {"resolution": max(128, least)})
    except ConfigError as error:
        raise GeneratorError(f"no tiny autoencoder: {error}") from None


def _layers(scope: Scope, prefix: str) -> int:
    """Return the number of the last layer that has weights."""
    found = scope.names(rf"{re.escape(prefix)}\d{{1,3}}\..*")
    last = max((int(name.removeprefix(prefix).partition(".")[0]) for name in found), default=-1)
    if last < 1 or last > _MOST_LAYERS:
        raise GeneratorError("no tiny autoencoder", got=f"{last + 1} layers")
    return last


def _kind(scope: Scope, name: str) -> str:
    """Return what a layer is: a block, a convolution with or without bias, or without weights."""
    if f"{name}.conv.0.weight" in scope:
        return "block"
    if f"{name}.weight" in scope:
        return "conv" if f"{name}.bias" in scope else "bare"
    return ""


def _stage(scope: Scope, name: str) -> dict[str, object]:
    """Return the options of a stage by its first block."""
    width = scope.take(f"{name}.conv.0.weight", 4).shape[0]
    return {"width": width, "blocks": 0, "pooled": f"{name}.pool.0.weight" in scope}


def _add_block(stages: list[dict[str, object]], scope: Scope, name: str, fresh: bool) -> None:
    if fresh:
        stages.append(_stage(scope, name))
    stages[-1]["blocks"] = int(str(stages[-1]["blocks"])) + 1


def _decoder_plan(
    scope: Scope, first: int, prefix: str
) -> tuple[list[dict[str, object]], int, int]:
    """Return the stages of a decoder, and the channels of latents and images."""
    last, stages, fresh = _layers(scope, prefix), list[dict[str, object]](), True
    for number in range(first + 2, last):
        kind = _kind(scope, f"{prefix}{number}")
        if kind == "block":
            _add_block(stages, scope, f"{prefix}{number}", fresh)
            fresh = False
        elif kind == "conv" or (kind and fresh):
            raise _unknown(f"{prefix}{number}")
        elif kind == "bare":
            fresh = True
    return (
        stages,
        scope.take(f"{prefix}{first}.weight", 4).shape[1],
        scope.take(f"{prefix}{last}.weight", 4).shape[0],
    )


def _encoder_plan(scope: Scope, prefix: str) -> tuple[list[int], list[dict[str, object]]]:
    """Return stem and stages of an encoder."""
    last, stages, fresh = _layers(scope, prefix), list[dict[str, object]](), True
    stem: list[int] = []
    for number in range(last):
        kind = _kind(scope, f"{prefix}{number}")
        if kind == "block":
            _add_block(stages, scope, f"{prefix}{number}", fresh)
            fresh = False
        elif kind == "bare" and not fresh:
            fresh = True
        elif kind == "conv" and not stages:
            # before a ReLU it halves the size, before a block it does not
            if not _kind(scope, f"{prefix}{number + 1}"):
                stem.append(scope.take(f"{prefix}{number}.weight", 4).shape[0])
        elif kind:
            raise _unknown(f"{prefix}{number}")
    return stem, stages


def _unknown(name: str) -> GeneratorError:
    return GeneratorError(
        "no tiny autoencoder", got=f"a layer {shown(name)} where none of its kind belongs"
    )


def _decoder_weights(
    scope: Scope, settings: TinyAutoencoderSettings, first: int, prefix: str
) -> dict[str, Tensor]:
    """Return the tensors of a decoder by the names of this project's."""
    weights: dict[str, Tensor] = {}
    number, part = first, 0
    for place, stage in enumerate(settings.stages):
        for block in range(stage.blocks):
            if block == 0:
                # a doubling stands before the convolution, a ReLU behind the first one
                number += 1 if place else 0
                weights |= _conv(scope, f"{prefix}{number}", f"decoder.{part}.conv", place == 0)
                number += 1 if place else 2
            weights |= _block(scope, f"{prefix}{number}", f"decoder.{part}.block", stage.pooled)
            number, part = number + 1, part + 1
    return weights | _conv(scope, f"{prefix}{number}", f"decoder.{part}.conv", True)


def _encoder_weights(
    scope: Scope, settings: TinyAutoencoderSettings, prefix: str
) -> dict[str, Tensor]:
    """Return the tensors of an encoder, whose layers have the same numbers here."""
    assert settings.encoder_stages is not None, "asked of one with an encoder"
    weights: dict[str, Tensor] = {}
    # its layers are wanted, and no memory for what a file claims
    with torch.device("meta"):
        encoder = settings.build().encoder
    assert encoder is not None, "as its settings say"
    for name, layer in encoder.named_children():
        source, target = f"{prefix}{name}", f"encoder.{name}"
        if isinstance(layer, TinyBlock):
            weights |= _block(scope, source, target, layer.widen is not None)
        elif any(True for _ in layer.parameters()):
            weights |= _conv(scope, source, target, layer.bias is not None)
    return weights


def _conv(scope: Scope, source: str, target: str, bias: bool) -> dict[str, Tensor]:
    found = {f"{target}.weight": scope.take(f"{source}.weight", 4)}
    return found | ({f"{target}.bias": scope.take(f"{source}.bias", 1)} if bias else {})


def _block(scope: Scope, source: str, target: str, pooled: bool) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for number in range(3):
        # the layers between are ReLUs
        weights |= _conv(scope, f"{source}.conv.{2 * number}", f"{target}.convs.{number}", True)
    if pooled:
        weights |= _conv(scope, f"{source}.pool.0", f"{target}.widen", False)
        weights |= _conv(scope, f"{source}.pool.3", f"{target}.narrow", False)
        for name in ("weight", "bias"):
            weights[f"{target}.norm.{name}"] = scope.take(f"{source}.pool.1.{name}", 1)
    return weights


def _all_taken(scope: Scope, converted: Converted) -> Converted:
    """Check that every tensor of the autoencoder was taken; what stands beside it is remarked."""
    left = scope.left()
    own = [name for name in left if re.match(r"\d|encoder\.|decoder\.", name)]
    if own:
        raise GeneratorError(
            "the autoencoder has tensors that the known ones have not", got=shown(own[0]),
            fix="The network would not compute the same images, so it is not converted.",
        )  # fmt: skip
    return converted.beside(list(dict.fromkeys(name.partition(".")[0] for name in left)))
