"""A decoder of your own as a generator with levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from generators.base import Generator, GeneratorSpec, Level, LevelState

Condition = Callable[[Tensor, Tensor | None], Tensor]


class LayeredGenerator(Generator):
    """A conditional decoder given as a list of layers.

    One w per image, ``condition(z, labels)``, enters the first layer; level k is what the first
    k layers give, the last level is the image.

    Args:
        layers: modules that follow each other, each from one tensor to one tensor, each image by
            itself (batch norms in eval mode); the last gives images [N, C, H, H] in [-1, 1].
        condition: turns z [N, z_dim] and class indices [N] (None for an unconditional decoder)
            into the input of the first layer, [N, D]; a module or any function.
        z_dim: width of z.
        num_classes: number of classes, 0 for an unconditional decoder.
        classes: names of the classes, by which a data set is matched.

    A truncation psi below 1 scales z, which pulls w to the w of z = 0.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        condition: Condition,
        *,
        z_dim: int,
        num_classes: int = 0,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # a module is registered as one, so that it moves to devices with the rest
        self.condition = condition
        self.requires_grad_(False).eval()
        labels = torch.zeros(1, dtype=torch.long) if num_classes else None
        shapes: list[tuple[tuple[int, ...], ...]] = [()]
        with torch.no_grad():
            x = w = condition(torch.zeros(1, z_dim), labels)
            for layer in self.layers:
                x = layer(x)
                shapes.append((tuple(x.shape[1:]),))
        names = ["ws", *(f"layer{i}" for i in range(1, len(shapes) - 1)), "pixels"]
        self.spec = GeneratorSpec(
            family="layered",
            resolution=x.shape[-1],
            channels=x.shape[1],
            z_dim=z_dim,
            w_dim=w.shape[1],
            num_classes=num_classes,
            num_ws=1,
            levels=tuple(Level(*pair) for pair in zip(names, shapes, strict=True)),
            classes=tuple(classes),
        )

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return self.condition(z * truncation_psi, labels)[:, None]

    def _next(self, state: LevelState, ws: Tensor, level: int) -> LevelState:
        x = state[0] if level else ws[:, 0]
        if self.compute_dtype is None:
            return (self.layers[level](x),)
        # each layer takes and gives the dtype of ws, wherever the caller cuts
        with torch.autocast(x.device.type, self.compute_dtype):
            return (self.layers[level](x).to(ws.dtype),)
