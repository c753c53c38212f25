"""Memories of a data set, its classes and its images, and how images come out of them.

Source: Zheng et al., Leveraging Hierarchical Feature Sharing for Efficient Dataset Condensation,
ECCV 2024 (HMN). No code was released: sizes, layers and the start are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from generators import LevelState
from hpd.data import ImageSet
from hpd.errors import RunError
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import ChunkedSettings
from hpd.sources.batches import Batches
from hpd.sources.hmn.budget import Account
from hpd.sources.hmn.decoders import DECODERS, ConvDecoderSettings, Decoder, DecoderSettings
from hpd.sources.hmn.generator import GeneratorDecoder
from hpd.sources.hmn.start import draw_targets, fit_to_real
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Stage, State, Step

# every forward has this many images, whatever is asked for: libraries choose their algorithm by
# the shape, and with it the last bit of an image
_TILE_IMAGES = 8
_SLOPE = 0.2


class HmnOptions(ChunkedSettings):
    """Options of the memories, their networks and their budget."""

    budget_images: Annotated[int, Only("budget_floats", None)] = Field(
        1, ge=1, description="floats to store, as the images a class that would take as many"
    )
    budget_floats: int | None = Field(
        None, ge=1, description="floats to store, in place of budget_images"
    )
    overbudget: float = Field(
        0.0, ge=0, le=1, description="share above the budget, to be pruned away: see hpd prune"
    )
    images_per_class: int | None = Field(
        None, ge=1, description="images to give; null: all that the budget holds"
    )
    dataset_channels: int | None = Field(None, ge=1, description="null: by the budget")
    class_channels: int | None = Field(None, ge=1, description="null: by the budget")
    instance_channels: int | None = Field(None, ge=1, description="null: by the budget")
    extractor_channels: int | None = Field(None, ge=1, description="null: by the budget")
    decoder: Annotated[DecoderSettings, DECODERS] = Field(
        ConvDecoderSettings(), description="makes images of memories"
    )
    batch_images: Annotated[int | None, Field(ge=1)] = Field(
        16, description="most images of a class in one step, drawn at random; null: all"
    )
    steps: int = Field(1000, ge=0, description="of the optimiser")
    lr_memories: float = Field(0.01, gt=0, description="learning rate of the memories")
    lr_networks: float = Field(0.005, gt=0, description="of the extractors and the decoder")


class HmnSource:
    """``x_ci = D([f_c(m_D), m_C_c, m_I_ci])``, side by side along channels.

    Args:
        account: shapes and counts.
        decoder: D, on the device.
        settled: options with every size written out.
        instance_scale: standard deviation of the fresh instance memories.
        device: where the parameters live.
        streams: randomness of the memories and of the batches.
    """

    def __init__(
        self, account: Account, decoder: Decoder, *, settled: HmnOptions, instance_scale: float,
        device: torch.device, streams: Streams,
    ) -> None:  # fmt: skip
        s, k = account.shapes, account.num_classes
        self.account, self.settled = account, settled
        self.labels = torch.arange(k, device=device).repeat_interleave(account.images_per_class)
        self._streams = streams

        def draw(name: str, *shape: int, scale: float = 1.0) -> Tensor:
            values = torch.randn(*shape, generator=streams.generator(name)) * scale
            return values.to(device).requires_grad_()

        self.dataset_memory = draw("dataset memory", s.dataset, *s.grid)
        self.class_memory = draw("class memory", k, s.of_class, *s.grid)
        self.instance_memory = draw(
            "instance memory", len(self.labels), s.instance, *s.grid, scale=instance_scale
        )
        self.extractor = draw("extractor", k, s.extractor, s.dataset, scale=s.dataset**-0.5)
        self.extractor_bias = torch.zeros(k, s.extractor, 1, device=device).requires_grad_()
        self.decoder = decoder

    @property
    def stored_floats(self) -> int:
        """Number of values in memories and networks, or of pixels if the images are kept."""
        return self.account.total

    @property
    def generator_floats(self) -> int:
        """Parameters of the generator that decodes; 0 if the images are kept."""
        return 0 if self.account.image_floats is not None else self.decoder.generator_floats

    @property
    def stored(self) -> Mapping[str, Tensor] | None:
        """Memories and networks, None where the images are kept; see `Stores`."""
        return self._named() if self.account.image_floats is None else None

    @property
    def provenance(self) -> Mapping[str, object]:
        """The account, and what the decoder comes from."""
        return {"account": self.account.as_json(), **self.decoder.provenance}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return (Stage("memories", self.settled.steps),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return memories and networks."""
        if stage:
            raise RunError("memories have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        *common, own = self._memories
        rate = self.settled.lr_memories
        return (
            ParameterGroup("memories", tuple(common), rate),
            ParameterGroup("instance memories", (own,), rate, self.labels),
            ParameterGroup("networks", self._networks, self.settled.lr_networks),
        )

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The instance memories; see `Shardable`."""
        return {"instance_memory": self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`.

        Class memories and extractors are few floats and stay, so that all are as they were.
        """
        own = rows_of(self.labels, classes)
        self.labels, self.instance_memory = self.labels[own], as_leaf(self.instance_memory[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.instance_memory = labels, as_leaf(state["instance_memory"])
        self.load_state(state)

    @property
    def _memories(self) -> tuple[Tensor, ...]:
        return self.dataset_memory, self.class_memory, self.instance_memory

    @property
    def _networks(self) -> tuple[Tensor, ...]:
        return self.extractor, self.extractor_bias, *self.decoder.learnt().values()

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        return self.batch_of(self.labels, step)

    def batch_of(self, labels: Tensor, step: Step) -> Tensor:
        """Return the indices of the images of this step among those of some classes.

        Args:
            labels: of these images [n], all of each class.
            step: of the run.
        """
        batches = Batches(self.settled.batch_images, self.account.num_classes, self._streams)
        return batches.of(labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self.settled.chunk)

    def _decode(self, indices: Tensor) -> Tensor:
        tiles = [self._tile(part) for part in indices.split(_TILE_IMAGES)]
        return torch.cat(tiles)

    def _tile(self, indices: Tensor) -> Tensor:
        missing = _TILE_IMAGES - len(indices)
        return self._forward(torch.cat([indices, indices[:1].expand(missing)]))[: len(indices)]

    def _forward(self, indices: Tensor) -> Tensor:
        return self.decoder(self._codes(indices), self.labels[indices])

    def _codes(self, indices: Tensor) -> Tensor:
        """Return what the decoder sees [n, code, h, w]."""
        labels = self.labels[indices]
        # for all classes at once, so that it is the same for whatever images
        extracted = self.extractor @ self.dataset_memory.flatten(1) + self.extractor_bias
        extracted = F.leaky_relu(extracted, _SLOPE).unflatten(2, self.account.shapes.grid)
        parts = extracted[labels], self.class_memory[labels], picked(self.instance_memory, indices)
        return torch.cat(parts, dim=1)

    def latents(self, indices: Tensor) -> tuple[LevelState, Tensor]:
        """Return the state at the decoder's level, and ws [n, num_ws, D], of a generator."""
        assert isinstance(self.decoder, GeneratorDecoder)
        return self.decoder.latents(self._codes(indices), self.labels[indices])

    def fit(self, train: ImageSet, steps: int) -> None:
        """Fit memories and networks to random real images; see `fit_to_real`."""
        rng = self._streams.generator("fit")
        chosen = draw_targets(train, self.account.images_per_class, rng)

        def target(indices: Tensor) -> Tensor:
            return train.unit(chosen[indices], self.labels.device)

        fit_to_real(
            self._forward, self._memories, self._networks, target,
            count=len(self.labels), steps=steps, rng=rng,
        )  # fmt: skip

    def images_within(self, budget: int) -> int:
        """Return the most images a class that a budget in floats leaves room for."""
        return self.account.images_within(budget)

    def keep(self, kept: Tensor) -> HmnOptions:
        """Drop the instance memories of all images but some; nothing else changes.

        Args:
            kept: indices of the images to keep, ascending, as many of every class.

        Returns:
            settings of what is left.
        """
        per_class = len(kept) // self.account.num_classes
        counts = torch.bincount(self.labels[kept], minlength=self.account.num_classes)
        if not per_class or not bool((counts == per_class).all()):
            raise RunError("every class must keep the same number of images", got=counts.tolist())
        self.instance_memory = self.instance_memory.detach()[kept].clone().requires_grad_()
        self.labels = self.labels[kept]
        self.account = replace(self.account, images_per_class=per_class)
        changed: dict[str, object] = {"images_per_class": per_class, "overbudget": 0.0}
        if self.account.total > self.account.budget:
            changed["budget_floats"] = self.account.total
        self.settled = self.settled.model_copy(update=changed)
        return self.settled

    def state(self) -> State:
        """Return clones of all memories and networks."""
        return {name: tensor.detach().clone() for name, tensor in self._named().items()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore memories and networks."""
        for name, tensor in self._named().items():
            tensor.copy_(state[name])

    def _named(self) -> dict[str, Tensor]:
        own = {
            name: getattr(self, name)
            for name in (
                "dataset_memory", "class_memory", "instance_memory", "extractor", "extractor_bias"
            )
        }  # fmt: skip
        decoder = {f"decoder.{name}": value for name, value in self.decoder.learnt().items()}
        return own | decoder
