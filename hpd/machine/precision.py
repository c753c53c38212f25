"""What is computed in which precision: one policy for all devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

Float32 = Literal["ieee", "tf32"]
"""How a GPU multiplies float32 numbers: as they are, or with ten bits of their fraction, faster."""

Precision = Literal["float32", "bfloat16", "auto"]
"""What is computed in; ``auto`` is bfloat16 where the device has units for it, else float32."""

# without such units each bfloat16 convolution of a CPU takes some thirty times as long
_FAST_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})


def set_float32(kind: Float32) -> None:
    """Say how GPUs multiply float32 numbers in this process: convolutions and matrices alike.

    torch's default convolves in TF32 and multiplies matrices as they are, so that ``float32`` means
    two things. A CPU has no TF32.
    """
    cudnn: Any = torch.backends.cudnn
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = kind
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = kind
        return
    # releases before 2.9
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    cudnn.allow_tf32 = kind == "tf32"


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype that a setting means on a device."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def name_of(dtype: torch.dtype | None) -> str:
    """Return how a dtype is called in settings and manifests; None is what is not rounded."""
    return str(dtype or torch.float32).removeprefix("torch.")


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
    flags = next(
        (
            line
            for line in info.read_text("utf-8", "replace").splitlines()
            if line.startswith("flags")
        ),
        "",
    )
    return not _FAST_BFLOAT16.isdisjoint(flags.split())
