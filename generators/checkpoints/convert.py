"""From a checkpoint file of any family to settings and weights of this project's networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from generators.checkpoints.contents import Contents, open_contents
from generators.checkpoints.converted import Converted
from generators.checkpoints.families import official_names, rosinality, tiny_autoencoders
from generators.checkpoints.families.stylegan2 import stylegan2_from_record
from generators.checkpoints.families.stylegan3 import (
    is_stylegan_xl,
    stylegan3_from_record,
    stylegan_xl_from_record,
)
from generators.checkpoints.finding import Layout, Place, find_generator
from generators.checkpoints.finite import finite_floats
from generators.checkpoints.pickles.records import ModuleRecord
from generators.checkpoints.scope import Scope
from hpd.errors import GeneratorError, HpdError

LAYOUTS = (
    Layout(rosinality.ANCHORS, rosinality.rosinality_from_scope),
    Layout(official_names.ANCHORS, official_names.stylegan2_from_scope),
    Layout(tiny_autoencoders.DECODER_ANCHORS, tiny_autoencoders.tiny_decoder_from_scope),
    Layout(tiny_autoencoders.DIFFUSERS_ANCHORS, tiny_autoencoders.diffusers_tiny_from_scope),
)
"""The families that state dicts are known of, without the options of their networks."""


def convert_checkpoint(path: str | Path, network: str = "G_ema") -> Converted:
    """Read a generator from a checkpoint file, without running code from it.

    The file is an official StyleGAN2-ADA, StyleGAN3 or StyleGAN-XL pickle, or any pickle, torch
    file or safetensors with the tensors of a StyleGAN2 in rosinality's or the official names, or of
    a tiny autoencoder. The generator is found by these names, wherever in the file it stands.

    Args:
        path: the file.
        network: ``"G_ema"``, the averaged generator, or another one if the file has no average;
            ``"G"``, one that is no average; or the name above the wanted one in the file, such as
            ``"state_dict.decoder"``.

    Raises:
        GeneratorError: naming what was refused, what does not fit, or the tensor in which a value
            is NaN, Inf or too large for float32.
    """
    if not isinstance(network, str):
        raise GeneratorError("a network is named by text", got=type(network).__name__)
    try:
        with open_contents(path) as contents:
            place = find_generator(contents, LAYOUTS, network)
            converted = _remarked(_convert(contents, place), place, network)
            weights = {name: finite_floats(name, v) for name, v in converted.weights.items()}
            return replace(converted, weights=weights)
    except HpdError as error:
        raise GeneratorError(
            f"cannot read {path}: {error.problem}", got=error.got, expected=error.expected,
            fix=error.fix,
        ) from None  # fmt: skip
    # the limits should make both impossible; a caller may have used up the stack or the memory
    except (MemoryError, RecursionError) as error:
        raise GeneratorError(f"cannot read {path}", got=type(error).__name__) from None


def _convert(contents: Contents, place: Place) -> Converted:
    if place.layout is None:
        return convert_record(contents.modules[place.prefix]())
    converted = place.layout.convert(Scope(contents.tensors, place.prefix))
    return converted.adding(prefix=place.prefix)


def _remarked(converted: Converted, place: Place, network: str) -> Converted:
    if network != "G_ema" or not place.trained:
        return converted
    return converted.adding(
        f"it has no average of the generator: {place.prefix!r}, the one that was trained, was read",
        average_of_weights="none in the file",
    )


def convert_record(record: ModuleRecord) -> Converted:
    """Return settings and state dict of an official generator of any family.

    Raises:
        GeneratorError: if it belongs to none that is known, or does not fit.
    """
    if "synthesis" not in record.children or "mapping" not in record.children:
        raise GeneratorError(
            "not a StyleGAN generator",
            got=f"submodules {', '.join(record.children) or 'none'}",
            expected="a mapping and a synthesis network",
        )
    if "b4" in record.child("synthesis").children:
        return Converted(*stylegan2_from_record(record))
    if is_stylegan_xl(record):
        return Converted(*stylegan_xl_from_record(record))
    return Converted(*stylegan3_from_record(record))
