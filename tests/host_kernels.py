"""The kernels of CUDA, compiled for the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from generators.ops.toolchain import CSRC

_SOURCE = Path(__file__).parent / "generators" / "ops" / "emulated.cpp"


def host_kernels(folder: Path) -> ctypes.CDLL:
    """Compile them into a folder; without a compiler the test is skipped."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    library = folder / "emulated.so"
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-I{CSRC}"]
    subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
