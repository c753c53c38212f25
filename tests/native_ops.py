"""What tests of native operations share: whether there are any here, and why not."""

from __future__ import annotations

import pytest
import torch

from generators.ops import native
from hpd.errors import OpsError


def need_native(monkeypatch, device_type):
    """Insist on native operations, or skip with the reason that there are none."""
    monkeypatch.setenv("HPD_OPS", "native")
    if device_type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    try:
        native.uses_native(torch.empty(0, device=device_type))
    except OpsError as error:
        pytest.skip(f"no native operations for {device_type}: {error}")
