"""What is computed of frozen weights alone: once, and again where they changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

_Value = TypeVar("_Value")


class Prepares(nn.Module):
    """A layer that keeps what it computes of its frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, tuple[tuple[object, ...], object]] | None = {}

    def prepared(
        self,
        name: str,
        source: Tensor,
        make: Callable[[], _Value],
        dtype: torch.dtype | None = None,
    ) -> _Value:
        """Return what `make` gives, from the last time if the weight is what it was.

        Args:
            name: of the value in this layer.
            source: the weight that it depends on; one that is trained is never relied on.
            make: computes it.
            dtype: of what comes out, where one weight is used in several.
        """
        if self._kept is None or source.requires_grad:
            return make()
        where = (source._version, source.data_ptr(), source.dtype, source.device, dtype)
        known, value = self._kept.get(name, ((), None))
        if known != where:
            with torch.no_grad():
                value = make()
            self._kept[name] = (where, value)
        return value  # type: ignore[return-value]  # of the same name, hence of the same type


def prepare_nothing(network: nn.Module) -> None:
    """Let a network compute everything each time: weights that are set by `data` look unchanged."""
    for layer in network.modules():
        if isinstance(layer, Prepares):
            layer._kept = None


def prepared_values(network: nn.Module) -> list[object]:
    """Return all that layers of a network have prepared so far."""
    layers = (layer for layer in network.modules() if isinstance(layer, Prepares))
    return [value for layer in layers for _, value in (layer._kept or {}).values()]
