"""Chooses between the native operations and their references, and loads the former.

``HPD_OPS`` says which: ``auto``, the default, takes the native ones where they can be had and
says so once where not; ``native`` insists; ``reference`` builds and loads nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from generators.ops.build import FailedBeforeError, build
from generators.ops.cuda import nvrtc
from generators.ops.cuda.driver import Driver, OnDevice
from generators.ops.cuda.kernels import Kernel
from generators.ops.cuda.launches import Operations
from generators.ops.toolchain import DEVICE_TYPES, DeviceType, read_recipe
from hpd.errors import OpsError, nearest

VARIABLE = "HPD_OPS"
MODES = ("auto", "native", "reference")

# how nvcc begins what it makes for several architectures
_FATBIN, _MAGIC = ".fatbin", bytes.fromhex("50ed55ba")

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
        if device_type == "cuda":
            Operations(OnDevice(Driver.of_system(), partial(_code_of, library))).register()
    except OpsError as error:
        compiler = nvrtc.available() if device_type == "cuda" else None
        if compiler is None:
            return error
        try:
            Operations(OnDevice(Driver.of_system(), nvrtc.code_of)).register()
        except OpsError as no_driver:
            return no_driver
        return compiler
    return library


def load(library: Path) -> None:
    """Load a library of a CPU, which registers its kernels with torch; look at one of GPUs.

    Code of GPUs is loaded when a kernel of it is first started.

    Raises:
        OpsError: if it does not load.
    """
    try:
        if library.suffix != _FATBIN:
            torch.ops.load_library(str(library))
        elif _magic_of(library) != _MAGIC:
            raise OSError(f"{library} is no code of GPUs")
    except (OSError, RuntimeError) as error:
        raise OpsError("native operations do not load", got=error) from None


def _magic_of(library: Path) -> bytes:
    with library.open("rb") as file:
        return file.read(len(_MAGIC))


@cache
def _content(library: Path) -> bytes:
    return library.read_bytes()


def _code_of(library: Path, kernel: Kernel, index: int) -> tuple[str, bytes]:
    return str(library), _content(library)


def opened(device_type: DeviceType) -> Path | str | OpsError | None:
    """Return what this process runs: a library, a compiler, or why neither; None: not tried yet."""
    return _OPENED.get(device_type)
