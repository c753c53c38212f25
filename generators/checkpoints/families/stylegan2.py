"""From the record of an official StyleGAN2 checkpoint to this project's network."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from generators.base import FamilySettings
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.pickles.records import ModuleRecord
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.errors import ConfigError, GeneratorError

_ARGUMENTS = (
    "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs",
    "synthesis_kwargs",
)  # fmt: skip
_MAPPING = {"num_layers": 8, "lr_multiplier": 0.01}
_SYNTHESIS: dict[str, Any] = {
    "channel_base": 32768, "channel_max": 512, "architecture": "skip", "conv_clamp": None,
}  # fmt: skip
# they change how fast a network runs or trains, not what it computes in float32
_HARMLESS = frozenset(
    (
        "num_fp16_res", "use_fp16", "fp16_channels_last", "channels_last",
        "fused_modconv_default", "w_avg_beta",
    )
)  # fmt: skip
# options with one value that this project's network has built in
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation": ("lrelu",),
    "use_noise": (True,),
    "kernel_size": (3,),
    "resample_filter": ([1, 3, 3, 1], (1, 3, 3, 1)),
}
_MAX_LAYERS, _MAX_RESOLUTION = 64, 2**14
_MAX_NUMBER, _MAX_WORD = 2**31, 32
_MAX_SIZES = {
    "mapping_layers": _MAX_LAYERS, "resolution": _MAX_RESOLUTION, "num_layers": 256,
    "filter_size": 64, "lrelu_upsampling": 16, "conv_kernel": 64, "margin": 2**10,
    "in_size": 2**15, "out_size": 2**15, "in_sampling_rate": 2**15, "out_sampling_rate": 2**15,
}  # fmt: skip


def stylegan2_from_record(record: ModuleRecord) -> tuple[StyleGAN2Settings, dict[str, Tensor]]:
    """Return settings and state dict of an official StyleGAN2 generator.

    Args:
        record: from `read_checkpoint`.

    Returns:
        Settings whose network loads the state dict strictly.

    Raises:
        GeneratorError: if it is no StyleGAN2, was made with an option that this project does not
            have (naming it), or its tensors do not fit its options.
    """
    if "synthesis" not in record.children or "b4" not in record.child("synthesis").children:
        raise GeneratorError(
            "not a StyleGAN2 generator",
            got=f"{shown(record.class_name)} of {', '.join(map(shown, record.children)) or 'none'}",
            expected="a mapping and a synthesis network made of blocks b4, b8, ...",
        )
    given = _constructor(record)
    w_dim = given["w_dim"]
    mapping = _options("mapping_kwargs", given.pop("mapping_kwargs"), _MAPPING, w_dim)
    synthesis = _options("synthesis_kwargs", given.pop("synthesis_kwargs"), _SYNTHESIS, w_dim)
    settings = _settings(
        resolution=given["img_resolution"],
        channels=given["img_channels"],
        z_dim=given["z_dim"],
        w_dim=w_dim,
        num_classes=given["c_dim"],
        mapping_layers=mapping["num_layers"],
        mapping_lr_multiplier=mapping["lr_multiplier"],
        channel_base=synthesis["channel_base"],
        channel_max=synthesis["channel_max"],
        architecture=synthesis["architecture"],
        conv_clamp=_clamp(record, synthesis["conv_clamp"]),
    )
    weights = record.state_dict()
    check_weights(settings, weights)
    return settings, weights


def _constructor(record: ModuleRecord) -> dict[str, Any]:
    """Return the constructor's arguments by name, however they were given."""
    if len(record.args) > len(_ARGUMENTS):
        raise GeneratorError("the generator was made with too many arguments")
    given: dict[str, Any] = {"mapping_kwargs": {}, "synthesis_kwargs": {}}
    given.update(zip(_ARGUMENTS, record.args, strict=False))
    given.update(record.kwargs)
    for name in given:
        if name not in _ARGUMENTS:
            raise _unknown("the generator", name, given[name])
    for name in _ARGUMENTS:
        if name not in given:
            raise GeneratorError(f"the checkpoint does not say the generator's {name}")
    return given


def _options(where: str, given: Any, defaults: Mapping[str, Any], w_dim: Any) -> dict[str, Any]:
    """Return the options that matter, and refuse those that this project does not have."""
    if not isinstance(given, dict):
        raise GeneratorError(f"{where} is no dict")
    found = dict(defaults)
    for name, value in given.items():
        if name in defaults:
            found[name] = value
        elif name in _HARMLESS or value in _FIXED.get(name, ()):
            continue
        elif name not in ("embed_features", "layer_features") or value not in (None, w_dim):
            raise _unknown(where, name, value)
    return found


