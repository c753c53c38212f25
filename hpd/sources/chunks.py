"""How many images are rendered at a time: measured on two of them, for the machine's memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hpd.machine.launch import read_launch
from hpd.machine.memory import total_bytes
from hpd.typing import Source

# of the memory of the machine: the rest is for networks, for real images, and for other processes
_SHARE = 0.25


def most_at_once(source: Source) -> int:
    """Return how many images to render with a graph at a time.

    As many as a quarter of the memory holds, by what one image more keeps for the way back. It is
    the memory that there is, not what is free of it, so that a run comes to the same chunks, and
    bits, when it goes on. Processes that share a machine's memory get an equal part each.

    Args:
        source: in its first stage, which has the most layers before it; it renders two images in
            one chunk.
    """
    device, count = source.labels.device, len(source.labels)
    first, last = torch.tensor([0], device=device), torch.tensor([0, count - 1], device=device)
    kept = [_kept_bytes(source, indices) for indices in (first, last)]
    images, _ = source.render(first)
    # beside what is kept: the image, its gradient, and both once more where they are changed
    each = max(kept[1] - kept[0], 0) + 4 * images.numel() * images.element_size()
    return max(1, min(count, int(_SHARE * _own_bytes(device)) // each))


def _own_bytes(device: torch.device) -> int:
    """Return the memory that is this process's: each has an accelerator, and all one machine."""
    sharing = read_launch().local_count if device.type == "cpu" else 1
    return total_bytes(device) // (sharing or 1)


def _kept_bytes(source: Source, indices: Tensor) -> int:
    """Return what rendering keeps until a gradient comes."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        rendered = source.render(indices)
    del rendered
    return sum(seen.values())
