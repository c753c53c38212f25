"""Starting kernels through the driver of NVIDIA, which every machine with a GPU has.

No package is needed for it, whichever compiler made the kernels: structures and addresses go to the
driver's own functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators.ops.cuda.kernels import Kernel
from generators.ops.cuda.tiles import GIVEN_BYTES, THREADS, Room
from hpd.errors import OpsError

LIBRARY = "libcuda.so.1"
_MOST_BLOCKS = 1 << 30
# of the driver's interface, in which numbers never change
_PROCESSORS, _SHARED_BYTES = 16, 97
_MOST_DYNAMIC_SHARED = 8


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Args:
        kernel: which.
        blocks: of the grid; kernels loop where that is too many.
        shared_bytes: of shared memory a block.
        arguments: structures and numbers of ctypes; tensors must live until it is started.
    """

    kernel: Kernel
    blocks: int
    shared_bytes: int
    arguments: Sequence[Any]


class Driver:
    """The functions of the driver that are used here.

    Args:
        library: its library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @classmethod
    def of_system(cls) -> Driver:
        """Return that of this machine.

        Raises:
            OpsError: if there is none, or no GPU.
        """
        try:
            found = cls(ctypes.CDLL(LIBRARY))
        except OSError as error:
            raise OpsError("no driver of NVIDIA", got=error) from None
        found._call("cuInit", 0)
        return found

    def enter(self, index: int) -> None:
        """Make a device's context that of this thread, if it has none yet."""
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device(index))
            self._call("cuCtxSetCurrent", context)

    def room(self, index: int) -> Room:
        """Return what a device has; what every GPU has where it does not say."""
        shared = self._attribute(index, _SHARED_BYTES)
        return Room(max(shared, GIVEN_BYTES), max(self._attribute(index, _PROCESSORS), 1))

    def load(self, code: bytes) -> ctypes.c_void_p:
        """Load compiled code into the context of this thread."""
        module = ctypes.c_void_p()
        fix = "If it is for another GPU, 'hpd ops build' makes it for those that are here."
        self._call("cuModuleLoadData", ctypes.byref(module), code, fix=fix)
        return module

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """Return a kernel of a module."""
        found = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(found), module, name.encode())
        return found

    def allow_shared(self, function: ctypes.c_void_p, shared_bytes: int) -> None:
        """Let the blocks of a kernel ask for more shared memory than every GPU gives."""
        self._call("cuFuncSetAttribute", function, _MOST_DYNAMIC_SHARED, shared_bytes)

    def start(self, function: ctypes.c_void_p, launch: Launch, stream: int) -> None:
        """Start a kernel on a stream; what its arguments say is copied."""
        arguments = launch.arguments
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._call(
            "cuLaunchKernel", function, min(launch.blocks, _MOST_BLOCKS), 1, 1, THREADS, 1, 1,
            launch.shared_bytes, ctypes.c_void_p(stream), places, None,
        )  # fmt: skip

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        return device

    def _attribute(self, index: int, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device(index))
        return value.value

    def _call(self, name: str, *arguments: Any, fix: str = "") -> None:
        error = getattr(self._library, name)(*arguments)
        if error:
            said = ctypes.c_char_p()
            self._library.cuGetErrorName(error, ctypes.byref(said))
            what = (said.value or b"").decode() or f"error {error}"
            raise OpsError(f"{name} of NVIDIA's driver fails", got=what, fix=fix)


Code = Callable[[Kernel, int], tuple[str, bytes]]
"""From a kernel and the index of a device to code that has it, with a name of that code."""


class OnDevice:
    """Starts kernels on the current stream of a tensor's device; loads what is not loaded.

    Args:
        driver: what starts them.
        code: where they come from.
    """

    def __init__(self, driver: Driver, code: Code) -> None:
        self._driver, self._code = driver, code
        self._modules: dict[tuple[int, str], ctypes.c_void_p] = {}
        self._functions: dict[tuple[int, str], ctypes.c_void_p] = {}
        self._allowed: dict[tuple[int, str], int] = {}
        self._rooms: dict[int, Room] = {}

    def room(self, like: Tensor) -> Room:
        """Return what the device of a tensor has."""
        index = like.device.index or 0
        if index not in self._rooms:
            self._rooms[index] = self._driver.room(index)
        return self._rooms[index]

    def __call__(self, launch: Launch, like: Tensor) -> None:
        """Start a kernel.

        Raises:
            OpsError: if it does not compile, load or start.
        """
        index = like.device.index or 0
        with torch.cuda.device(index):
            self.start(launch, index, torch.cuda.current_stream(index).cuda_stream)

    def start(self, launch: Launch, index: int, stream: int) -> None:
        """Start a kernel on a stream of a device, which is the current one."""
        self._driver.enter(index)
        key = (index, launch.kernel.name)
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = self._load(launch.kernel, index)
        if launch.shared_bytes > max(GIVEN_BYTES, self._allowed.get(key, 0)):
            self._driver.allow_shared(function, launch.shared_bytes)
            self._allowed[key] = launch.shared_bytes
        self._driver.start(function, launch, stream)

    def _load(self, kernel: Kernel, index: int) -> ctypes.c_void_p:
        name, code = self._code(kernel, index)
        module = self._modules.get((index, name))
        if module is None:
            module = self._modules[index, name] = self._driver.load(code)
        return self._driver.function(module, kernel.name)
