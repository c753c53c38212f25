"""What the host sends to a device and what it knows of it, so that no step waits for the device.

An accelerator computes while the host goes on: until the host asks for a value, or copies from
memory that the system may move. Here is what keeps it from asking: copies that do not wait, the
values of small tensors that came from the host, and one reading of all that a step has to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Number = float | Tensor
"""A number, or a tensor [] of one on any device, which nobody has asked for yet."""

_TWINS: Any = WeakTensorKeyDictionary()
_HOSTS = frozenset({"cpu"})


def computes_on_host(device: torch.device) -> bool:
    """Return whether a device is the CPU, of which every value is at hand."""
    return device.type in _HOSTS


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, without waiting for it.

    Memory that is not pinned would be waited for; torch keeps what it pins for the next time, and
    does not give it away before it is copied.
    """
    return tensor.to(device) if computes_on_host(device) else _copied(tensor, device)


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Tensor:
    """Return a tensor on the host, for which the device is waited for; see `on_host`."""
    return tensor if computes_on_host(tensor.device) else _fetched(tensor)


def _fetched(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def remember(tensor: Tensor, twin: Tensor) -> Tensor:
    """Note what a tensor on a device is on the host, and return it; see `on_host`."""
    if tensor is not twin:
        _TWINS[tensor] = (tensor._version, twin)
    return tensor


def on_host(tensor: Tensor) -> Tensor:
    """Return a tensor on the host; the device is asked once, and never where it was told before.

    A tensor that was changed in place is asked for again.
    """
    if computes_on_host(tensor.device):
        return tensor
    version, twin = _TWINS.get(tensor, (-1, tensor))
    if version != tensor._version:
        twin = tensor.cpu()
        _TWINS[tensor] = (tensor._version, twin)
    return twin


def told(values: Sequence[Number]) -> list[float]:
    """Return numbers as floats; what is on a device is asked for all at once."""
    asked = [v for v in values if isinstance(v, Tensor)]
    answers: dict[int, float] = {}
    for device in {v.device for v in asked}:
        own = [v for v in asked if v.device == device]
        with torch.no_grad():
            flat = torch.stack([v.double() for v in own])
        answers.update(zip(map(id, own), flat.tolist(), strict=True))
    return [answers[id(v)] if isinstance(v, Tensor) else float(v) for v in values]


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return which class each of some labels is [N, K], bool; torch's own looks at the labels."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)
