"""Mean and deviation of images, from histograms: exact, and without a copy of the images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hpd.machine.host import computes_on_host, send

_LEVELS = 256
# of images that are counted at a time; numpy counts in eight bytes a value
_CHUNK_BYTES = 1 << 22


def histogram(images: Tensor) -> Tensor:
    """Count the values of uint8 images [N, C, H, W]: int64 [C, 256]."""
    counts = np.zeros((images.shape[1], _LEVELS), dtype=np.int64)
    per_image = max(images[:1].numel(), 1)
    for part in images.split(max(1, _CHUNK_BYTES // per_image)):
        for channel, values in enumerate(part.transpose(0, 1)):
            counts[channel] += np.bincount(values.flatten().numpy(), minlength=_LEVELS)
    return torch.from_numpy(counts)


@lru_cache(maxsize=64)
def _kept_channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers of channels [C, 1, 1] that lie on the device already at the next step."""
    return send(torch.tensor(values, dtype=dtype)[:, None, None], device)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of images in [0, 1].

    Students see ``(x - mean) / std``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1]."""
        return (images - self._channels(self.mean, images)) / self._channels(self.std, images)

    def apply_(self, images: Tensor) -> Tensor:
        """Normalise images in place, and return them; to the bit what `apply` gives."""
        images.sub_(self._channels(self.mean, images))
        return images.div_(self._channels(self.std, images))

    def undo(self, normalised: Tensor) -> Tensor:
        """Return normalised images [N, C, H, W] to [0, 1]."""
        return normalised * self._channels(self.std, normalised) + self._channels(
            self.mean, normalised
        )

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        if computes_on_host(like.device):
            return torch.tensor(values, dtype=like.dtype)[:, None, None]
        return _kept_channels(values, like.dtype, like.device)

    @classmethod
    def of(cls, images: Tensor) -> Normalisation:
        """Measure uint8 images [N, C, H, W]; a constant channel gets std 1."""
        return cls.of_histogram(histogram(images))

    @classmethod
    def of_histogram(cls, counts: Tensor) -> Normalisation:
        """Return mean and deviation of values that were counted; see `histogram`.

        ``mean = sum_v v n_v / sum_v n_v / 255``. Sums are exact in integers, so neither the order
        of the images nor how they were parted changes anything.

        Args:
            counts: int64 [C, 256].
        """
        values = torch.arange(_LEVELS)
        count = counts.sum(dim=1)
        mean = (counts * values).sum(dim=1).double() / count / 255
        # 2^63 / 255^2 values would be needed to overflow
        square = (counts * values.square()).sum(dim=1).double() / count / 255**2
        std = (square - mean**2).clamp(min=0).sqrt()
        std = torch.where(std > 0, std, torch.ones_like(std))
        return cls(tuple(mean.tolist()), tuple(std.tolist()))
