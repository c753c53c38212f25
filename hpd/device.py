"""Devices: the only user of Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hpd.errors import DeviceError

Precision = Literal["float32", "bfloat16", "auto"]
"""What is computed in; ``auto`` is bfloat16 where the device has units for it, else float32."""

# without such units each bfloat16 convolution of a CPU takes some thirty times as long
_FAST_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})


def open_device(name: str) -> torch.device:
    """Return the device to compute on.

    Args:
        name: ``"auto"`` for what Accelerate finds, or a device of torch, such as ``"cpu"``
            or ``"cuda:1"``.

    Raises:
        DeviceError: if there is no such device.
    """
    if name == "auto":
        from accelerate import PartialState

        return torch.device(PartialState().device)
    try:
        device = torch.device(name)
        torch.empty((), device=device)
    # torch raises AssertionError for a build without the device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"no device {name!r}", got=reason, fix="Try device=auto.") from None
    return device


class Processes:
    """The processes that compute one result together; one, unless Accelerate started more.

    Args:
        rank: which of them this is.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def started(cls, *, cpu: bool = False) -> Processes:
        """Return those that ``accelerate launch`` or ``torchrun`` started, or this one alone.

        Args:
            cpu: whether they compute on the CPU even where there is something faster.
        """
        from accelerate import PartialState

        state = PartialState(cpu=cpu)
        return cls(state.process_index, state.num_processes)

    def average(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes of tensors of one shape, the same bits in each."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        return reduce(tensor.contiguous(), reduction="mean")

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds in one of them, the same answer in each."""
        if self.count == 1:
            return flag
        from accelerate import PartialState

        return bool(self.average(torch.tensor(float(flag), device=PartialState().device)) > 0)

    def end(self) -> None:
        """Leave the others; nothing can be averaged any more."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype that a setting means on a device."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes convolutions in bfloat16 faster than in float32.

    A CPU does with AMX or AVX512-BF16, which Linux lists in /proc/cpuinfo; where that file is
    missing, the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    if device.type != "cpu" or not info.is_file():
        return False
    flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
    return not _FAST_BFLOAT16.isdisjoint(flags.split())
