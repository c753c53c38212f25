"""What a library of native operations is made from: sources, compiler, flags, and their key."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from hpd.errors import OpsError

DeviceType = Literal["cpu", "cuda"]
DEVICE_TYPES: tuple[DeviceType, ...] = get_args(DeviceType)
CSRC = Path(__file__).parent / "csrc"
_TORCH = Path(torch.__file__).parent
_SOURCES = {"cpu": ".cpp", "cuda": ".cu"}
# of CUDA there is code for GPUs alone, which torch's library of the host knows nothing of
_LIBRARIES = {"cpu": "libhpd_ops_cpu.so", "cuda": "hpd_ops_cuda.fatbin"}
_HEADERS = (".h", ".hpp", ".cuh")
# torch's own headers ask for C++20
_COMMON = ("-std=c++20", "-O3")
_CPU_FLAGS = (*_COMMON, "-march=native", "-fPIC", "-fopenmp")
_CUDA_FLAGS = ("-std=c++17", "-O3", "-fatbin")
ARCHS = "HPD_CUDA_ARCHS"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one library is made; two recipes of one key make the same library.

    Args:
        device_type: where its kernels run.
        sources: files to compile, absolute.
        compiler: the command that compiles and links.
        version: what the compiler calls itself.
        flags: what decides the code that comes out.
        includes: flags that say where headers lie.
        link: flags of the linker; None where the compiler makes the whole of it.
        key: hash of the sources, headers, flags, compiler with the processor it compiles for,
            and for a CPU of torch; not of where any of them lies.
    """

    device_type: DeviceType
    sources: tuple[Path, ...]
    compiler: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    includes: tuple[str, ...]
    link: tuple[str, ...] | None
    key: str

    @property
    def library(self) -> str:
        """Name of the file that is made."""
        return _LIBRARIES[self.device_type]


def read_recipe(device_type: DeviceType) -> Recipe:
    """Find out how the library for a type of device is made here, without making it.

    Its sources are ``csrc/cpu/*.cpp``, or ``csrc/cuda/*.cu``, with headers beside them and in
    ``csrc``. The compiler is the one that ``CXX`` names, or g++, c++ or clang++; nvcc
    is that of ``CUDA_HOME``, or the first on the path, or that of ``/usr/local/cuda``.

    Raises:
        OpsError: if there is no source, no working compiler, or no CUDA to build for.
    """
    if sys.platform != "linux":
        raise OpsError("native operations are built on Linux only", got=sys.platform)
    files = sorted((CSRC / device_type).glob("*"))
    sources = tuple(path for path in files if path.suffix == _SOURCES[device_type])
    if not sources:
        raise OpsError(f"no sources of native operations for {device_type}", got=CSRC)
    tools = _tools_for_cuda() if device_type == "cuda" else _tools_for_cpu()
    headers = [path for path in [*CSRC.glob("*"), *files] if path.suffix in _HEADERS]
    return Recipe(
        device_type=device_type,
        sources=sources,
        compiler=tools.compiler,
        version=tools.version,
        flags=tools.flags,
        includes=(f"-I{CSRC}", *tools.includes),
        link=tools.link,
        key=_key(sorted([*sources, *headers]), [device_type, *tools.flags, *tools.identity]),
    )


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """What compiles for a type of device; `identity` tells one such tool from another."""

    compiler: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    includes: tuple[str, ...] = ()
    link: tuple[str, ...] | None = None
    identity: tuple[str, ...]


