"""Small checkpoints in the layout of the official code, written without it."""

from __future__ import annotations

import io
import pickle
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from generators.base import FAMILIES, Generator

Options = dict[str, Any]
_PERSISTENT, _EASY = "torch_utils.persistence", "dnnlib.util"


class _Record:
    """An object of the official code, as its pickle has it: a call with a description."""

    def __init__(self, meta: Options) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules[_PERSISTENT]._reconstruct_persistent_obj, (self.meta,)


class _Pickler(pickle.Pickler):
    """Writes storages without the addresses that they happen to have."""

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (without_addresses(buffer.getvalue()),)


def without_addresses(content: bytes) -> bytes:
    """Return a torch file of the older format whose storages are numbered, not named by place."""
    numbers: dict[bytes, int] = {}

    def numbered(match: re.Match[bytes]) -> bytes:
        name = str(numbers.setdefault(match[1], len(numbers))).encode()
        return b"X" + struct.pack("<I", len(name)) + name

    return re.sub(rb"X[\x08-\x14]\0\0\0(\d{8,20})", numbered, content)


def networks() -> dict[str, tuple[Generator, dict[str, Options]]]:
    """Return tiny networks by name, each with the constructor arguments of its parts by path."""
    alias_free = {
        "resolution": 8, "channels": 1, "z_dim": 2, "w_dim": 2, "num_classes": 2,
        "channel_base": 16, "channel_max": 3, "num_layers": 2, "num_critical": 1, "margin": 2,
        "mapping_layers": 1,
    }  # fmt: skip
    two = {"kind": "stylegan2", "resolution": 4, "channels": 1, "z_dim": 2, "w_dim": 2,
           "num_classes": 2, "mapping_layers": 1, "channel_max": 2}  # fmt: skip
    three = {"kind": "stylegan3", **alias_free}
    stem = {"kind": "stylegan_xl", **alias_free, "num_embeddings": 3, "embedding_dim": 2}
    found = {}
    for name, options in (("stylegan2", two), ("stylegan3", three), ("stylegan-xl", stem)):
        network = FAMILIES.parse(options).build()
        _initialise(network)
        made = _two_arguments(options) if name == "stylegan2" else _three_arguments(options)
        found[name] = (network, made)
    found["stylegan-xl-super"] = _stacked(stem)
    return found


def _initialise(network: Any) -> None:
    """Give a network weights, the same each time."""
    network.initialise(torch.Generator().manual_seed(0))


def _two_arguments(options: Options) -> dict[str, Options]:
    return {"": {
        "z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 1,
        "mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_max": 2},
    }}  # fmt: skip


def _three_arguments(options: Options) -> dict[str, Options]:
    own = {k: options[k] for k in ("channel_base", "channel_max", "num_layers", "num_critical")}
    synthesis = {**own, "margin_size": 2}
    return {
        "": {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 8, "img_channels": 1,
             "mapping_kwargs": {"num_layers": 1}, **synthesis},
        "mapping": {"z_dim": 2, "c_dim": 2, "w_dim": 2, "num_ws": 4, "num_layers": 1},
        "synthesis": {"w_dim": 2, "img_resolution": 8, "img_channels": 1, **synthesis},
    }  # fmt: skip


def _stacked(stem: Options) -> tuple[Generator, dict[str, Options]]:
    """Return a network whose layers are told one by one, as after super-resolution."""
    settings: Any = FAMILIES.parse(stem)
    layers = [layer.model_dump() for layer in settings.plan()]
    shared = ("kind", "resolution", "channels", "z_dim", "w_dim", "num_classes", "num_embeddings",
              "embedding_dim", "mapping_layers")  # fmt: skip
    network = FAMILIES.parse({**{k: stem[k] for k in shared}, "layers": layers}).build()
    _initialise(network)
    made = _three_arguments(stem)
    made[""] = {"img_resolution": 8, "path_stem": "stem.pkl", "head_layers": 1, "up_factor": 2}
    for layer in layers:
        renamed = {"to_rgb": "is_torgb", "critically_sampled": "is_critically_sampled"}
        own = {renamed.get(k, k): v for k, v in layer.items() if k != "name"}
        known = ("radial_filters", "conv_kernel", "filter_size", "lrelu_upsampling", "conv_clamp")
        made[f"synthesis.{layer['name']}"] = {
            "w_dim": 2, **{k: v for k, v in own.items() if k not in known}
        }  # fmt: skip
    return network, made


def record(
    module: nn.Module, arguments: Mapping[str, Options], class_name: str, path: str = ""
) -> _Record:
    """Return a network as the official code describes it."""
    prefix = f"{path}." if path else ""
    children = {
        name: record(child, arguments, type(child).__name__, prefix + name)
        for name, child in module.named_children()
    }
    state: Options = {
        "training": False,
        "_parameters": dict(module.named_parameters(recurse=False)),
        "_buffers": dict(module.named_buffers(recurse=False)),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(), "_forward_hooks": OrderedDict(),
        "_modules": children, "_init_args": (), "_init_kwargs": dict(arguments.get(path, {})),
    }  # fmt: skip
    if path == "synthesis":
        own = arguments.get("synthesis", {})
        names = [n for n in children if n.startswith("L")]
        state |= {"img_resolution": own.get("img_resolution", 4), "layer_names": names}
        state |= {"output_scale": 0.25} if names else {}
    meta = {"type": "class", "version": 6, "module_src": "# source\n", "class_name": class_name}
    return _Record({**meta, "state": state})


def checkpoints() -> dict[str, bytes]:
    """Return the pickle of each network, at every protocol that the official code wrote."""
    found = {}
    for (name, (network, arguments)), protocol in zip(
        networks().items(), (4, 2, 3, 5), strict=True
    ):
        kind = "SuperresGenerator" if name.endswith("super") else "Generator"
        content = {
            "training_set_kwargs": {"path": "x.zip"}, "G": None, "D": None, "augment_pipe": None,
            "G_ema": record(network, arguments, kind),
        }  # fmt: skip
        found[name] = _written(content, protocol)
    return found


def _written(content: Options, protocol: int) -> bytes:
    """Return a pickle that names functions of the official code, which are here for that time."""
    modules = {}
    for name in ("torch_utils", _PERSISTENT):
        modules[name] = ModuleType(name)

    def _reconstruct_persistent_obj(meta: Options) -> Any:
        raise AssertionError("nothing may be called")

    _reconstruct_persistent_obj.__module__ = _PERSISTENT
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    setattr(modules[_PERSISTENT], _reconstruct_persistent_obj.__name__, _reconstruct_persistent_obj)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        buffer = io.BytesIO()
        _Pickler(buffer, protocol).dump(content)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return buffer.getvalue()
