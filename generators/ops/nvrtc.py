"""Kernels of CUDA without nvcc: compiled by NVRTC, which torch's own wheels bring along.

What comes out is kept in the cache by a key of the sources, the architecture and the compiler, so
that a process compiles a kernel at most once on a machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from generators.ops.build import cache_folder
from generators.ops.toolchain import CSRC
from hpd.errors import OpsError
from hpd.files import write_bytes, write_json

_HEADERS = ("number.h", "cuda/filtered.h", "cuda/resample.h", "cuda/pointwise.h", "cuda/kernels.h")
_SOURCE = '#include "kernels.h"\n'
_FLAGS = ("--std=c++17", "-default-device")


@dataclass(frozen=True)
class Compiled:
    """Kernels as code of one architecture.

    Args:
        code: a cubin.
        names: what each is called in it, by its expression.
    """

    code: bytes
    names: dict[str, str]


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


def compiled(expressions: Sequence[str], arch: str) -> Compiled:
    """Return kernels for an architecture, from the cache if they are there.

    Args:
        expressions: such as ``hpd::bias_act_kernel<float>``.
        arch: such as ``90``.

    Raises:
        OpsError: if NVRTC is not there, or says no.
    """
    key = _key(expressions, arch)
    code, names = (cache_folder() / f"nvrtc-{key}{suffix}" for suffix in (".cubin", ".json"))
    try:
        kept = json.loads(names.read_text("utf-8"))
        found = Compiled(code.read_bytes(), kept["names"])
        if kept["sha256"] == hashlib.sha256(found.code).hexdigest():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made = _compile(expressions, arch)
    cache_folder().mkdir(parents=True, exist_ok=True)
    write_bytes(code, made.code)
    write_json(names, {"names": made.names, "sha256": hashlib.sha256(made.code).hexdigest()})
    return made


@cache
def _headers() -> tuple[tuple[str, bytes], ...]:
    """Return name and content of each header, as other headers name it."""
    return tuple((path.rsplit("/", 1)[-1], (CSRC / path).read_bytes()) for path in _HEADERS)


def _key(expressions: Sequence[str], arch: str) -> str:
    try:
        release = version("nvidia-cuda-nvrtc")
    except PackageNotFoundError:
        release = str(available())
    digest = hashlib.sha256("\0".join([arch, release, *_FLAGS, *expressions]).encode())
    for name, content in _headers():
        digest.update(name.encode() + content)
    return digest.hexdigest()[:24]


def _compile(expressions: Sequence[str], arch: str) -> Compiled:
    nvrtc = _nvrtc()
    names, contents = zip(*_headers(), strict=True)
    error, program = nvrtc.nvrtcCreateProgram(
        _SOURCE.encode(), b"hpd.cu", len(names), list(contents), [name.encode() for name in names]
    )
    _check(error, "NVRTC takes no program")
    try:
        for expression in expressions:
            (error,) = nvrtc.nvrtcAddNameExpression(program, expression.encode())
            _check(error, expression)
        flags = [flag.encode() for flag in (*_FLAGS, f"--gpu-architecture=sm_{arch}")]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        if int(error):
            raise OpsError(
                f"NVRTC does not compile the kernels for sm_{arch}", lines=_log(nvrtc, program)
            )
        lowered = {}
        for expression in expressions:
            error, name = nvrtc.nvrtcGetLoweredName(program, expression.encode())
            _check(error, expression)
            lowered[expression] = name.decode()
        error, size = nvrtc.nvrtcGetCUBINSize(program)
        _check(error, "NVRTC gives no code")
        code = b" " * size
        (error,) = nvrtc.nvrtcGetCUBIN(program, code)
        _check(error, "NVRTC gives no code")
        return Compiled(code, lowered)
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
