"""A decoder of your own as a generator with levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from generators.base import Generator, GeneratorSpec, Level, LevelState
from generators.probing import check_range, probe
from hpd.arrays import as_count, as_names
from hpd.checks import check_finite, check_tensor
from hpd.errors import GeneratorError, HpdError, ShapeError
from hpd.machine.memory import is_out_of_memory

Condition = Callable[[Tensor, Tensor | None], Tensor]

_CONDITION = "the condition of the generator"
# two images, so that a layer which joins them is found out
_PROBES = 2
# no image in [-1, 1] goes so far, trained or not; one of 0 to 255 does
_FURTHEST = 16


class LayeredGenerator(Generator):
    """A conditional decoder given as a list of layers.

    One w per image, ``condition(z, labels)``, enters the first layer; level k is what the first
    k layers give, the last level is the image.

    Args:
        layers: modules that follow each other, each from one tensor to one tensor, each image by
            itself and the same each time; the last gives images [N, C, H, H] in [-1, 1].
        condition: turns z [N, z_dim] and class indices [N] (None for an unconditional decoder)
            into the input of the first layer, [N, D]; a module or any function.
        z_dim: width of z.
        num_classes: number of classes, 0 for an unconditional decoder.
        classes: names of the classes, by which a data set is matched.

    A truncation psi below 1 scales z, which pulls w to the w of z = 0. The layers stay in eval
    mode, whatever `train` is called with: batch norms keep their statistics.

    A few images are made at once, to read the shapes off the layers and to see whether they do
    what is asked of them; images that are never below 0, or far beyond 1, are warned of. What a
    layer raises is a `GeneratorError` that names it, here and later, with the original as its
    cause.

    Raises:
        GeneratorError: if a layer or the condition fails, looks at other images or draws noise, or
            the numbers do not fit each other.
        ShapeError: if one of them gives another shape or dtype than it should.
        NumericError: if one of them gives NaN or Inf.
    """

    layers_known = True

    def __init__(
        self,
        layers: Sequence[nn.Module],
        condition: Condition,
        *,
        z_dim: int,
        num_classes: int = 0,
        classes: Sequence[str] | None = (),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_checked_modules(layers))
        # a module is registered as one, so that it moves to devices with the rest
        self.condition = condition
        self.requires_grad_(False).eval()
        z_dim, num_classes = as_count(z_dim, "z_dim"), as_count(num_classes, "num_classes")
        names = _checked_names(classes, num_classes)
        weight = self._weight()
        # drawn, as z of 0 is none that occurs: its length may be divided by
        z = torch.randn(_PROBES, z_dim, generator=torch.Generator().manual_seed(0)).to(weight)
        labels = None
        if num_classes:
            labels = torch.arange(_PROBES, device=weight.device) * (num_classes - 1)
        with torch.no_grad():
            x = w = check_finite(self._conditioned(z, labels), f"what comes out of {_CONDITION}")
            shapes: list[tuple[tuple[int, ...], ...]] = [()]
            for number, layer in enumerate(self.layers):
                name = _name(number, layer)
                x = check_finite(self._applied(number, x), f"what comes out of {name}")
                shapes.append((tuple(x.shape[1:]),))
        _check_images(x, name)
        levels = ["ws", *(f"layer{i}" for i in range(1, len(shapes) - 1)), "pixels"]
        self.spec = GeneratorSpec(
            family="layered",
            resolution=x.shape[-1],
            channels=x.shape[1],
            z_dim=z_dim,
            w_dim=w.shape[1],
            num_classes=num_classes,
            num_ws=1,
            levels=tuple(Level(*pair) for pair in zip(levels, shapes, strict=True)),
            classes=names,
        )
        seen = probe(self)
        check_range(self, seen.lowest, seen.highest)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: in training mode, batch norms would look at the other images."""
        return super().train(False)

    def name_of_part(self, path: str, part: nn.Module) -> str:
        """Return how messages name a layer, or the module in it."""
        first, number, *inside = [*path.split("."), ""][:3]
        if first != "layers" or not number:
            return f"{_CONDITION} ({type(part).__name__})"
        name = _name(int(number), self.layers[int(number)])
        return f"{name}, in its {type(part).__name__}," if any(inside) else name

    def _weight(self) -> Tensor:
        """Return a weight of floats; an empty one where the layers have none."""
        weight = next((p for p in self.parameters() if p.is_floating_point()), None)
        if weight is None:
            self.no_weights = weight = nn.Parameter(torch.zeros(0), requires_grad=False)
        return weight

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return self._conditioned(z * truncation_psi, labels)[:, None]

    def _next(self, state: LevelState, ws: Tensor, level: int) -> LevelState:
        x = state[0] if level else ws[:, 0]
        if self.compute_dtype is None:
            return (self._checked(level, self._applied(level, x)),)
        # each layer takes and gives the dtype of ws, wherever the caller cuts
        with torch.autocast(x.device.type, self.compute_dtype):
            return (self._checked(level, self._applied(level, x)).to(ws.dtype),)

    def _conditioned(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the input of the first layer [N, D]."""
        w = _called(_CONDITION, self.condition, z, labels)
        if w.ndim != 2 or len(w) != len(z):
            raise ShapeError(
                f"{_CONDITION} gives the wrong shape", got=list(w.shape), expected=f"[{len(z)}, D]"
            )
        return w

    def _applied(self, number: int, x: Tensor) -> Tensor:
        """Return what a layer makes of its input, as many of it."""
        name = _name(number, self.layers[number])
        made = _called(name, self.layers[number], x)
        if made.ndim == 0 or len(made) != len(x):
            raise ShapeError(
                f"{name} does not give one for each image",
                got=list(made.shape),
                expected=f"[{len(x)}, ...]",
            )
        return made

    def _checked(self, number: int, made: Tensor) -> Tensor:
        """Check that a layer gives the shape that it gave when the generator was made."""
        wanted = self.spec.levels[number + 1].shapes[0]
        if tuple(made.shape[1:]) != wanted:
            raise ShapeError(
                f"{_name(number, self.layers[number])} gives another shape than before",
                got=list(made.shape[1:]),
                expected=list(wanted),
            )
        return made


def _called(name: str, function: Callable[..., Any], *arguments: Tensor | None) -> Tensor:
    """Call a part of the user's, and say which one it was that failed."""
    try:
        made = function(*arguments)
    except HpdError:
        raise
    except Exception as error:
        # other batches are tried where memory runs out
        if is_out_of_memory(error):
            raise
        given = ", ".join(_described(argument) for argument in arguments)
        raise GeneratorError(
            f"{name} fails on {given}", got=f"{type(error).__name__}: {error}"
        ) from error
    return check_tensor(made, f"what comes out of {name}")


def _name(number: int, layer: nn.Module) -> str:
    return f"layer {number + 1} of the generator ({type(layer).__name__})"


def _described(argument: Tensor | None) -> str:
    if argument is None:
        return "no labels"
    return f"{str(argument.dtype).removeprefix('torch.')} {list(argument.shape)}"


def _checked_modules(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Check that there are layers, and nothing but modules."""
    found = list(layers) if isinstance(layers, (Sequence, nn.ModuleList, nn.Sequential)) else []
    strange = [layer for layer in found if not isinstance(layer, nn.Module)]
    if strange or not found:
        raise GeneratorError(
            "layers are not a list of modules",
            got=type(strange[0] if strange else layers).__name__,
            expected="one torch.nn.Module or more",
        )
    return found


def _checked_names(classes: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Check that there are as many names as classes, if any."""
    if classes is None or not len(classes):
        return ()
    names = as_names(classes)
    if len(names) != num_classes:
        raise GeneratorError(
            "classes do not fit num_classes",
            got=f"{len(names)} names",
            expected=f"{num_classes}, or none",
        )
    return names


def _check_images(x: Tensor, name: str) -> None:
    """Check that what the last layer gives can be images in [-1, 1]."""
    if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(
            f"{name}, the last one, gives no square images",
            got=list(x.shape),
            expected="[N, C, H, H]",
        )
    largest = float(x.abs().max())
    if largest > _FURTHEST:
        raise ShapeError(
            f"{name}, the last one, gives no images in [-1, 1]",
            got=f"values up to {largest:.4g}",
            fix="Of 0 to 255: x / 127.5 - 1, as a layer of its own.",
        )
