"""What a checkpoint says about a network, as plain data and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hpd.errors import GeneratorError, nearest


@dataclass(frozen=True, eq=False)
class ModuleRecord:
    """A module of a stored network: how it was made and what it holds, without its code.

    Args:
        class_name: name of its class in the code that wrote it.
        args: positional constructor arguments, plain data.
        kwargs: keyword constructor arguments, plain data.
        attributes: its own attributes that are plain data; numpy values as numbers and lists.
        children: submodules by name, in the order of the file.
        tensors: own parameters, then own persistent buffers, on the CPU.
        unread: for each attribute that is not plain data, the reason: the name that was refused.
    """

    class_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attributes: dict[str, Any]
    children: dict[str, ModuleRecord]
    tensors: dict[str, Tensor]
    unread: dict[str, str] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors under their official dotted names."""
        return dict(self._named_tensors(""))

    def attribute(self, name: str) -> Any:
        """Return an attribute of the stored module.

        Raises:
            GeneratorError: if there is none, or the file holds something refused in its place.
        """
        if name in self.attributes:
            return self.attributes[name]
        problem = f"{self.class_name} has no readable attribute {name!r}"
        if name in self.unread:
            raise GeneratorError(problem, got=self.unread[name])
        raise GeneratorError(problem, fix=nearest(name, self.attributes))

    def child(self, name: str) -> ModuleRecord:
        """Return a submodule.

        Raises:
            GeneratorError: if there is none of that name.
        """
        if name not in self.children:
            raise GeneratorError(
                f"{self.class_name} has no submodule {name!r}", fix=nearest(name, self.children)
            )
        return self.children[name]

    def _named_tensors(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.tensors.items():
            yield prefix + name, tensor
        for name, child in self.children.items():
            yield from child._named_tensors(f"{prefix}{name}.")
