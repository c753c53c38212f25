"""Folders of autoencoders as diffusers writes them: `config.json`, and the tensors beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators.checkpoints.contents import open_contents
from generators.checkpoints.converted import Converted
from generators.checkpoints.families.kl_autoencoders import check_options, kl_from_scope
from generators.checkpoints.families.tiny_autoencoders import diffusers_tiny_from_scope
from generators.checkpoints.finite import finite_floats
from generators.checkpoints.scope import Scope
from hpd.errors import GeneratorError, HpdError

CONFIG = "config.json"
WEIGHTS = tuple(
    f"diffusion_pytorch_model{kind}" for kind in (".safetensors", ".fp16.safetensors", ".bin")
)
"""Names of the file of tensors, the first one that is there being read."""

_CLASSES = ("AutoencoderTiny", "AutoencoderKL")
_MAX_TEXT_BYTES = 2**20
# options of `AutoencoderTiny` with one value that is known; what is not said has this value
_TINY = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}


@dataclass(frozen=True)
class FoundFolder:
    """An autoencoder in a folder.

    Args:
        converted: settings and weights.
        weights: the file of its tensors.
        licence: as its model card has it; empty where there is none.
    """

    converted: Converted
    weights: Path
    licence: str


def is_autoencoder_folder(folder: Path) -> bool:
    """Tell whether a folder's config is that of an autoencoder which is read here."""
    path = folder / CONFIG
    try:
        return path.is_file() and _json(path).get("_class_name") in _CLASSES
    except GeneratorError:
        return False


def read_autoencoder_folder(folder: Path) -> FoundFolder:
    """Read an autoencoder from its folder; nothing in it is run.

    Raises:
        GeneratorError: naming what is missing, damaged or not known.
    """
    try:
        config = _json(folder / CONFIG)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise GeneratorError("there are no tensors in it", expected=WEIGHTS[0])
        with open_contents(weights) as contents:
            scope = Scope(contents.tensors)
            if config["_class_name"] == "AutoencoderKL":
                converted = kl_from_scope(scope, config)
            else:
                check_options(config, _TINY)
                converted = diffusers_tiny_from_scope(scope)
            floats = {name: finite_floats(name, v) for name, v in converted.weights.items()}
    except HpdError as error:
        raise GeneratorError(
            f"cannot read the autoencoder in {folder}: {error.problem}", got=error.got,
            expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    # the limits should make both impossible; a caller may have used up the stack or the memory
    except (MemoryError, RecursionError) as error:
        reason = type(error).__name__
        raise GeneratorError(f"cannot read the autoencoder in {folder}", got=reason) from None
    converted = Converted(converted.settings, floats, converted.facts, converted.remarks)
    return FoundFolder(converted, weights, _licence(folder / "README.md"))


def _json(path: Path) -> dict[str, Any]:
    """Return the mapping in a small file."""
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise GeneratorError(f"{path.name} is too large", got=f"{path.stat().st_size} bytes")
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise GeneratorError(f"{path.name} is damaged", got=type(error).__name__) from None
    if not isinstance(found, dict):
        raise GeneratorError(f"{path.name} is damaged", got=type(found).__name__)
    return found


def _licence(card: Path) -> str:
    """Return the licence at the head of a model card."""
    try:
        with card.open("rb") as file:
            head = file.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    front = re.match(r"---\r?\n(.*?)\r?\n---", head, re.DOTALL)
    stated = re.search(r"^license:[ \t]*([\w.+-]{1,64})[ \t]*\r?$", front[1] if front else "", re.M)
    return stated[1] if stated else ""
