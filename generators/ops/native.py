"""Chooses between the native operations and their references, and loads the former.

``HPD_OPS`` says which: ``auto``, the default, takes the native ones where they can be had and
says so once where not; ``native`` insists; ``reference`` builds and loads nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from generators.ops import nvrtc
from generators.ops.build import FailedBeforeError, build, find_failure, find_library
from generators.ops.launches import OnDevice, Operations
from generators.ops.toolchain import DEVICE_TYPES, DeviceType, Recipe, read_recipe
from hpd.errors import OpsError, nearest

VARIABLE = "HPD_OPS"
MODES = ("auto", "native", "reference")

_logger = logging.getLogger(__name__)
# by HPD_OPS and type of device, so that a change of the variable counts at once
_CHOSEN: dict[tuple[str, str], bool] = {}
# the library of each type of device, or the compiler that makes kernels as they are asked for, or
# why there is neither: tried once in a process
_OPENED: dict[DeviceType, Path | str | OpsError] = {}
_GUARD = threading.RLock()


def uses_native(tensor: Tensor) -> bool:
    """Say whether an operation on this tensor runs natively.

    The first tensor on a type of device has the library built where it is not there yet, and
    loaded. On devices other than CPU and CUDA the reference runs whatever ``HPD_OPS`` says.

    Raises:
        OpsError: if ``HPD_OPS`` is ``native`` and that is not possible, or if it is unknown.
    """
    return _decide(tensor.device.type)


def _decide(device_type: str) -> bool:
    key = (os.environ.get(VARIABLE, ""), device_type)
    chosen = _CHOSEN.get(key)
    if chosen is None:
        with _GUARD:
            chosen = _CHOSEN[key] = _choose(device_type)
    return chosen


# A compiler must not look into a build, but take its outcome as it is. That is what
# torch.compiler.assume_constant_result says, too, after an import of several seconds.
_decide._dynamo_marked_constant = True  # type: ignore[attr-defined]


def requested_mode() -> str:
    """Return what ``HPD_OPS`` asks for.

    Raises:
        OpsError: if that is none of `MODES`.
    """
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise OpsError(f"unknown {VARIABLE} {mode!r}", fix=nearest(mode, MODES))
    return mode


def _choose(device_type: str) -> bool:
    mode = requested_mode()
    known = next((name for name in DEVICE_TYPES if name == device_type), None)
    if known is None or mode == "reference":
        return False
    if known not in _OPENED:
        _OPENED[known] = _open(known)
    opened = _OPENED[known]
    if not isinstance(opened, OpsError):
        _logger.info("native operations run on %s: %s", known, opened)
        return True
    if mode == "native":
        raise opened.with_traceback(None)
    # what the compiler said was shown when it was new
    reason = " ".join([opened.args[0], *opened.lines[:1]])
    _logger.warning(
        "the slower reference runs on %s (see 'hpd ops status'): %s",
        known, reason if isinstance(opened, FailedBeforeError) else opened,
    )  # fmt: skip
    return False


def _open(device_type: DeviceType) -> Path | str | OpsError:
    """Build what is not there, load it, and return where it lies, or why that failed.

    Where there is no nvcc, kernels of CUDA are compiled as they are asked for.
    """
    try:
        library = build(read_recipe(device_type))
        load(library)
    except OpsError as error:
        compiler = nvrtc.available() if device_type == "cuda" else None
        if compiler is None:
            return error
        Operations(OnDevice()).register()
        return compiler
    return library


def load(library: Path) -> None:
    """Load a library, which registers its kernels with torch.

    Raises:
        OpsError: if it does not load.
    """
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        raise OpsError("native operations do not load", got=error) from None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs on a type of device.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        path: what runs; ``"none"`` where ``HPD_OPS=native`` asks for what cannot be had.
        reason: why, and why not the other.
        library: the file of the native operations, where there is one.
        compiler: what builds them here, with its version, where there is one.
        flags: what it is given.
    """

    device_type: DeviceType
    path: Literal["native", "reference", "none"]
    reason: str
    library: Path | None = None
    compiler: str | None = None
    flags: tuple[str, ...] = ()


def status() -> list[Status]:
    """Say for each type of device what runs there; nothing is built or loaded for that.

    Raises:
        OpsError: if ``HPD_OPS`` is unknown.
    """
    mode = requested_mode()
    return [_look(device_type, mode) for device_type in DEVICE_TYPES]


def _look(device_type: DeviceType, mode: str) -> Status:
    recipe: Recipe | None = None
    library: Path | None = None
    problem: OpsError | None = None
    try:
        recipe = read_recipe(device_type)
        library = find_library(recipe)
        problem = None if library else find_failure(recipe)
    except OpsError as error:
        problem = error
    opened = _OPENED.get(device_type)
    if isinstance(opened, Path):
        library, problem = opened, None
    elif isinstance(opened, OpsError):
        problem = opened
    compiler = None
    if device_type == "cuda" and problem is not None and torch.cuda.is_available():
        compiler = nvrtc.available()
    path: Literal["native", "reference", "none"] = "native"
    reason = "built" if library else "not built yet: on first use, or now by 'hpd ops build'"
    if compiler is not None and library is None:
        reason = f"each kernel on first use, by {compiler}: {problem}"
    elif problem is not None:
        path, reason = "none" if mode == "native" else "reference", str(problem)
    if mode == "reference":
        path, reason = "reference", f"{VARIABLE}=reference"
    return Status(
        device_type=device_type,
        path=path,
        reason=reason,
        library=library,
        compiler=recipe.version if recipe else compiler,
        flags=recipe.flags if recipe else (),
    )
