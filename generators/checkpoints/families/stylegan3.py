"""From the record of an official StyleGAN3 or StyleGAN-XL checkpoint to this project's network."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from generators.base import FamilySettings
from generators.checkpoints.families.stylegan2 import check_weights
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.pickles.records import ModuleRecord
from generators.families.stylegan3 import StyleGAN3Settings
from generators.families.stylegan_xl import StyleGANXLSettings
from hpd.errors import ConfigError, GeneratorError

Options = dict[str, Any]

# constructor arguments in their official order; those that only change speed or training are None
_MAPPING: dict[str, str | None] = {
    "z_dim": "z_dim", "c_dim": "num_classes", "w_dim": "w_dim", "num_ws": None,
    "num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier",
    "w_avg_beta": None, "rand_embedding": None,
}  # fmt: skip
_LAYER_OPTIONS: dict[str, str | None] = {
    "conv_kernel": "conv_kernel", "filter_size": "filter_size",
    "lrelu_upsampling": "lrelu_upsampling", "use_radial_filters": "radial_filters",
    "conv_clamp": "conv_clamp", "magnitude_ema_beta": None,
}  # fmt: skip
_SYNTHESIS: dict[str, str | None] = {
    "w_dim": None, "img_resolution": "resolution", "img_channels": "channels",
    "channel_base": "channel_base", "channel_max": "channel_max", "num_layers": "num_layers",
    "num_critical": "num_critical", "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband", "last_stopband_rel": "last_stopband_rel",
    "margin_size": "margin", "output_scale": "output_scale", "num_fp16_res": None,
    **_LAYER_OPTIONS,
}  # fmt: skip
_LAYER: dict[str, str | None] = {
    "w_dim": None, "is_torgb": "to_rgb", "is_critically_sampled": "critically_sampled",
    "use_fp16": None, "in_channels": "in_channels", "out_channels": "out_channels",
    "in_size": "in_size", "out_size": "out_size", "in_sampling_rate": "in_sampling_rate",
    "out_sampling_rate": "out_sampling_rate", "in_cutoff": "in_cutoff",
    "out_cutoff": "out_cutoff", "in_half_width": "in_half_width",
    "out_half_width": "out_half_width", **_LAYER_OPTIONS,
}  # fmt: skip
_GENERATOR = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs")
_FLAGS = frozenset({"to_rgb", "critically_sampled", "radial_filters"})
_REALS = frozenset(
    "mapping_lr_multiplier first_cutoff first_stopband last_stopband_rel output_scale conv_clamp "
    "in_cutoff out_cutoff in_half_width out_half_width".split()
)
# a damaged file must not make this project plan a million layers
_LIMITS = {"num_layers": 256, "mapping_layers": 64, "resolution": 2**14}
_MAX_NUMBER = 2**24


def stylegan3_from_record(record: ModuleRecord) -> tuple[StyleGAN3Settings, dict[str, Tensor]]:
    """Return settings and state dict of an official StyleGAN3 generator.

    Args:
        record: from `read_checkpoint`.

    Returns:
        Settings whose network loads the state dict strictly.

    Raises:
        GeneratorError: if it is no StyleGAN3, was made with an option that this project does not
            have (naming it), or its tensors do not fit its options.
    """
    _check_parts(record, "StyleGAN3")
    if is_stylegan_xl(record):
        raise GeneratorError(
            "not a StyleGAN3 generator",
            got="a mapping network with a pretrained class embedding",
            fix="It is a StyleGAN-XL: use `stylegan_xl_from_record`.",
        )
    settings = _read(StyleGAN3Settings, _stem_options(record))
    return settings, _weights(record, settings)


def stylegan_xl_from_record(record: ModuleRecord) -> tuple[StyleGANXLSettings, dict[str, Tensor]]:
    """Return settings and state dict of an official StyleGAN-XL stem or super-resolution network.

    The constructor of a super-resolution network holds the path of its stem, so the network is
    rebuilt from the arguments of each of its layers.

    Args:
        record: from `read_checkpoint`.

    Returns:
        Settings whose network loads the state dict strictly.

    Raises:
        GeneratorError: if it is no StyleGAN-XL, was made with an option that this project does
            not have (naming it), or its tensors do not fit its options.
    """
    _check_parts(record, "StyleGAN-XL")
    if not is_stylegan_xl(record):
        raise GeneratorError(
            "not a StyleGAN-XL generator",
            got="a mapping network without a pretrained class embedding",
            fix="If it is a StyleGAN3, use `stylegan3_from_record`.",
        )
    stacked = record.class_name == "SuperresGenerator"
    options = _stacked_options(record) if stacked else _stem_options(record)
    table = record.child("mapping").child("embed").tensors.get("weight")
    if table is None or table.ndim != 2:
        raise GeneratorError("the class embedding of the checkpoint is damaged")
    options["num_embeddings"], options["embedding_dim"] = table.shape
    settings = _read(StyleGANXLSettings, options)
    return settings, _weights(record, settings)


def is_stylegan_xl(record: ModuleRecord) -> bool:
    """Tell whether a network has StyleGAN-XL's mapping, by its class embedding."""
    mapping = record.children.get("mapping")
    embed = None if mapping is None else mapping.children.get("embed")
    return embed is not None and embed.class_name == "Embedding"


