"""A decoder of one's own is a generator like any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from generators.adapter import LayeredGenerator


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)

    def forward(self, z, labels):
        return torch.cat([z, self.embed(labels)], dim=1)


@pytest.fixture
def generator():
    layers = [
        nn.Sequential(nn.Linear(10, 32), nn.Unflatten(1, (8, 2, 2)), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Tanh()),
    ]
    return LayeredGenerator(layers, Condition(), z_dim=6, num_classes=3, classes=("a", "b", "c"))


@pytest.fixture(autouse=True)
def layers_of_torch_draw_globally():
    """Users' modules draw their weights from torch's global generator; put it back."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_spec_is_read_off_the_layers(generator):
    spec = generator.spec
    assert (spec.resolution, spec.channels, spec.w_dim, spec.num_ws) == (8, 1, 10, 1)
    assert [level.name for level in spec.levels] == ["ws", "layer1", "layer2", "pixels"]
    assert [level.shapes for level in spec.levels] == [
        (), ((8, 2, 2),), ((6, 4, 4),), ((1, 8, 8),),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_levels_compose_to_the_bit(generator, rng, dtype):
    generator.compute_dtype = dtype
    ws = generator.map(torch.randn(2, 6, generator=rng), torch.tensor([0, 2]))
    whole = generator(ws)
    for level in range(4):
        state = generator.advance((), ws, 0, level)
        assert torch.equal(generator.images(state, ws, level), whole)
    assert not whole.requires_grad


def test_the_class_matters(generator, rng):
    z = torch.randn(2, 6, generator=rng)
    one, other = (generator(generator.map(z, torch.full((2,), c))) for c in (0, 1))
    assert not torch.equal(one, other)


def test_truncation_scales_z(generator, rng):
    z, labels = torch.randn(2, 6, generator=rng), torch.tensor([1, 1])
    ws = generator.map(z, labels, truncation_psi=0.0)
    assert torch.equal(ws[0], ws[1])
