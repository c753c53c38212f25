from __future__ import annotations

import pytest
import torch


@pytest.fixture
def synthetic(rng):
    """Six images that fit `images`, in [0, 1]."""
    return torch.rand(6, 1, 8, 8, generator=rng)
