"""Labels that are learnt beside the images of any source: probabilities of the classes.

Sources: Bohdal, Yang and Hospedales, Flexible Dataset Distillation: Learn Labels Instead of Images,
2020; Sucholutsky and Schonlau, Soft-Label Dataset Distillation, IJCNN 2021; Zhou, Nezhadarya and
Ba, NeurIPS 2022 (FRePo). That they are a softmax of what is optimised is ours: they stay
probabilities, on which anybody can train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.errors import ConfigError
from hpd.registry import Settings
from hpd.sources.around import AroundImages
from hpd.sources.rendering import as_indices, pullback_of_labels
from hpd.sources.rows import as_leaf, rows_of
from hpd.typing import (
    ParameterGroup,
    Pullback,
    Source,
    State,
)

NAME = "label_logits"
"""Of the labels in the state."""


class LearntLabelSettings(Settings):
    """How labels start and how fast they are learnt; they count as K floats an image."""

    confidence: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="probability of an image's class in its label at the start; the other classes"
        " share the rest",
    )
    lr: float = Field(0.01, gt=0, description="of the logits")

    def around(self, source: Source, num_classes: int) -> WithLearntLabels:
        """Return a source with labels that are learnt.

        Args:
            source: initialised, in no stage yet.
            num_classes: K.

        Raises:
            ConfigError: if labels would start further from their class than from others.
        """
        if self.confidence * num_classes <= 1:
            raise ConfigError(
                "labels would not tell classes apart",
                got=f"confidence {self.confidence:g} with {num_classes} classes",
                expected=f"above {1 / num_classes:.3g}",
                option="confidence",
            )
        rest = (1 - self.confidence) / (num_classes - 1)
        own = F.one_hot(source.labels, num_classes).bool()
        logits = torch.full(own.shape, math.log(rest), device=own.device)
        logits[own] = math.log(self.confidence)
        # the mean says nothing, and the optimiser measures rates by the size of all
        return WithLearntLabels(source, logits - logits.mean(dim=1, keepdim=True), self.lr)


class WithLearntLabels(AroundImages):
    """A source, and for each of its images the logits of a label; see `LearnsLabels`.

    Its floats are those of the images: labels are counted beside them, and learnt in all stages.

    Args:
        inner: gives the images.
        logits: [N, K].
        lr: of the logits.
    """

    def __init__(self, inner: Source, logits: Tensor, lr: float) -> None:
        super().__init__(inner)
        self.logits, self._lr = as_leaf(logits), lr

    @property
    def provenance(self) -> Mapping[str, object]:
        """That labels were learnt, how many floats they are, and what the source inside tells."""
        about = {"learnt": True, "floats": self.logits.numel()}
        return {"soft_labels": about, **self.inner.provenance}

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Enter the stage of the source inside."""
        return (*self.inner.enter(stage), self._group())

    def _group(self) -> ParameterGroup:
        return ParameterGroup("labels", (self.logits,), self._lr, self.labels)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The labels, and what the source inside owns; see `Shardable`."""
        return {**self._shardable.owned, NAME: self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep images and labels of some classes; see `Shardable`."""
        self.logits = as_leaf(self.logits[rows_of(self.labels, classes)])
        return (*self._shardable.narrow(classes), self._group())

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self._shardable.widen(_inside(state), labels)
        self.logits = as_leaf(state[NAME])

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images of the source inside."""
        return self.inner.render(indices)

    def targets(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return probabilities [n, K] and their pullback; see `LearnsLabels`."""
        with torch.enable_grad():
            probabilities = self.logits[as_indices(indices)].softmax(dim=1)
        return probabilities.detach(), pullback_of_labels(probabilities)

    def state(self) -> State:
        """Return the state of the source inside, and clones of the logits."""
        return {**self.inner.state(), NAME: self.logits.detach().clone()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore images and labels."""
        self.inner.load_state(_inside(state))
        self.logits.copy_(state[NAME])


def _inside(state: State) -> State:
    return {name: value for name, value in state.items() if name != NAME}
