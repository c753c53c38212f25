"""The tensors below one name of a checkpoint, as a family's converter takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from generators.checkpoints.finite import finite_floats
from generators.checkpoints.pickles.nodes import shown
from hpd.errors import GeneratorError


class Scope:
    """A state dict inside of a checkpoint, whose tensors are named when they are at fault.

    Args:
        tensors: everything in the checkpoint, by dotted names.
        prefix: the name above the state dict; empty for one at the top.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self.prefix = tensors, prefix
        start = f"{prefix}." if prefix else ""
        self._names = {n.removeprefix(start): n for n in tensors if n.startswith(start)}
        self._left = dict.fromkeys(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def names(self, pattern: str) -> list[str]:
        """Return the names that fit a regular expression, in the order of the file."""
        return [name for name in self._names if re.fullmatch(pattern, name)]

    def take(self, name: str, *dimensions: int) -> Tensor:
        """Return a tensor as finite float32.

        Args:
            name: below the prefix.
            dimensions: the numbers of dimensions that it may have.

        Raises:
            GeneratorError: if there is none, it is another one, or a value is NaN or Inf.
        """
        self._left.pop(name, None)
        value = self._tensors[self._names[name]] if name in self._names else None
        if value is None or not value.is_floating_point():
            below = f" below {shown(self.prefix)!r}" if self.prefix else ""
            raise GeneratorError(
                f"there is no tensor {name!r}{below}", got=None if value is None else value.dtype
            )
        if value.ndim not in dimensions or value.numel() == 0:
            raise GeneratorError(
                f"the tensor {name!r} has another shape than it should",
                got=tuple(value.shape), expected=f"{dimensions[0]} dimensions",
            )  # fmt: skip
        return finite_floats(self._names[name], value)

    def left(self) -> list[str]:
        """Return the names of what nobody took."""
        return list(self._left)

    def around(self, names: Sequence[str]) -> str | None:
        """Return the first of some names that stands beside the tensors, or further up.

        Args:
            names: plain names, such as ``latent_avg``.

        Returns:
            the whole name, for `whole`; None if there is none.
        """
        scopes = self.prefix.split(".") if self.prefix else []
        for depth in range(len(scopes), -1, -1):
            for name in names:
                full = ".".join([*scopes[:depth], name])
                if full in self._tensors:
                    return full
        return None

    def whole(self, full: str) -> Tensor:
        """Return a tensor by its whole name, as finite float32.

        Raises:
            GeneratorError: if a value is NaN or Inf.
        """
        start = f"{self.prefix}." if self.prefix else ""
        self._left.pop(full.removeprefix(start), None)
        return finite_floats(full, self._tensors[full])
