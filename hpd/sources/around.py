"""What a source around another one passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpd.checks import check_shardable
from hpd.typing import (
    DrawsBatches,
    EntersByClass,
    ParameterGroup,
    Shardable,
    Source,
    Stage,
    StageCost,
    State,
    Step,
    generator_floats_of,
    stage_costs_of,
    stored_of,
)


class Around:
    """The part of a source that is that of the source inside; who derives says what differs.

    Args:
        inner: the source inside.
    """

    def __init__(self, inner: Source) -> None:
        self.inner = inner

    @property
    def labels(self) -> Tensor:
        """Class of each image of the source inside [N]."""
        return self.inner.labels

    @property
    def stored_floats(self) -> int:
        """Number of floats of the source inside."""
        return self.inner.stored_floats

    @property
    def stored(self) -> Mapping[str, Tensor] | None:
        """What the source inside stores; see `Stores`."""
        return stored_of(self.inner)

    @property
    def generator_floats(self) -> int:
        """Of the source inside; see `KeepsGenerator`."""
        return generator_floats_of(self.inner)

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages of the source inside."""
        return self.inner.stages

    def stage_costs(self) -> Sequence[StageCost] | None:
        """Return what each stage of the source inside takes; see `TellsCosts`."""
        return stage_costs_of(self.inner)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Enter the stage of the source inside."""
        return self.inner.enter(stage)

    def enters_by_class(self, stage: int) -> bool:
        """Return what the source inside does; see `EntersByClass`."""
        return isinstance(self.inner, EntersByClass) and self.inner.enters_by_class(stage)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """What the source inside owns; see `Shardable`."""
        return self._shardable.owned

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes of the source inside; see `Shardable`."""
        return self._shardable.narrow(classes)

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self._shardable.widen(state, labels)

    @property
    def _shardable(self) -> Shardable:
        return check_shardable(self.inner)

    def state(self) -> State:
        """Return the state of the source inside."""
        return self.inner.state()

    def load_state(self, state: State) -> None:
        """Restore the source inside."""
        self.inner.load_state(state)


class AroundImages(Around):
    """The same where each image is one of the source inside, which may draw batches."""

    def batch(self, step: Step) -> Tensor:
        """Return the images of a step: those that the source inside draws, else all."""
        if isinstance(self.inner, DrawsBatches):
            return self.inner.batch(step)
        return torch.arange(len(self.labels), device=self.labels.device)
