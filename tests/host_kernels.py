"""The kernels of CUDA on the host, behind a stand-in for NVIDIA's driver that runs them."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from generators.ops import scaled, schema
from generators.ops.cuda import kernels
from generators.ops.cuda.driver import Driver, OnDevice
from generators.ops.cuda.kernels import RAISED, every_kernel, resample
from generators.ops.cuda.launches import OPERATIONS, Operations
from generators.ops.toolchain import CSRC

_SOURCE = Path(__file__).parent / "generators" / "ops" / "emulated.cpp"
# no GPU computes images in it, but what derivatives are held to
_DOUBLE = {torch.float64: ("float64", "double")}


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="hpd-emulated-")


@functools.cache
def _library(dtype):
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    name = str(dtype).removeprefix("torch.")
    folder = Path(_folder().name) / name
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_TYPES", kernels._TYPES | _DOUBLE)
        patch.setattr(kernels, "DTYPES", (dtype,))
        wanted = {k.name: k.definition for k in every_kernel()}
        # long filters go through memory in float32
        for rates in kernels._RATES:
            kernel = resample(torch.float32, *rates)
            wanted[kernel.name] = kernel.definition
    wanted[RAISED.name] = RAISED.definition
    (folder / "definitions.inc").write_text("\n".join(wanted.values()) + "\n")
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-I{CSRC}", f"-I{folder}"]
    library = folder / "emulated.so"
    subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def host_kernels(dtype=torch.float32) -> ctypes.CDLL:
    """Return the kernels of a dtype for the host, compiled once; the test is skipped without g++.

    Threads are 256, first to last.
    """
    library = _library(dtype)
    if library is None:
        pytest.skip("no g++")
    library.pretend_threads(256, 0)
    library.pretend_new_thread()
    return library


class OnHost(OnDevice):
    """Starts kernels on the host, by what a GPU would have got; keeps the launches.

    Args:
        dtype: of images.
        shared_kib: shared memory that a block of the pretended card may ask for.
        processors: that it has.
    """

    def __init__(self, dtype=torch.float32, shared_kib=227, processors=132):
        self.library, self.started = host_kernels(dtype), []
        self.card = shared_kib * 1024, processors
        super().__init__(Driver(self.library), lambda kernel, index: ("all", b"emulated"))

    def room(self, like):
        self.library.pretend_card(*self.card)
        return super().room(like)

    def __call__(self, launch, like):
        self.library.pretend_card(*self.card)
        self.started.append(launch)
        self.start(launch, 0, 0)

    @property
    def names(self):
        """Of the kernels that were started."""
        return [launch.kernel.name for launch in self.started]


@contextmanager
def doubles(monkeypatch):
    """Have kernels of float64 in a block, which no GPU has."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_TYPES", kernels._TYPES | _DOUBLE)
        yield


@contextmanager
def pretending_cuda(monkeypatch, dtype=torch.float32):
    """Let the operations of CUDA be those of the CPU in a block, on the kernels of the host.

    Gives what starts them.
    """
    start = OnHost(dtype)
    operations = Operations(start)
    library = torch.library.Library("hpd", "IMPL")
    with doubles(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(scaled, "DEVICE_TYPES", {"cpu"})
        patch.setattr(schema, "ROWS_RECORDED", {"cpu"})
        patch.setattr("generators.ops.native._CHOSEN", _Always())
        try:
            for name in OPERATIONS:
                library.impl(name, getattr(operations, name), "CPU", allow_override=True)
            yield start
        finally:
            library._destroy()


class _Always(dict):
    """Whatever is asked, native operations run."""

    def get(self, key, default=None):
        return True
