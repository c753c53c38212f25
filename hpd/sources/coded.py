"""Few bits a number around any source: what is stored are codes, and images come from these.

In the last part of a run the source renders from rounded values, and the gradient goes to the
values before rounding as if there were none (straight-through: Bengio, Leonard and Courville,
Estimating or Propagating Gradients Through Stochastic Neurons, 2013; Jacob et al., CVPR 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from hpd.codecs import Bits, Codec, Scale
from hpd.errors import ConfigError
from hpd.sources.around import AroundImages
from hpd.sources.learnt_labels import NAME as LABELS
from hpd.sources.learnt_labels import WithLearntLabels
from hpd.sources.rows import rows_of
from hpd.storage import FLOAT_BITS
from hpd.typing import (
    ParameterGroup,
    Pullback,
    Source,
    Stage,
    State,
    stored_of,
)

IMAGES = "images"
"""Name of what is stored by a source that keeps its images."""
GENERATOR = "generator."
"""What the names of a generator's weights begin with, where they are stored."""
_CODE, _LOW, _STEP = "code.", "code_low.", "code_step."


class StorageSettings(Codec):
    """How a source's numbers are stored, and from when on it is optimised as it is stored."""

    start: float = Field(
        0.7,
        ge=0,
        le=1,
        description="share of the last stage's steps before it is rounded at every step; 1: it is"
        " rounded at the end alone",
    )
    label_bits: Bits | None = Field(
        None, description="of each probability of a label that is learnt; null: as `bits`"
    )
    generator_bits: Bits = Field(
        16, description="of each weight of a generator that is of the set (count_generator)"
    )

    @property
    def of_labels(self) -> Codec:
        """By what labels that are learnt are stored."""
        return Codec(bits=self.bits if self.label_bits is None else self.label_bits)

    @property
    def of_generator(self) -> Codec:
        """By what a generator's weights are stored."""
        return Codec(bits=self.generator_bits, per=self.per)

    def around(self, source: Source) -> Coded:
        """Return a source whose numbers are stored in so many bits.

        Args:
            source: initialised, in no stage yet.

        Raises:
            ConfigError: if it is not known what the source stores.
        """
        if isinstance(source, WithLearntLabels):
            return CodedWithLabels(source, self)
        return Coded(source, self)


