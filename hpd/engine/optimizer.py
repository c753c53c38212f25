"""The optimiser of a stage, with rates relative to what is optimised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.machine.device import Processes
from hpd.machine.host import on_host, told
from hpd.registry import Only, Settings
from hpd.typing import ParameterGroup, State

# of the tensors in an optimiser's state
_MEAN = "mean"
# of float32: a CPU's registers hold so many at most
_AT_ONCE = 16


class OptimizerSettings(Settings):
    """The optimiser; a fresh one is made for each stage.

    Features of different levels differ in scale by large factors. With ``rates: relative`` the
    learning rate of a tensor is the group's `lr` times the tensor's RMS at the start of the
    stage, so one number serves all levels and generators; ``absolute`` takes `lr` as it is, as
    the published settings do (with ``kind: sgd``).
    """

    kind: Literal["adam", "sgd"] = Field("adam", description="of what a source optimises")
    rates: Literal["relative", "absolute"] = Field(
        "relative", description="relative: in parts of the root mean square of what they move"
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="of SGD, or Adam's beta 1")
    beta2: Annotated[float, Only("kind", "adam")] = Field(
        0.99, ge=0, lt=1, description="Adam's beta 2; SGD has none"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: the rates fall to 0 over the steps of a stage"
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a stage's steps, the last ones, whose mean is the state that it ends"
        " with and hands on; 0: the state after the last step",
    )

    def learning_rates(
        self, groups: Sequence[ParameterGroup], processes: Processes | None = None
    ) -> tuple[float, ...]:
        """Return the learning rate of each tensor of `groups`, the same in every process.

        Args:
            groups: what is optimised.
            processes: each of which has the rows of some classes; None: this one has all.
        """
        if self.rates == "absolute":
            return tuple(group.lr for group in groups for _ in group.tensors)
        processes = processes or Processes()
        return tuple(
            group.lr * root_mean_square(tensor, group.classes, processes)
            for group in groups
            for tensor in group.tensors
        )

    def build(
        self, groups: Sequence[ParameterGroup], lrs: Sequence[float] | None = None
    ) -> torch.optim.Optimizer:
        """Return a fresh optimiser over the tensors of `groups`.

        Args:
            groups: what is optimised.
            lrs: the learning rate of each tensor; None: see `learning_rates`.
        """
        tensors = [tensor for group in groups for tensor in group.tensors]
        options: list[dict[str, Any]] = [
            {"params": [tensor], "lr": lr}
            for tensor, lr in zip(tensors, lrs or self.learning_rates(groups), strict=True)
        ]
        # torch wants a group even where there is nothing to optimise
        options = options or [{"params": [], "lr": 0.0}]
        fused = bool(groups) and all(map(_fits_fused, groups))
        if self.kind == "sgd":
            return torch.optim.SGD(options, momentum=self.momentum, fused=fused)
        return torch.optim.Adam(options, betas=(self.momentum, self.beta2), fused=fused)

    def step(self, optimizer: torch.optim.Optimizer, index: int, steps: int) -> None:
        """Take a step at the rate of the schedule: ``lr * (1 + cos(pi * index / steps)) / 2``.

        The optimiser keeps the rates that a stage starts with; see `rates`. With `average` it keeps
        the mean of what its last steps came to, too; see `hand_on_means`.

        Args:
            optimizer: from `build`.
            index: of the step in its stage, from 0.
            steps: of the stage.
        """
        if self.schedule == "constant":
            optimizer.step()
        else:
            whole, factor = rates(optimizer), 0.5 * (1 + math.cos(math.pi * index / steps))
            _set_rates(optimizer, [lr * factor for lr in whole])
            optimizer.step()
            _set_rates(optimizer, whole)
        if self.average:
            taken = index - (steps - max(1, round(self.average * steps)))
            if taken >= 0:
                _add_to_means(optimizer, taken)


def _fits_fused(group: ParameterGroup) -> bool:
    """Return whether one pass over all numbers may take a step, in a tenth of the time of many.

    On a CPU it rounds what is left over when registers are full otherwise than the rest. Rows that
    fill them come to the same in one process and in several. It also takes numbers in the order in
    which they lie, which has to be that of the gradient and of a state that was read from a file.
    """
    alone = group.classes is None
    return all(
        tensor.device.type in ("cpu", "cuda")
        and tensor.is_contiguous()
        and (alone or math.prod(tensor.shape[1:]) % _AT_ONCE == 0)
        for tensor in group.tensors
    )


@torch.no_grad()
def _add_to_means(optimizer: torch.optim.Optimizer, taken: int) -> None:
    """Add each tensor to the mean of what it was after `taken` steps before."""
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            own = optimizer.state[tensor]
            if taken == 0:
                own[_MEAN] = tensor.detach().clone()
            else:
                own[_MEAN] += (tensor - own[_MEAN]) / (taken + 1)


@torch.no_grad()
def hand_on_means(optimizer: torch.optim.Optimizer) -> None:
    """Set each tensor to the mean of what its last steps came to, where there is one."""
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            mean = optimizer.state[tensor].get(_MEAN)
            if mean is not None:
                tensor.copy_(mean)


def root_mean_square(
    tensor: Tensor, classes: Tensor | None = None, processes: Processes | None = None
) -> float:
    """Return sqrt(mean(x^2)), or 1 for a tensor of zeros, which has no scale of its own.

    Args:
        tensor: any; of several processes the rows that this one has.
        classes: class of each row; None: the tensor is the same in every process. Squares are
            added up class by class, and these sums without rounding: it does not matter who has
            which.
        processes: that have the other classes; None: there are none.
    """
    values, count = tensor.detach(), tensor.numel()
    if classes is None:
        squares = [float(values.double().square().sum())]
    else:
        here = told([values[rows].double().square_().sum() for rows in _by_class(classes)])
        every = (processes or Processes()).objects((here, count))
        squares = [square for theirs, _ in every for square in theirs]
        count = sum(theirs for _, theirs in every)
    value = math.sqrt(math.fsum(squares) / count) if count else 0.0
    return value or 1.0


def _by_class(classes: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of each class, in order."""
    known = on_host(classes)
    rows = known.argsort(stable=True)
    return rows.split(known.unique(return_counts=True)[1].tolist())


def rates(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """Return the learning rate of each group."""
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def restore(
    optimizer: torch.optim.Optimizer, state: State, lrs: Sequence[float] | None = None
) -> None:
    """Set a fresh optimiser to what `optimizer_state` and `rates` returned of another.

    Args:
        optimizer: over tensors of the same shapes, in the same order.
        state: its tensors.
        lrs: the learning rate of each group; None leaves them as they are.
    """
    nested: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, name = key.split(".", 1)
        nested.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": nested, "param_groups": groups})
    if lrs is not None:
        _set_rates(optimizer, lrs)


def _set_rates(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Return clones of an optimiser's tensors as ``<number of the parameter>.<name>``."""
    return {
        f"{number}.{name}": value.detach().clone()
        for number, own in optimizer.state_dict()["state"].items()
        for name, value in own.items()
        if isinstance(value, Tensor)
    }
