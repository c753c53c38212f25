"""How much memory a run takes, and errors that say there was too little."""

from __future__ import annotations

import os
import sys

import torch

from hpd.errors import OutOfMemoryError

# what torch's allocator on the CPU says, on Linux and elsewhere
_SAYINGS = ("can't allocate memory", "not enough memory", "out of memory")

LESS = "Take fewer images, a smaller student, or a device with more memory."
"""What helps where nothing better is known."""

_LITTLE = 2 * 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on any device.

    >>> is_out_of_memory(MemoryError())
    True
    >>> is_out_of_memory(RuntimeError("shapes differ"))
    False
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAYINGS)


def out_of_memory(
    error: BaseException, problem: str = "the memory ran out"
) -> OutOfMemoryError | None:
    """Return the error that says what ran out; None for an error that says something else.

    To be raised outside of the handler, so that nothing of what failed is held any more.
    """
    if not is_out_of_memory(error):
        return None
    return OutOfMemoryError(problem, got=reason_of(error), fix=LESS)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or what it is where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory that was in use at a time; None where that is not known.

    On an accelerator what torch allocated there, on a CPU what the process occupied.
    """
    if device.type != "cpu":
        module = torch.get_device_module(device)
        measure = getattr(module, "max_memory_allocated", None)
        return None if measure is None else int(measure(device))
    if sys.platform == "win32":  # does not tell
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kibibytes, macOS in bytes
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> int:
    """Return the memory of an accelerator that is free, or that torch holds and does not use.

    Where a device does not say, two gibibytes.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return _LITTLE
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def total_bytes(device: torch.device) -> int:
    """Return the memory of a device, of a CPU the machine's.

    Where that is not known, two gibibytes.
    """
    if device.type != "cpu":
        module = torch.get_device_module(device)
        told = getattr(module, "mem_get_info", None)
        return _LITTLE if told is None else int(told(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such names
        return _LITTLE


def as_text(size_bytes: float) -> str:
    """Return a size for people.

    >>> as_text(1_234_000), as_text(56_000_000_000)
    ('1 MB', '56.0 GB')
    """
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
