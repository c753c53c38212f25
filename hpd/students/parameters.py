"""All parameters of a student as one vector, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from hpd.errors import ShapeError
from hpd.machine.host import send

_Module = TypeVar("_Module", bound=nn.Module)

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and shape of every parameter, in the order of `named_parameters()`."""


def layout_of(student: nn.Module) -> Layout:
    """Return names and shapes of a module's parameters.

    >>> layout_of(nn.Linear(3, 2, device="meta"))
    (('weight', (2, 3)), ('bias', (2,)))
    """
    return tuple((name, tuple(value.shape)) for name, value in student.named_parameters())


def vector_size(layout: Layout) -> int:
    """Return the number of values P in a layout.

    >>> vector_size((("weight", (2, 3)), ("bias", (2,))))
    8
    """
    return sum(math.prod(shape) for _, shape in layout)


def flatten(student: nn.Module) -> Tensor:
    """Return a copy of all parameters as one vector [P], in layout order, without gradient."""
    return _joined([*student.parameters()])


def unflatten(vector: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Cut a vector into named parameters, as `torch.func.functional_call` takes them.

    Args:
        vector: [P].
        layout: from `layout_of`.

    Returns:
        views of `vector`, through which gradients flow.

    Raises:
        ShapeError: if the vector is not as long as the layout.

    >>> unflatten(torch.arange(3.0), (("weight", (1, 2)), ("bias", (1,))))["weight"]
    tensor([[0., 1.]])
    """
    sizes = [math.prod(shape) for _, shape in layout]
    if vector.shape != (sum(sizes),):
        raise ShapeError(
            "the vector does not fit the student's parameters",
            got=list(vector.shape),
            expected=f"[{sum(sizes)}]",
        )
    parts = vector.split(sizes)
    return {name: part.view(shape) for (name, shape), part in zip(layout, parts, strict=True)}


class Sent(Generic[_Module]):
    """A student on an accelerator, whose values were sent in one copy of each dtype.

    Args:
        student: fresh, on the host; it is what is moved.
        device: where to.
    """

    def __init__(self, student: _Module, device: torch.device) -> None:
        self.student = student
        self._flat = {}
        for dtype, own in _by_dtype(student).items():
            self._flat[dtype] = flat = send(_joined(own), device)
            for value, part in zip(own, flat.split([v.numel() for v in own]), strict=True):
                # by `data`: the module keeps its parameters, wherever their values are
                value.data = part.view(value.shape)

    @torch.no_grad()
    def refill(self, student: _Module) -> _Module:
        """Take over the values of another one of the same architecture, and return what was sent.

        Whoever still uses what was sent before sees the new values.
        """
        for dtype, own in _by_dtype(student).items():
            flat = self._flat[dtype]
            flat.copy_(send(_joined(own), flat.device))
        return self.student


def _by_dtype(student: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """Return parameters and buffers by dtype."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for value in (*student.parameters(), *student.buffers()):
        found.setdefault(value.dtype, []).append(value)
    return found


def _joined(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])
