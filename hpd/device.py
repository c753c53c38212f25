"""Devices: the only user of Accelerate."""

from __future__ import annotations

import torch

from hpd.errors import DeviceError


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