def _check_parts(record: ModuleRecord, family: str) -> None:
    synthesis = record.children.get("synthesis")
    if "mapping" in record.children and synthesis is not None and "input" in synthesis.children:
        return
    raise GeneratorError(
        f"not a {family} generator",
        got=f"{shown(record.class_name)} of {', '.join(map(shown, record.children)) or 'none'}",
        expected="a mapping network, and a synthesis network with Fourier features as input",
    )


def _stem_options(record: ModuleRecord) -> Options:
    """Return the options of a network that its constructor describes."""
    for name in record.kwargs:
        if name not in _GENERATOR and name not in _SYNTHESIS:
            raise _unknown("the generator", name, record.kwargs[name])
    if len(record.args) > len(_GENERATOR):
        raise GeneratorError("the generator was made with too many arguments")
    # every argument of the generator went on to one of its two parts, and stands there too
    mapping, synthesis = record.child("mapping"), record.child("synthesis")
    options = _options(mapping, _MAPPING) | _options(synthesis, _SYNTHESIS)
    return options | _output_scale(synthesis)


def _stacked_options(record: ModuleRecord) -> Options:
    """Return the options of a network that only its layers describe."""
    synthesis = record.child("synthesis")
    names = synthesis.attribute("layer_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GeneratorError("the checkpoint does not name its layers")
    if len(names) > _LIMITS["num_layers"]:
        raise GeneratorError("the layers are out of all proportion", got=f"{len(names)} layers")
    given = _options(synthesis, _SYNTHESIS)
    return {
        **_options(record.child("mapping"), _MAPPING),
        # the constructor's resolution is that of the stem
        "resolution": _number("resolution", synthesis.attribute("img_resolution")),
        "channels": given.get("channels", 3),
        **_output_scale(synthesis),
        "layers": [{"name": n, **_options(synthesis.child(n), _LAYER)} for n in names],
    }


def _output_scale(synthesis: ModuleRecord) -> Options:
    """Return the scale of the images: the attribute, which may be set after construction."""
    if "output_scale" not in synthesis.attributes:
        return {}
    return {"output_scale": _number("output_scale", synthesis.attributes["output_scale"])}


def _options(record: ModuleRecord, known: Mapping[str, str | None]) -> Options:
    """Return a module's constructor arguments under this project's names and types."""
    where = f"the {shown(record.class_name)}"
    if len(record.args) > len(known):
        raise GeneratorError(f"{where} was made with too many arguments")
    given = dict(zip(known, record.args, strict=False)) | record.kwargs
    found = {}
    for name, value in given.items():
        if name not in known:
            raise _unknown(where, name, value)
        own = known[name]
        if own is not None:
            found[own] = _number(own, value)
    return found


def _unknown(where: str, name: object, value: object) -> GeneratorError:
    return GeneratorError(
        f"{where} has an option that hpd does not have",
        got=f"{shown(str(name))}={shown(reprlib.repr(value))}",
        fix="The network would not compute the same images, so it is not converted.",
    )


def _number(name: str, value: Any) -> int | float | bool | None:
    """Return an option as the type that its setting has."""
    if name == "conv_clamp" and value is None:
        return None
    if name in ("in_size", "out_size") and isinstance(value, list | tuple) and len(value) == 2:
        # sizes may be pairs
        value = value[0] if value[0] == value[1] else value
    if name in _FLAGS:
        if value in (True, False):
            return bool(value)
    # NaN alone differs from itself
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        if abs(value) > _LIMITS.get(name, _MAX_NUMBER):
            raise GeneratorError(f"{name} is out of all proportion", got=reprlib.repr(value))
        if name in _REALS:
            return float(value)
        # some configurations computed their channels as floats
        if value == int(value):
            return int(value)
    raise GeneratorError(f"{name} of the checkpoint is not valid", got=shown(reprlib.repr(value)))


def _read(family: Any, options: Options) -> Any:
    try:
        return family.read(options)
    except (ConfigError, ValidationError) as error:
        raise GeneratorError(f"the generator's options are damaged: {error}") from None


def _weights(record: ModuleRecord, settings: FamilySettings) -> dict[str, Tensor]:
    weights = record.state_dict()
    check_weights(settings, weights)
    return weights
