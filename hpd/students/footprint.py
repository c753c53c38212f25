"""How many images go through a student at once on an accelerator: as many as memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpd.machine.memory import free_bytes

# kernels of a GPU count the values of a tensor in 31 bits
_MOST_VALUES = 2**30
# of what is free: the rest is for the generator, for gradients and for what is kept between steps
_SHARE = 0.25
_FLOAT_BYTES = 4
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Footprint]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Footprint:
    """What one image leaves behind in a student.

    Args:
        values: of the outputs of all layers.
        largest: of one of them.
    """

    values: int
    largest: int

    @classmethod
    def of(cls, student: nn.Module, image_shape: tuple[int, ...]) -> Footprint:
        """Measure a student that lies on the meta device, where nothing is computed; once.

        Args:
            student: in eval mode.
            image_shape: (C, H, W).
        """
        known = _KNOWN.setdefault(student, {})
        if image_shape not in known:
            known[image_shape] = cls._measured(student, image_shape)
        return known[image_shape]

    @classmethod
    def _measured(cls, student: nn.Module, image_shape: tuple[int, ...]) -> Footprint:
        sizes: list[int] = []

        def note(layer: nn.Module, inputs: Any, output: object) -> None:
            sizes.extend([output.numel()] if isinstance(output, Tensor) else [])

        layers = [layer for layer in student.modules() if not any(layer.children())]
        handles = [layer.register_forward_hook(note) for layer in layers]
        try:
            with torch.no_grad():
                student(torch.empty(1, *image_shape, device="meta"))
        finally:
            for handle in handles:
                handle.remove()
        return cls(sum(sizes), max(sizes))

    def images_at_once(self, device: torch.device, copies: int = 1) -> int:
        """Return how many images an accelerator takes at once.

        Args:
            device: whose free memory counts; no CPU, which takes what fits its caches.
            copies: of the outputs that are kept: 1 for one derivative, more for two.
        """
        kept = self.values * copies * _FLOAT_BYTES
        return max(1, min(int(_SHARE * free_bytes(device)) // kept, _MOST_VALUES // self.largest))


def operations_of(student: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Return how many multiplications and additions it takes a student to see one image.

    Args:
        student: on the meta device, in eval mode.
        image_shape: (C, H, W).
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        student(torch.empty(1, *image_shape, device="meta"))
    return counter.get_total_flops()
