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
_SOURCES = {"cpu": "*.cpp", "cuda": "*.cu"}
_HEADERS = (".h", ".hpp", ".cuh")
# torch's own headers ask for C++20
_COMMON = ("-std=c++20", "-O3")
_CPU_FLAGS = (*_COMMON, "-march=native", "-fPIC", "-fopenmp")
_CUDA_FLAGS = (*_COMMON, "--expt-relaxed-constexpr", "-Xcompiler=-fPIC")
_ARCHS = "HPD_CUDA_ARCHS"


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
        link: flags of the linker.
        key: hash of the sources, headers, flags, compiler with the processor it compiles for,
            torch and CUDA; not of where any of them lies.
    """

    device_type: DeviceType
    sources: tuple[Path, ...]
    compiler: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    includes: tuple[str, ...]
    link: tuple[str, ...]
    key: str

    @property
    def library(self) -> str:
        """Name of the file that is made."""
        return f"libhpd_ops_{self.device_type}.so"


def read_recipe(device_type: DeviceType, csrc: Path = CSRC) -> Recipe:
    """Find out how the library for a type of device is made here, without making it.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        csrc: folder of the sources: ``cpu/*.cpp``, ``cuda/*.cu``, headers anywhere in it.

    Raises:
        OpsError: if there is no source, no working compiler, or no CUDA to build for.
    """
    if sys.platform != "linux":
        raise OpsError("native operations are built on Linux only", got=sys.platform)
    sources = tuple(sorted((csrc / device_type).glob(_SOURCES[device_type])))
    if not sources:
        raise OpsError(f"no native operations for {device_type}", got=f"an empty {csrc}")
    root = Path(torch.__file__).parent
    includes = tuple(f"-I{root / 'include' / sub}" for sub in ("", "torch/csrc/api/include"))
    libraries = root / "lib"
    host, macros = _host_compiler(_CPU_FLAGS if device_type == "cpu" else _COMMON)
    identity = [macros]
    link = ["-shared", f"-L{libraries}", "-ltorch_cpu", "-lc10"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    if device_type == "cpu":
        compiler, flags = host, (*_CPU_FLAGS, abi)
        version = f"{host[0]} {_macro(macros, '__VERSION__')}"
        link += _openmp(libraries)
    else:
        nvcc, version = _find_nvcc()
        compiler = (nvcc, f"-ccbin={host[0]}")
        flags = (*_CUDA_FLAGS, *_gencode(), abi)
        identity.append(version)
        # the runtime that torch has loaded: a second one inside the library would not know its
        # streams' state
        link += ["-lc10_cuda", "-cudart=shared"]
    files = [path for path in csrc.rglob("*") if path.suffix in _HEADERS] + list(sources)
    identity += [device_type, *flags, torch.__version__, str(torch.version.cuda)]
    return Recipe(
        device_type=device_type,
        sources=sources,
        compiler=compiler,
        version=version,
        flags=flags,
        includes=(*includes, f"-I{csrc}"),
        link=tuple(link),
        key=_key(csrc, sorted(files), identity),
    )


def _key(csrc: Path, files: Iterable[Path], identity: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(csrc)} {len(content)}\n".encode() + content)
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


def _macro(macros: str, name: str) -> str:
    found = re.search(rf'^#define {name} "?(.*?)"?$', macros, re.M)
    return found[1] if found else "of unknown version"


def _openmp(libraries: Path) -> list[str]:
    """Link the OpenMP of torch where it brings one: two of them keep two sets of threads."""
    return [str(path) for path in libraries.glob("libgomp*.so*")][:1] or ["-fopenmp"]


def _find_nvcc() -> tuple[str, str]:
    """Return nvcc and its version, which must be of torch's CUDA."""
    ours = torch.version.cuda
    if ours is None:
        raise OpsError("this torch is built without CUDA", got=torch.__version__)
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if nvcc is None:
        raise OpsError(
            "no CUDA compiler", got=f"CUDA_HOME={home}" if home else None,
            fix=f"Install nvcc {ours}, or set CUDA_HOME.",
        )  # fmt: skip
    found = re.search(r"release ([\d.]+)", _ask([nvcc, "--version"]))
    version = found[1] if found else "of unknown version"
    if version.partition(".")[0] != ours.partition(".")[0]:
        raise OpsError(f"{nvcc} does not fit torch", got=version, expected=f"CUDA {ours}")
    return nvcc, f"{nvcc} {version}"


def _gencode() -> list[str]:
    """Return flags for the architectures asked for, or those of the devices that are here."""
    asked = os.environ.get(_ARCHS, "").replace(";", " ").replace(",", " ").split()
    if not asked:
        count = torch.cuda.device_count()
        pairs = [torch.cuda.get_device_capability(index) for index in range(count)]
        asked = [f"{major}{minor}" for major, minor in pairs]
    if not asked:
        raise OpsError("no CUDA device", fix=f"Set {_ARCHS}, such as '80;90', to build for some.")
    for arch in asked:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            raise OpsError(f"{_ARCHS} is not valid", got=arch, expected="such as '80;90;100'")
    return [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in sorted(set(asked))]
