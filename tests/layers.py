"""A layer of a generator of one's own, as tests need it."""

from __future__ import annotations

from torch import nn


class Does(nn.Module):
    """A layer that does what a test wants."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)
