"""Chooses between the native operations and their references, and loads the former."""

from __future__ import annotations

import logging
import os
import threading

import torch
from torch import Tensor

from generators.ops.build import build
from generators.ops.toolchain import DEVICE_TYPES, read_recipe
from hpd.errors import OpsError

_logger = logging.getLogger(__name__)
_CHOSEN: dict[tuple[str, str], bool] = {}
_LOCK = threading.RLock()


def uses_native(tensor: Tensor) -> bool:
    """Say whether operations on this tensor run natively; builds and loads on first use."""
    return _decide(tensor.device.type)


def _decide(device_type: str) -> bool:
    key = (os.environ.get("HPD_OPS", "auto"), device_type)
    chosen = _CHOSEN.get(key)
    if chosen is not None:
        return chosen
    with _LOCK:
        _CHOSEN[key] = _choose(*key)
    return _CHOSEN[key]


# torch.compiler.assume_constant_result does just this, after an import that takes seconds
_decide._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _choose(mode: str, device_type: str) -> bool:
    if device_type not in DEVICE_TYPES or mode == "reference":
        return False
    if mode not in ("auto", "native"):
        raise OpsError("HPD_OPS is not valid", got=mode, expected="auto, reference or native")
    try:
        torch.ops.load_library(str(build(read_recipe(device_type))))
    except OpsError as error:
        if mode == "native":
            raise
        _logger.warning("the reference runs on %s: %s (see hpd ops status)", device_type, error)
        return False
    return True
