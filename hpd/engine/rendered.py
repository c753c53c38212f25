"""All that a source gives at the moment: its images, and the labels that it learns, if any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.errors import RunError
from hpd.machine.host import on_host, remember, send
from hpd.rng import Streams
from hpd.typing import DrawsBatches, LearnsLabels, Matched, Pullback, Source, Step

# from so many classes on a step takes some
_MANY, _OF_MANY = 100, 10


@dataclass(frozen=True)
class Drawn:
    """Which images of a source a step takes.

    Args:
        indices: [n], on the device.
        labels: their classes [n], on the device, and known to the host.
        all: whether these are all there are.
    """

    indices: Tensor
    labels: Tensor
    all: bool

    @classmethod
    def of(cls, source: Source, step: Step, some: SomeClasses | None = None) -> Drawn:
        """Return the images of a step: those that the source draws, else all.

        Args:
            source: in the stage of the step.
            step: of the run.
            some: takes some classes of them; None: all classes.
        """
        there, known = source.labels, on_host(source.labels)
        chosen = None if some is None else some.of(known, step)
        if chosen is None and not isinstance(source, DrawsBatches):
            return cls(every_index(source), there, True)
        drawn = torch.arange(len(known))
        if isinstance(source, DrawsBatches):
            drawn = on_host(source.batch(step))
        if chosen is not None:
            drawn = drawn[torch.isin(known[drawn], chosen)]
        elif torch.equal(drawn, torch.arange(len(known))):
            return cls(every_index(source), there, True)
        indices = remember(send(drawn, there.device), drawn)
        own = known[drawn]
        return cls(indices, remember(send(own, there.device), own), False)


@dataclass(frozen=True)
class SomeClasses:
    """Which classes a step takes, whoever has them.

    The draw is spread evenly over the places of the classes modulo a power of two, so that two,
    four or eight processes, each with every second, fourth or eighth class, have as many each.

    Args:
        count: of them; None: all, and 10 where there are more than 100.
        classes: all of the run, ascending, on the host.
        streams: the draw is of the step, so that a run that is resumed takes the same ones.
    """

    count: int | None
    classes: Tensor
    streams: Streams

    def drawn(self, step: Step) -> Tensor | None:
        """Return the classes of a step, ascending, None for all of them."""
        whole = len(self.classes)
        count = self.count or (whole if whole <= _MANY else _OF_MANY)
        if count >= whole:
            return None
        rng = self.streams.generator("classes", step.stage, step.index)
        strata = 2 ** (count.bit_length() - 1)
        order = torch.randperm(whole, generator=rng)
        # those of each stratum in the order of the draw, and the strata by turns
        by_stratum = (order % strata).sort(stable=True)
        sizes = by_stratum.values.unique(return_counts=True)[1].tolist()
        turns = torch.cat([torch.arange(size) for size in sizes])
        first = int(torch.randint(strata, (), generator=rng))
        keys = turns * strata + (by_stratum.values - first) % strata
        chosen = order[by_stratum.indices[keys.argsort()[:count]]]
        return self.classes[chosen.sort().values]

    def of(self, labels: Tensor, step: Step) -> Tensor | None:
        """Return the classes of a step that are among some labels [N], None for all of them."""
        drawn = self.drawn(step)
        return None if drawn is None else drawn[torch.isin(drawn, labels)]


@dataclass(frozen=True)
class Rendered:
    """Images of a source, and the way back.

    Args:
        images: [n, C, H, W] in [0, 1] (nominally), detached.
        targets: their learnt labels [n, K]; None: there are none.
        pullback: of the images.
        label_pullback: of the labels.
    """

    images: Tensor
    targets: Tensor | None
    pullback: Pullback
    label_pullback: Pullback | None

    @classmethod
    def of(cls, source: Source, indices: Tensor) -> Rendered:
        """Return some images of a source.

        Args:
            source: in a stage.
            indices: which.
        """
        if not len(indices):
            return cls._of_none(source)
        images, pullback = source.render(indices)
        if not isinstance(source, LearnsLabels):
            return cls(images, None, pullback, None)
        targets, label_pullback = source.targets(indices)
        return cls(images, targets, pullback, label_pullback)

    @classmethod
    def _of_none(cls, source: Source) -> Rendered:
        """Return no images, in the shape that images have; there is no way back to anything."""
        first = torch.zeros(1, dtype=torch.long, device=source.labels.device)
        images, targets = source.render(first)[0][:0], None
        if isinstance(source, LearnsLabels):
            targets = source.targets(first)[0][:0]
        return cls(images, targets, _leave, None)

    def pull(self, matched: Matched) -> None:
        """Take the gradients of a match back to what the source optimises.

        Raises:
            RunError: if there are learnt labels, and no gradient to them.
        """
        self.pullback(matched.image_grad)
        if self.label_pullback is not None:
            if matched.label_grad is None:
                raise RunError("the objective gave no gradient to the labels that are learnt")
            self.label_pullback(matched.label_grad)


def _leave(grad: Tensor) -> None:
    """Take a gradient of no images nowhere."""


def render_all(source: Source) -> Tensor:
    """Return every image of the source [N, C, H, W] on the CPU."""
    images, _ = source.render(every_index(source))
    return images.cpu()


def learnt_labels(source: Source) -> Tensor | None:
    """Return the learnt labels of all images [N, K] on the CPU, None where there are none."""
    if not isinstance(source, LearnsLabels):
        return None
    return source.targets(every_index(source))[0].cpu()


def every_index(source: Source) -> Tensor:
    """Return the indices of all images of a source, on its device."""
    return torch.arange(len(source.labels), device=source.labels.device)