def _tools_for_cpu() -> _Tools:
    compiler, macros = _host_compiler(_CPU_FLAGS)
    found = re.search(r'^#define __VERSION__ "(.*)"$', macros, re.M)
    # the OpenMP that torch brings, if it does: two of them would keep two sets of threads
    openmp = [str(path) for path in (_TORCH / "lib").glob("libgomp*.so*")][:1]
    include = _TORCH / "include"
    return _Tools(
        compiler=compiler,
        version=f"{compiler[0]} {found[1] if found else 'of unknown version'}",
        flags=(*_CPU_FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"),
        includes=(f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"),
        link=(
            "-shared", f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10", *(openmp or ["-fopenmp"])
        ),
        # with -march=native they name the processor's instruction sets
        identity=(macros, torch.__version__, str(torch.version.cuda)),
    )  # fmt: skip


def _tools_for_cuda() -> _Tools:
    targets = _targets()
    nvcc, version = _find_nvcc()
    host, macros = _host_compiler(_COMMON)
    # behind ccache and the like stands the compiler itself
    own = [word for word in host if not word.startswith("-")][-1]
    return _Tools(
        compiler=(nvcc, f"-ccbin={own}"),
        version=f"{nvcc} {version}",
        flags=(*_CUDA_FLAGS, *targets),
        identity=(version, macros),
    )


def _key(files: Iterable[Path], identity: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(CSRC)} {len(content)}\n".encode() + content)
    digest.update("\0".join(identity).encode())
    return digest.hexdigest()[:24]


def _host_compiler(flags: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the C++ compiler, and all macros it defines: its version and the processor's."""
    named = shlex.split(os.environ.get("CXX", ""))
    command = next(filter(None, map(shutil.which, named[:1] or ("g++", "c++", "clang++"))), None)
    if command is None:
        raise OpsError(
            "no C++ compiler", got=named[0] if named else None,
            fix="Install g++, or name a compiler in CXX.",
        )  # fmt: skip
    compiler = (command, *named[1:])
    macros = _ask([*compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    return compiler, "\n".join(sorted(macros.splitlines()))


def _ask(command: Sequence[str]) -> str:
    """Return what a tool answers."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        problem = done.stderr.strip().splitlines()[:1] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = [str(error)]
    if problem is not None:
        raise OpsError(f"{command[0]} does not work", got=" ".join(problem) or None)
    return done.stdout


def _find_nvcc() -> tuple[str, str]:
    """Return nvcc and its version, of which the first number must be that of torch's CUDA."""
    ours = torch.version.cuda or ""
    home = os.environ.get("CUDA_HOME")
    local = sorted(str(path) for path in Path("/usr/local").glob("cuda*/bin/nvcc"))
    places = [f"{home}/bin/nvcc"] if home else ["nvcc", *local]
    found = [nvcc for nvcc in map(shutil.which, places) if nvcc is not None]
    if not found:
        raise OpsError(
            "no CUDA compiler", got=f"CUDA_HOME={home}" if home else None,
            fix=f"Install nvcc {ours}, or set CUDA_HOME.",
        )  # fmt: skip
    versions = [_version_of(nvcc) for nvcc in found]
    # one that does not fit may stand before one that does
    for nvcc, version in zip(found, versions, strict=True):
        if version.partition(".")[0] == ours.partition(".")[0]:
            return nvcc, version
    raise OpsError(f"{found[0]} does not fit torch", got=versions[0], expected=f"CUDA {ours}")


def _version_of(nvcc: str) -> str:
    said = re.search(r"V(\d[\d.]*)", _ask([nvcc, "--version"]))
    return said[1] if said else "of unknown version"


def wants_cuda() -> bool:
    """Say whether there is something to build for with CUDA."""
    return torch.cuda.is_available() or bool(os.environ.get(ARCHS))


def _targets() -> list[str]:
    """Return flags for the architectures asked for, or those of the devices that are here."""
    if torch.version.cuda is None:
        raise OpsError("this torch is built without CUDA", got=torch.__version__)
    asked = os.environ.get(ARCHS, "").replace(";", " ").replace(",", " ").split()
    if not asked:
        count = torch.cuda.device_count()
        pairs = [torch.cuda.get_device_capability(index) for index in range(count)]
        asked = [f"{major}{minor}" for major, minor in pairs]
    if not asked:
        raise OpsError("no CUDA device", fix=f"Set {ARCHS}, such as '80;90', to build for some.")
    for arch in asked:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            raise OpsError(f"{ARCHS} is not valid", got=arch, expected="such as '80;90;100'")
    return [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in sorted(set(asked))]
