"""Kernels of CUDA without nvcc: compiled by NVRTC, which torch's own wheels bring along.

What comes out is kept in the cache by a key of the sources, the architecture and the compiler, so
that a process compiles a kernel at most once on a machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from generators.ops.build import cache_folder
from generators.ops.cuda.kernels import Kernel
from generators.ops.toolchain import CSRC
from hpd.disk.files import write_bytes, write_json
from hpd.errors import OpsError

_HEADERS = (
    "number.h", "cuda/plans.h", "cuda/runs.h", "cuda/room.h", "cuda/filtered.h", "cuda/resample.h",
    "cuda/pointwise.h", "cuda/kernels.h",
)  # fmt: skip
_FLAGS = ("--std=c++17", "-default-device")


def available() -> str | None:
    """Return which compiler there is, None where there is none."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return None
    try:
        nvrtc = _nvrtc()
        error, major, minor = nvrtc.nvrtcVersion()
        _check(error, "NVRTC does not work")
    # a library that is missing or does not fit says so in as many ways
    except (ImportError, OSError, RuntimeError, OpsError):
        return None
    return f"NVRTC {major}.{minor}"


def compiled(kernels: Sequence[Kernel], arch: str) -> bytes:
    """Return kernels as code of an architecture, from the cache if they are there.

    Args:
        kernels: which.
        arch: such as ``90``.

    Raises:
        OpsError: if NVRTC is not there, or says no.
    """
    key = _key(kernels, arch)
    code, seal = (cache_folder() / f"nvrtc-{key}{suffix}" for suffix in (".cubin", ".json"))
    try:
        found = code.read_bytes()
        if json.loads(seal.read_text("utf-8"))["sha256"] == hashlib.sha256(found).hexdigest():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made = _compile(kernels, arch)
    cache_folder().mkdir(parents=True, exist_ok=True)
    write_bytes(code, made)
    write_json(seal, {"sha256": hashlib.sha256(made).hexdigest()})
    return made


def code_of(kernel: Kernel, index: int) -> tuple[str, bytes]:
    """Return a kernel as code for a device, with a name of that code.

    Raises:
        OpsError: if NVRTC is not there, or says no.
    """
    arch = "".join(map(str, torch.cuda.get_device_capability(index)))
    return kernel.name, compiled([kernel], arch)


@cache
def _headers() -> tuple[tuple[str, bytes], ...]:
    """Return name and content of each header, as other headers name it."""
    return tuple((path.rsplit("/", 1)[-1], (CSRC / path).read_bytes()) for path in _HEADERS)


def _key(kernels: Sequence[Kernel], arch: str) -> str:
    try:
        release = version("nvidia-cuda-nvrtc")
    except PackageNotFoundError:
        release = str(available())
    digest = hashlib.sha256("\0".join([arch, release, *_FLAGS, _source(kernels)]).encode())
    for name, content in _headers():
        digest.update(name.encode() + content)
    return digest.hexdigest()[:24]


def _source(kernels: Sequence[Kernel]) -> str:
    return "\n".join(['#include "kernels.h"', *(kernel.definition for kernel in kernels), ""])


def _compile(kernels: Sequence[Kernel], arch: str) -> bytes:
    nvrtc = _nvrtc()
    names, contents = zip(*_headers(), strict=True)
    error, program = nvrtc.nvrtcCreateProgram(
        _source(kernels).encode(), b"hpd.cu", len(names), list(contents),
        [name.encode() for name in names],
    )  # fmt: skip
    _check(error, "NVRTC takes no program")
    try:
        flags = [flag.encode() for flag in (*_FLAGS, f"--gpu-architecture=sm_{arch}")]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        if int(error):
            raise OpsError(
                f"NVRTC does not compile the kernels for sm_{arch}", lines=_log(nvrtc, program)
            )
        error, size = nvrtc.nvrtcGetCUBINSize(program)
        _check(error, "NVRTC gives no code")
        code = b" " * size
        (error,) = nvrtc.nvrtcGetCUBIN(program, code)
        _check(error, "NVRTC gives no code")
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(nvrtc: Any, program: Any) -> list[str]:
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    lines = log.decode("utf-8", "replace").splitlines()
    return [line for line in lines if "error" in line][:10] or lines[:10]


def _nvrtc() -> Any:
    from cuda.bindings import nvrtc

    return nvrtc


def _check(error: Any, what: str) -> None:
    if int(error):
        raise OpsError(what, got=getattr(error, "name", str(error)))
