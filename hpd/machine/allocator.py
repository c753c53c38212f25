"""The memory of the process: keeping what was freed."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt's numbers for its options, from malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MEBIBYTE = 2**20


def keep_freed_memory() -> bool:
    """Let the process use the memory of freed tensors again instead of giving it back.

    The C library asks the system anew for each large tensor, and the system hands out zeroed
    pages one by one, which takes longer than computing what goes into them: without it a step of
    a ConvNet of width 128 takes about twice as long on a CPU. The process keeps the most it ever
    had. Only with glibc, on Linux; what the variables ``MALLOC_...`` of the environment say goes
    first.

    Returns:
        whether the C library took it.
    """
    if not sys.platform.startswith("linux") or any(key.startswith("MALLOC_") for key in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # the largest threshold that every glibc takes is 32 MiB, newer ones take more
    took = mallopt(_MMAP_THRESHOLD, 1024 * _MEBIBYTE) or mallopt(_MMAP_THRESHOLD, 32 * _MEBIBYTE)
    options = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MEBIBYTE}
    return bool(took) and all(mallopt(option, value) for option, value in options.items())
