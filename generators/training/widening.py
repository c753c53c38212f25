"""Weights of a narrow network in a wider one of the same make, which does the same at first.

Features that are added are computed, but nothing old looks at them yet: weights from new features
to old ones are 0 and learn from there. Where a layer divides by the root of how many values it sums
(an equalised learning rate), its old weights grow by as much as that root did.

Source: the idea of growth that preserves the function is that of Chen et al., Net2Net: Accelerating
Learning via Knowledge Transfer, ICLR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from hpd.errors import GeneratorError


def fits_within(narrow: Mapping[str, Tensor], wide: Mapping[str, Tensor]) -> bool:
    """Return whether each tensor is there in the wide network, nowhere smaller."""
    return narrow.keys() == wide.keys() and all(
        value.ndim == wide[name].ndim
        and all(old <= new for old, new in zip(value.shape, wide[name].shape, strict=True))
        for name, value in narrow.items()
    )


def widened(
    narrow: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    demodulated: Callable[[str], bool] = lambda name: False,
) -> dict[str, Tensor]:
    """Return the state of a wide network that does what a narrow one does.

    Args:
        narrow: the state of the narrow one.
        fresh: the state of the wide one, drawn afresh.
        demodulated: whether the weight of a name is divided by its norm in use, which zeros do not
            change, and not by the root of how many values are summed.

    Raises:
        GeneratorError: if the narrow one is not narrower.
    """
    if not fits_within(narrow, fresh):
        raise GeneratorError(
            "only a network that is nowhere wider, with as many layers, can be widened",
            got=_first_misfit(narrow, fresh),
        )
    return {n: _grown(value, fresh[n], demodulated(n)) for n, value in narrow.items()}


def _grown(old: Tensor, fresh: Tensor, demodulated: bool) -> Tensor:
    new = fresh.clone()
    if old.shape == fresh.shape:
        return new.copy_(old)
    corner = tuple(slice(size) for size in old.shape)
    values = old.to(new)
    # a weight [outputs, inputs, ...]: what has one index, and the constant, has no inputs
    if old.ndim in (2, 4) and old.shape[1] < fresh.shape[1]:
        new[: len(old), old.shape[1] :] = 0
        if not demodulated:
            values = values * math.sqrt(fresh.shape[1] / old.shape[1])
    new[corner] = values
    return new


def _first_misfit(narrow: Mapping[str, Tensor], wide: Mapping[str, Tensor]) -> str:
    for name, value in narrow.items():
        if name not in wide or not fits_within({name: value}, {name: wide[name]}):
            there = "none" if name not in wide else str(list(wide[name].shape))
            return f"{name} of {list(value.shape)}, in the wide one {there}"
    return f"{next(iter(wide.keys() - narrow.keys()))} in the wide one alone"