def _unknown(where: str, name: object, value: object) -> GeneratorError:
    return GeneratorError(
        f"{where} has an option that hpd's StyleGAN2 does not have",
        got=f"{shown(str(name))}={shown(reprlib.repr(value))}",
        fix="The network would not compute the same images, so it is not converted.",
    )


def _clamp(record: ModuleRecord, given: Any) -> float | None:
    """Return the clamp of the layers: their own word, as its default changed over time."""
    layer = record.child("synthesis").child("b4").child("conv1")
    clamp = layer.attributes.get("conv_clamp", given)
    if clamp is not None and not (isinstance(clamp, int | float) and 0 < clamp < math.inf):
        raise GeneratorError("conv_clamp is no positive number", got=reprlib.repr(clamp))
    return None if clamp is None else float(clamp)


def _settings(**options: Any) -> StyleGAN2Settings:
    for name, value in options.items():
        # some configurations computed their channels as floats
        if name.startswith("channel_") and isinstance(value, float) and value.is_integer():
            options[name] = int(value)
        elif not (value is None or isinstance(value, int | float | str)):
            raise GeneratorError(f"{name} is no number or word", got=reprlib.repr(value))
        elif (isinstance(value, str) and len(value) > _MAX_WORD) or _is_huge(value):
            raise GeneratorError(f"{name} is out of all proportion", got=reprlib.repr(value))
    try:
        settings = StyleGAN2Settings.read(options)
    except (ConfigError, ValidationError) as error:
        raise GeneratorError(f"the generator's options are damaged: {error}") from None
    if settings.mapping_layers > _MAX_LAYERS or settings.resolution > _MAX_RESOLUTION:
        raise GeneratorError(
            "the generator's options are out of all proportion",
            got=f"{settings.mapping_layers} mapping layers, {settings.resolution} px",
            expected=f"at most {_MAX_LAYERS} and {_MAX_RESOLUTION}",
        )
    return settings


def _is_huge(value: object) -> bool:
    return isinstance(value, int | float) and not abs(value) < _MAX_NUMBER


def expected_weights(settings: FamilySettings) -> dict[str, Tensor]:
    """Return the state dict of the network that `settings` describe, as shapes without values.

    Raises:
        GeneratorError: if no network has such sizes.
    """
    check_sizes(dict(settings))
    try:
        # shapes only: nothing is allocated
        with torch.device("meta"):
            return settings.build().state_dict()
    # sizes that overflow
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise GeneratorError("no network has the options of this one", got=reason) from None


def check_sizes(options: Mapping[str, Any]) -> None:
    """Check what decides how long it takes to plan a network of any family, whatever its weights.

    Args:
        options: of the family, read or not.

    Raises:
        GeneratorError: naming the one that is out of all proportion.
    """
    for name, most in _MAX_SIZES.items():
        size = options.get(name)
        if isinstance(size, int | float) and size > most:
            raise GeneratorError(
                f"{name} is out of all proportion", got=reprlib.repr(size), expected=most
            )
    layers = options.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        check_sizes(layer if isinstance(layer, Mapping) else dict(layer))


def check_weights(settings: FamilySettings, weights: Mapping[str, Tensor]) -> None:
    """Check that tensors are those of the network that `settings` describe.

    Raises:
        GeneratorError: naming the first that is missing, left over or of another shape.
    """
    for name, value in weights.items():
        if not value.is_floating_point():
            raise GeneratorError(
                f"the tensor {shown(name)} does not fit the options of its network",
                got=f"{value.dtype} {tuple(value.shape)}", expected="floats",
            )  # fmt: skip
    check_shapes(settings, {name: tuple(value.shape) for name, value in weights.items()})


def check_shapes(settings: FamilySettings, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that tensors, of which the shapes are known, are those of a network.

    Raises:
        GeneratorError: naming the first that is missing, left over or of another shape.
    """
    expected = {name: tuple(value.shape) for name, value in expected_weights(settings).items()}
    for name in [*expected, *shapes]:
        want, got = expected.get(name), shapes.get(name)
        if want is None or want != got:
            raise GeneratorError(
                f"the tensor {shown(name)} does not fit the options of its network",
                got="none" if got is None else got,
                expected="none" if want is None else f"floats {want}",
            )
