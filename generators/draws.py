"""Random rows of a batch that several processes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Draws one row per image, the same row for an image whichever process holds it.

    Every process draws the rows of all and keeps its own, so N processes see what one would.

    Args:
        rng: a CPU generator in the same state in every process.
        rank: which process this is.
        ranks: number of processes; each holds as many images as the others.

    >>> whole = Draws(torch.Generator().manual_seed(0)).normal(4)
    >>> part = Draws(torch.Generator().manual_seed(0), rank=1, ranks=2).normal(2)
    >>> bool((whole[2:] == part).all())
    True
    """

    rng: torch.Generator
    rank: int = 0
    ranks: int = 1

    def normal(self, *shape: int) -> Tensor:
        """Return [N, ...] from N(0, 1)."""
        return self._own(torch.randn(self._all(shape), generator=self.rng), shape[0])

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return [N, ...] from [0, 1)."""
        return self._own(torch.rand(self._all(shape), generator=self.rng, dtype=dtype), shape[0])

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return [N, ...] from low to ``high - 1``, int64."""
        return self._own(torch.randint(low, high, self._all(shape), generator=self.rng), shape[0])

    def _all(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.ranks, *shape[1:])

    def _own(self, rows: Tensor, count: int) -> Tensor:
        return rows[self.rank * count : (self.rank + 1) * count]
