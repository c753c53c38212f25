"""How several processes share out a run: each has all images of its classes, and their latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard, cast

import torch
from torch import Tensor

from hpd.engine.parts import Parts
from hpd.engine.rendered import Drawn, SomeClasses
from hpd.machine.host import on_host, remember, send
from hpd.typing import (
    LearnsLabels,
    Matched,
    MatchesByBlock,
    MatchesByClass,
    MatchesTargets,
    Objective,
    ParameterGroup,
    Step,
)


@dataclass(frozen=True)
class Whole:
    """The images of a step, of all processes.

    Args:
        images: [N, C, H, W], in the order that they have in the whole set.
        labels: [N].
        own: which of them are of this process [N], bool.
        targets: their learnt labels [N, K]; None: there are none.
    """

    images: Tensor
    labels: Tensor
    own: Tensor
    targets: Tensor | None = None


class Share(Parts):
    """What one of several processes matches, of a source that it has a part of."""

    def join(self, images: Tensor, drawn: Drawn, targets: Tensor | None = None) -> Whole:
        """Return the images of all processes.

        Args:
            images: of this process [n, C, H, W].
            drawn: which of its own they are; all in each process, or some in each.
            targets: their learnt labels [n, K]; None: there are none.
        """
        chosen = drawn.indices
        if self._processes.count == 1:
            return Whole(images, self._labels[chosen], _all_of(chosen), targets)
        labels, rank = on_host(self._labels), self._processes.rank
        own = self._places(labels)
        places = own
        if not drawn.all:
            every = self._processes.objects(on_host(chosen).tolist())
            places = [
                part[torch.tensor(i, dtype=torch.long)] for part, i in zip(own, every, strict=True)
            ]
        # from places in the whole set to places among those that were drawn
        everything = torch.cat(places).sort().values
        among = [torch.searchsorted(everything, part) for part in places]
        mine = torch.zeros_like(everything, dtype=torch.bool)
        mine[among[rank]] = True
        joined = None if targets is None else self._gathered(targets, among)
        return Whole(
            self._gathered(images, among), _sent(labels[everything], images),
            _sent(mine, images), joined,
        )  # fmt: skip

    def _gathered(self, rows: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the rows of all processes, each in its place."""
        parts = torch.cat(self._processes.gather(rows, [len(own) for own in places]))
        joined = torch.empty_like(parts)
        joined[torch.cat([*places]).to(parts.device)] = parts
        return joined

    def match(
        self, objective: Objective, images: Tensor, labels: Tensor, step: Step,
        whole: Whole | None, targets: Tensor | None = None,
    ) -> Matched:  # fmt: skip
        """Match what is here, and return the gradient of these images.

        An objective that is a sum over blocks is asked about every W-th of them, and returns the
        gradient of all images, for `add_up_blocks`. One that is no sum over classes either is asked
        about all images in each process; so is any with labels that are learnt.

        Args:
            objective: what is matched.
            images: of this process.
            labels: of these.
            step: of the run.
            whole: from `join`, if `needs_all`.
            targets: learnt labels of these images; None: there are none.
        """
        if self._processes.count == 1:
            return _ask(objective, images, labels, targets, step)
        if whole is not None and _in_blocks(objective, whole):
            share = slice(self._processes.rank, None, self._processes.count)
            return objective.match_blocks(whole.images, whole.labels, step, share)
        if isinstance(objective, MatchesByClass) and targets is None:
            if whole is not None and not len(images):
                # what it learns on the way it learns in each process, of any class
                any_class = whole.labels == whole.labels[:1]
                objective.match(whole.images, whole.labels, step, any_class)
                return Matched(0.0, images)
            if whole is None:
                return objective.match(images, labels, step, _all_of(labels))
            return objective.match(whole.images, whole.labels, step, whole.own)
        assert whole is not None
        matched = _ask(objective, whole.images, whole.labels, whole.targets, step)
        # the loss is of all, and losses of processes are added up
        loss = matched.loss if self._processes.is_first else 0.0
        label_grad = None if matched.label_grad is None else matched.label_grad[whole.own]
        return Matched(loss, matched.image_grad[whole.own], matched.metrics, label_grad)

    def add_up_blocks(self, objective: Objective, matched: Matched, whole: Whole | None) -> Matched:
        """Return a match with the gradient of the images here, of the blocks of all processes.

        Args:
            objective: what was matched.
            matched: from `match`; returned as it is if there are no blocks.
            whole: as it was given to `match`.
        """
        if whole is None or not self.in_blocks(objective, whole):
            return matched
        # each image is in one block, so that adding zeros changes no bit
        grad = self._processes.sum(matched.image_grad)
        return replace(matched, image_grad=grad[whole.own])

    def in_blocks(self, objective: Objective, whole: Whole | None) -> bool:
        """Return whether blocks of images are shared out.

        Args:
            objective: what is matched.
            whole: as it is given to `match`.
        """
        return whole is not None and _in_blocks(objective, whole)

    def needs_all(self, objective: Objective, step: Step, some: SomeClasses | None = None) -> bool:
        """Return whether matching at `step` takes the images of other processes.

        So it does where one of them has no image in the step.

        Args:
            objective: what is matched.
            step: of the run.
            some: which classes a step takes; None: all.
        """
        if self._processes.count == 1:
            return False
        drawn = None if some is None else some.drawn(step)
        if drawn is not None and not all(bool(torch.isin(c, drawn).any()) for c in self._classes):
            return True
        if isinstance(self._source, LearnsLabels) or not isinstance(objective, MatchesByClass):
            return True
        return objective.needs_all(step)

    def has_common(self, groups: Sequence[ParameterGroup]) -> bool:
        """Return whether images of several processes depend on some tensor."""
        return self._processes.count > 1 and any(group.classes is None for group in groups)

    def add_up(self, groups: Sequence[ParameterGroup]) -> None:
        """Add up the gradients of the tensors that images of all processes depend on."""
        tensors = [t for group in groups if group.classes is None for t in group.tensors]
        if not tensors:
            return
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        flat = self._processes.sum(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.grad = part.view_as(tensor)

    def total(self, loss: float) -> float:
        """Return the sum of the losses of all processes."""
        return sum(own for (own,) in self._processes.numbers([loss]))


def _sent(tensor: Tensor, beside: Tensor) -> Tensor:
    """Return a tensor of the host on the device of another one."""
    return remember(send(tensor, beside.device), tensor)


def _all_of(rows: Tensor) -> Tensor:
    """Return that each of some rows is meant, which the host knows."""
    every = torch.ones(len(rows), dtype=torch.bool)
    return remember(torch.ones_like(rows, dtype=torch.bool), every)


def _in_blocks(objective: Objective, whole: Whole) -> TypeGuard[MatchesByBlock]:
    """Return whether blocks are shared out; images with learnt labels never are."""
    return whole.targets is None and isinstance(objective, MatchesByBlock)


def _ask(
    objective: Objective, images: Tensor, labels: Tensor, targets: Tensor | None, step: Step
) -> Matched:
    """Match images with their learnt labels, where they have some."""
    if targets is None:
        return objective(images, labels, step)
    return cast(MatchesTargets, objective).match_targets(images, labels, targets, step)
