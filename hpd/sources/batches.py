"""Images of a step, for sources of more images than a step takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.machine.host import on_host
from hpd.rng import Streams
from hpd.typing import Step


@dataclass(frozen=True)
class Batches:
    """Which images of a source a step takes.

    Args:
        most: images of a class at most; None: all.
        num_classes: of the whole source.
        streams: the draw is of the step.
    """

    most: int | None
    num_classes: int
    streams: Streams

    def of(self, labels: Tensor, step: Step) -> Tensor:
        """Return the indices of a step's images among those of some labels; see `draw_batch`."""
        rng = self.streams.generator("batch", step.stage, step.index)
        return draw_batch(labels, self.num_classes, self.most, rng)


def draw_batch(labels: Tensor, num_classes: int, most: int | None, rng: torch.Generator) -> Tensor:
    """Return the indices, on the host, of random images of some classes, as many of each class.

    What is drawn of a class does not depend on which other classes are here.

    Args:
        labels: of these images [n]: all of each class, ordered by class, equally many.
        num_classes: of the whole source.
        most: images of a class at most; None: all.
        rng: of the draw; left alone where a step takes all images.
    """
    labels = on_host(labels)
    per_class = len(labels) // len(labels.unique())
    everything = torch.arange(len(labels))
    if most is None or per_class <= most:
        return everything
    order = torch.rand(num_classes, per_class, generator=rng).argsort(dim=1)
    chosen = order[:, :most].sort(dim=1).values
    # drawn for every class, whichever are here
    chosen = chosen[labels[::per_class]]
    return everything.unflatten(0, (-1, per_class)).gather(1, chosen).flatten()
