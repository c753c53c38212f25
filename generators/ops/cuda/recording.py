"""Graphs of CUDA: what a device was asked for, recorded once and asked for again in one call.

What is recorded reads and writes the same memory each time. No code of Python runs again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from hpd.errors import OpsError, nearest

VARIABLE = "HPD_GRAPHS"
MODES = ("off", "on")
DEVICE_TYPES = {"cuda"}
"""Where graphs can be recorded."""

_WARM_UPS = 2
_Result = TypeVar("_Result")


class Recorder(Protocol):
    """What records for a device; it keeps what it recorded alive, with the memory of it."""

    def warm_up(self, call: Callable[[], object]) -> None:
        """Call beforehand, as often as it takes until nothing is made that is made once."""

    def record(self, call: Callable[[], _Result]) -> tuple[_Result, Callable[[], None]]:
        """Call, and return what that gave, with what writes it anew."""


class CudaRecorder:
    """Records by graphs of CUDA, all of them in one pool of memory of their own.

    Args:
        device: which GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, call: Callable[[], object]) -> None:
        """See `Recorder`; on the stream on which is recorded."""
        ordinary = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(ordinary)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                call()
        ordinary.wait_stream(self._stream)

    def record(self, call: Callable[[], _Result]) -> tuple[_Result, Callable[[], None]]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # other threads of the process may pin memory meanwhile
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = call()
        return result, graph.replay


def recorder_of(device: torch.device) -> Recorder:
    """Return what records for a device."""
    return CudaRecorder(device)


def wants_graphs() -> bool:
    """Return whether ``HPD_GRAPHS`` asks for graphs.

    Raises:
        OpsError: if it is none of `MODES`.
    """
    mode = os.environ.get(VARIABLE) or "off"
    if mode not in MODES:
        raise OpsError(f"unknown {VARIABLE} {mode!r}", fix=nearest(mode, MODES))
    return mode == "on"


def settings() -> tuple[Any, ...]:
    """Return what a record has of the settings of its time, beside shapes and dtypes."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        precision = (matmul.fp32_precision, cudnn.conv.fp32_precision)
    else:
        precision = (matmul.allow_tf32, cudnn.allow_tf32)
    return (os.environ.get("HPD_OPS"), *precision, cudnn.benchmark, cudnn.deterministic)