class Coded(AroundImages):
    """A source and a codec; its last stage ends in one more, of rounded values.

    Scales are fitted when that stage begins, and stay.

    Args:
        inner: gives the images.
        settings: options.
    """

    def __init__(self, inner: Source, settings: StorageSettings) -> None:
        super().__init__(inner)
        self._settings = settings
        self._groups: Sequence[ParameterGroup] = ()
        self._scales: dict[str, Scale] = {}
        if stored_of(inner) is not None:
            return
        floats = math.prod(self._image_shape())
        if floats != inner.stored_floats:
            raise ConfigError(
                "what this source stores has no name, so that it cannot be stored in fewer bits",
                got=f"{inner.stored_floats:,} floats, images of {floats:,}",
                fix="Leave out source.storage.",
            )

    def _image_shape(self) -> tuple[int, ...]:
        first = torch.zeros(1, dtype=torch.int64, device=self.labels.device)
        image, _ = self.inner.render(first)
        return (len(self.labels), *image.shape[1:])

    @property
    def stored_bits(self) -> int:
        """Bits of what the images are had again from: codes, filled up to bytes, and scales."""
        stored = stored_of(self.inner)
        if stored is None:
            return self._settings.bits_for(self._image_shape())
        return sum(self._codec(name).bits_of(value) for name, value in stored.items())

    @property
    def label_bits(self) -> int:
        """Of labels that are learnt: there are none."""
        return 0

    @property
    def provenance(self) -> Mapping[str, object]:
        """The codec, and what the source inside tells."""
        about = {"bits": self._settings.bits, "per": self._settings.per}
        return {"codec": about, **self.inner.provenance}

    @property
    def stages(self) -> Sequence[Stage]:
        """Those of the source inside, the last one in two parts where anything is rounded."""
        if not self._rounds:
            return self.inner.stages
        *before, last = self.inner.stages
        first = round(self._settings.start * last.steps)
        name = f"{last.name}, {self._settings.bits} bits"
        rounded = Stage(name, last.steps - first, final=True)
        return (*before, replace(last, steps=first), rounded)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Enter a stage of the source inside; in the last one, fit the scales instead."""
        last = stage == len(self.stages) - 1
        if not (last and self._rounds):
            self._groups = self.inner.enter(stage)
        if last:
            self._scales = {n: self._codec(n).fit(v) for n, v in self._values().items()}
        return self._groups

    def enters_by_class(self, stage: int) -> bool:
        """Return whether no scale is fitted, which is of all images; see `EntersByClass`."""
        fits = stage == len(self.stages) - 1 and self._rounds
        return not fits and super().enters_by_class(stage)

    def _codec(self, name: str) -> Codec:
        """Return by what a tensor is stored."""
        return self._settings.of_generator if name.startswith(GENERATOR) else self._settings

    @property
    def _rounds(self) -> bool:
        """Whether any number is not stored as it is."""
        stored = stored_of(self.inner)
        names = (
            [IMAGES] if stored is None else [n for n, v in stored.items() if v.is_floating_point()]
        )
        return any(self._codec(name).bits < FLOAT_BITS for name in names)

    def _live(self) -> Mapping[str, Tensor]:
        """Return the tensors that are rounded where they are."""
        return stored_of(self.inner) or {}

    def _values(self) -> Mapping[str, Tensor]:
        """Return what is stored, before it is rounded."""
        if stored_of(self.inner) is not None:
            return self._live()
        indices = torch.arange(len(self.labels), device=self.labels.device)
        return {IMAGES: self.inner.render(indices)[0], **self._live()}

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """What the source inside owns, and the scales of its rows; see `Shardable`."""
        own = dict(self._shardable.owned)
        if self._settings.per == "row":
            rows = {**own, IMAGES: self.labels}
            for name in self._scales:
                if name in rows:
                    own |= {_LOW + name: rows[name], _STEP + name: rows[name]}
        return own

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        scales = {**self._scale_tensors()}
        for name, labels in self.owned.items():
            if name in scales:
                scales[name] = scales[name][rows_of(labels, classes).to(scales[name].device)]
        self._take_scales(scales)
        self._groups = self._shardable.narrow(classes)
        return self._groups

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self._take_scales(state)
        self._shardable.widen(_inside(state), labels)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images, from rounded values in the last stage, and their pullback."""
        with self._rounded():
            images, pull = self.inner.render(indices)
        if IMAGES in self._scales and self._rounds:
            images = self._settings.rounded(images, self._scale_of_images(indices))

        def pullback(image_grad: Tensor) -> None:
            # what is not kept of a forward is made again, of the same rounded values
            with self._rounded():
                pull(image_grad)

        return images, pullback

    def _scale_of_images(self, indices: Tensor) -> Scale:
        scale = self._scales[IMAGES]
        if self._settings.per != "row" or not self._settings.scaled:
            return scale
        rows = indices.to(scale.low.device)
        return Scale(scale.low[rows], scale.step[rows])

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        """Put rounded values in the place of those that are optimised, for a while."""
        live = self._live() if self._scales and self._rounds else {}
        before = {name: tensor.detach().clone() for name, tensor in live.items()}
        try:
            for name, tensor in live.items():
                # by `data`, as the graph of a forward is of values that its backward finds again
                tensor.data.copy_(self._codec(name).rounded(tensor, self._scales[name]))
            yield
        finally:
            for name, value in before.items():
                live[name].data.copy_(value)

    def codes(self) -> State:
        """Return what is stored, in the last stage: codes and scales by name.

        Raises:
            ConfigError: before that.
        """
        if not self._scales:
            raise ConfigError("there are no codes before the last stage")
        values = self._values()
        kept = {_CODE + n: self._codec(n).encode(v, self._scales[n]) for n, v in values.items()}
        return {n: v.cpu() for n, v in {**kept, **self._scale_tensors()}.items() if v.numel()}

    @torch.no_grad()
    def decoded(self, codes: State) -> Tensor:
        """Return all images [N, C, H, W] on the CPU, of what `codes` returned, and stay there.

        Args:
            codes: of a source with the same options, in any stage.
        """
        names = [name.removeprefix(_CODE) for name in codes if name.startswith(_CODE)]
        self._scales = {
            n: Scale(codes.get(_LOW + n, torch.empty(0)), codes.get(_STEP + n, torch.empty(0)))
            for n in names
        }
        shapes = {name: value.shape for name, value in self._live().items()}
        if IMAGES in names:
            shapes[IMAGES] = torch.Size(self._image_shape())
        values = {
            n: self._codec(n).decode(codes[_CODE + n], shapes[n], self._scales[n]) for n in names
        }
        for name, tensor in self._live().items():
            tensor.copy_(values[name])
        if IMAGES in names:
            return values[IMAGES]
        indices = torch.arange(len(self.labels), device=self.labels.device)
        return self.render(indices)[0].cpu()

    def state(self) -> State:
        """Return the state of the source inside, before rounding, and the scales."""
        own = {name: tensor.clone() for name, tensor in self._scale_tensors().items()}
        return {**self.inner.state(), **own}

    def load_state(self, state: State) -> None:
        """Restore values and scales."""
        self._take_scales(state)
        self.inner.load_state(_inside(state))

    def _scale_tensors(self) -> State:
        return {
            prefix + name: tensor
            for name, scale in self._scales.items()
            for prefix, tensor in ((_LOW, scale.low), (_STEP, scale.step))
        }

    def _take_scales(self, state: State) -> None:
        names = [name.removeprefix(_LOW) for name in state if name.startswith(_LOW)]
        self._scales = {n: Scale(state[_LOW + n].clone(), state[_STEP + n].clone()) for n in names}


class CodedWithLabels(Coded):
    """The same around a source that learns labels, which are rounded, too."""

    inner: WithLearntLabels

    @property
    def label_bits(self) -> int:
        """Of the labels' codes and their scale."""
        return self._codec(LABELS).bits_for(self.inner.logits.shape)

    def _codec(self, name: str) -> Codec:
        return self._settings.of_labels if name == LABELS else super()._codec(name)

    @property
    def _rounds(self) -> bool:
        return super()._rounds or self._settings.of_labels.bits < FLOAT_BITS

    def _live(self) -> Mapping[str, Tensor]:
        return {**super()._live(), LABELS: self.inner.logits}

    def targets(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return label probabilities, from rounded logits in the last stage; see `LearnsLabels`."""
        with self._rounded():
            probabilities, pull = self.inner.targets(indices)

        def pullback(label_grad: Tensor) -> None:
            with self._rounded():
                pull(label_grad)

        return probabilities, pullback


def _inside(state: State) -> State:
    return {n: v for n, v in state.items() if not n.startswith((_LOW, _STEP))}
