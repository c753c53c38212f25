"""Real images where they are matched: on the device for good, or on their way a step ahead."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from hpd.data import ImageSet
from hpd.data.images import unit_of
from hpd.machine.host import computes_on_host, send
from hpd.machine.memory import free_bytes

# of an accelerator's free memory that bytes of real images may take
_SHARE = 0.25


class RealRows:
    """Normalised batches of real images.

    On an accelerator all images stay as bytes where they fit. Else those of a batch are read on the
    host, if the next batch is known by a thread of its own while the device computes, and sent.

    Args:
        train: the real images.
        device: where they are matched.
    """

    def __init__(self, train: ImageSet, device: torch.device) -> None:
        self._train, self._device = train, device
        self._next: tuple[Tensor, Future[Tensor]] | None = None

    def normalised(self, indices: Tensor) -> Tensor:
        """Return normalised images [n, C, H, W] on the device.

        Args:
            indices: [n], on the host.
        """
        if computes_on_host(self._device):
            return self._train.normalised(indices, self._device)
        if self._resident is None:
            pixels = send(self._read(indices), self._device)
        else:
            pixels = self._resident.index_select(0, send(indices, self._device))
        return self._train.normalisation.apply_(unit_of(pixels))

    @property
    def reads_ahead(self) -> bool:
        """Whether images are read for each batch, so that it is worth to say which come next."""
        return not computes_on_host(self._device) and self._resident is None

    def expect(self, indices: Tensor) -> None:
        """Read a batch ahead, where `reads_ahead`."""
        self._next = (indices, self._reader.submit(self._pinned, indices))

    @cached_property
    def _resident(self) -> Tensor | None:
        """All images as bytes on the device [N, C, H, W], None where they do not fit."""
        if self._train.rows[:1].numel() * len(self._train) > _SHARE * free_bytes(self._device):
            return None
        return torch.cat([send(part, self._device) for part in self._train.parts()])

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "hpd real images")

    def _read(self, indices: Tensor) -> Tensor:
        expected, self._next = self._next, None
        if expected is not None and torch.equal(expected[0], indices):
            return expected[1].result()
        return self._pinned(indices)

    def _pinned(self, indices: Tensor) -> Tensor:
        pixels = self._train.pixels(indices)
        # what lies in other memory would be copied once more, and waited for
        return pixels.pin_memory() if torch.accelerator.is_available() else pixels
