"""Hierarchical memories in front of a generator, followed by H-PD's stages.

The memories are a first stage. After it what they gave becomes free: the ws of each image and its
features, level by level. From then on images share nothing, and are what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpd.sources.gan.levels import GanSource
from hpd.sources.hmn.generator import GeneratorDecoder, GeneratorDecoderSettings
from hpd.sources.hmn.memories import HmnSource
from hpd.sources.rows import as_leaf
from hpd.typing import ParameterGroup, Pullback, Shardable, Stage, State, Step


class HmnThenLevels:
    """Memories first, then the levels of their generator.

    Args:
        memories: whose decoder is a generator.
        settings: options of that decoder.
        chunk_images: most images rendered with a graph at a time.
    """

    def __init__(
        self, memories: HmnSource, settings: GeneratorDecoderSettings, chunk_images: int
    ) -> None:
        assert isinstance(memories.decoder, GeneratorDecoder)
        self._memories, self._decoder = memories, memories.decoder
        self._chunk_images = chunk_images
        self._levels = GanSource(
            self._decoder.stored, self._decoder.averages[memories.labels], memories.labels,
            settings.level_plan(), lr_pixels=settings.lr_pixels, lr_generator=None,
            feature_limit=None, chunk_images=chunk_images, noise=None,
        )  # fmt: skip
        self._active: Shardable = memories

    @property
    def labels(self) -> Tensor:
        """Class of each image [N]."""
        return self._active.labels

    @property
    def stored_floats(self) -> int:
        """Number of pixel values: the images are kept."""
        return self._levels.stored_floats

    @property
    def provenance(self) -> Mapping[str, object]:
        """The account, and the generator."""
        return self._memories.provenance

    @property
    def stages(self) -> Sequence[Stage]:
        """The memories, then one stage per level."""
        return (*self._memories.stages, *self._levels.stages)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Move to a stage; the first level takes over what the memories gave."""
        if stage == 0:
            return self._memories.enter(0)
        if stage == 1:
            self._take_over()
        return self._levels.enter(stage - 1)

    def enters_by_class(self, stage: int) -> bool:
        """Return whether the levels are entered, where images share nothing any more."""
        return stage > 0

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The instance memories, or ws and features; see `Shardable`."""
        return self._active.owned

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        return self._active.narrow(classes)

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self._active.widen(state, labels)

    @torch.no_grad()
    def _take_over(self) -> None:
        everything = torch.arange(len(self.labels), device=self.labels.device)
        parts = [self._memories.latents(p) for p in everything.split(self._chunk_images)]
        self._levels.labels = self.labels
        self._levels.ws = as_leaf(torch.cat([ws for _, ws in parts]).to(self._levels.ws))
        states = [state for state, _ in parts]
        self._levels.features = tuple(torch.cat(own) for own in zip(*states, strict=True))
        self._levels.level = self._decoder.level
        self._active = self._levels

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        return self._memories.batch_of(self.labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return self._active.render(indices)

    def state(self) -> State:
        """Return clones of the memories, or of the latents that came from them."""
        return self._active.state()

    def load_state(self, state: State) -> None:
        """Restore what `state` returned, in the stage in which it was taken."""
        self._active.load_state(state)
