from __future__ import annotations

import pytest
import torch

from hpd.artifacts import DistilledSet
from hpd.data import Normalisation


@pytest.fixture
def distilled(rng):
    return DistilledSet(
        images=torch.rand(6, 3, 8, 8, generator=rng) * 1.2 - 0.1,
        labels=torch.arange(3).repeat_interleave(2),
        classes=("T-shirt/top", "Bag", "Coat"),
        normalisation=Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
        stored_floats=1152,
    )
