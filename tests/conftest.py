from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def global_random_state_is_untouched():
    """Nothing in the library may draw from torch's global generator, whatever the test."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


class Golden:
    """Numbers of the official code for one tiny network."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "state_dict.safetensors")
        self.values = load_file(folder / "golden.safetensors")
