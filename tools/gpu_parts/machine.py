"""What machine this is, which native operations run, and how long they take to build."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from generators.ops import native
from generators.ops.build import build as build_library
from generators.ops.build import find_library
from generators.ops.cuda import nvrtc
from generators.ops.cuda.kernels import every_kernel
from generators.ops.status import status as look_at_operations
from generators.ops.toolchain import DeviceType, read_recipe
from gpu_parts.part import Place, Row, guarded, judged
from hpd.errors import OpsError
from hpd.machine.device import open_device
from hpd.machine.precision import has_fast_bfloat16


def machine(place: Place) -> Iterator[Row]:
    """Say what torch, its device and the native operations are."""
    versions = {
        "python": platform.python_version(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(), "system": platform.platform(),
    }  # fmt: skip
    yield Row("versions", "told", _listed(versions), versions)
    yield from guarded("device", lambda: _device(place))
    threads = torch.get_num_threads()
    cores = f"{os.cpu_count()} cores, {threads} threads of torch"
    yield Row("host", "told", f"{platform.machine()}, {cores}", {"threads": threads})
    for status in look_at_operations():
        # of the other type of device it does not matter
        verdict = judged(status.path == "native") if status.device_type == place.device else "told"
        cards = [asdict(card) for card in status.cards]
        figures = {
            "path": status.path,
            "way": status.way,
            "cards": cards,
            "compiler": status.compiler,
            "flags": list(status.flags),
        }
        says = " ".join(f"{status.path} by {status.way}: {status.reason}".split())
        yield Row(f"native operations, {status.device_type}", verdict, says, figures)


def _device(place: Place) -> Row:
    device = open_device(place.device)
    fast = has_fast_bfloat16(device)
    if device.type != "cuda":
        return Row("device", "good", f"cpu, fast bfloat16: {fast}", {"name": "cpu"})
    known = torch.cuda.get_device_properties(device)
    free, whole = torch.cuda.mem_get_info(device)
    figures = {
        "name": known.name, "capability": f"{known.major}.{known.minor}",
        "processors": known.multi_processor_count, "bytes": whole, "free_bytes": free,
        "fast_bfloat16": fast, "count": torch.cuda.device_count(),
    }  # fmt: skip
    # a kernel of torch's own, which says whether this torch has code for the card
    total = float(torch.ones(1000, device=device).sum())
    return Row("device", judged(total == 1000), _listed(figures), figures)


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, as its own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def build(place: Place) -> Iterator[Row]:
    """Build by each compiler that is there, and time it."""
    by = "nvcc" if place.device == "cuda" else "g++"
    yield from guarded(f"by {by}", lambda: _library(place, f"by {by}"))
    yield from guarded("by NVRTC", lambda: _nvrtc(place))


def _library(place: Place, what: str) -> Row:
    kind: DeviceType = "cuda" if place.device == "cuda" else "cpu"
    try:
        recipe = read_recipe(kind)
    except OpsError as error:
        return Row(what, "skipped", str(error))
    if find_library(recipe) is not None:
        native.load(build_library(recipe))
        return Row(what, "good", f"there already, and loads; {recipe.version}")
    started = time.perf_counter()
    library = build_library(recipe, retry=True)
    seconds = time.perf_counter() - started
    native.load(library)
    figures = {"seconds": seconds, "compiler": recipe.version, "bytes": library.stat().st_size}
    return Row(what, "good", f"{seconds:.1f} s by {recipe.version}", figures)


def _nvrtc(place: Place) -> Row:
    """Compile every kernel once more, of which a run compiles only those that it starts."""
    compiler = nvrtc.available()
    if compiler is None:
        return Row("by NVRTC", "skipped", "no NVRTC: cuda-bindings with its wheels")
    arch = "90"
    if place.device == "cuda":
        arch = "".join(map(str, torch.cuda.get_device_capability()))
    kernels = [k for k in every_kernel() if not place.tiny or "float32" in k.name]
    with _own_cache():
        started = time.perf_counter()
        made = nvrtc.compiled(kernels, arch)
        seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "kernels": len(kernels), "bytes": len(made), "arch": arch}
    says = f"{len(kernels)} kernels for sm_{arch} in {seconds:.1f} s by {compiler}"
    return Row("by NVRTC", "good", says, figures)


@contextmanager
def _own_cache() -> Iterator[None]:
    """Find nothing that was compiled before."""
    before = os.environ.get("HPD_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HPD_CACHE"] = str(Path(folder))
        try:
            yield
        finally:
            if before is None:
                del os.environ["HPD_CACHE"]
            else:
                os.environ["HPD_CACHE"] = before
