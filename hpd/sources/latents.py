"""Latents of a generator as what is stored: an image for the floats, or the bits, of a z.

What wins at equal storage is more images, and a z of a generator is an image: with 64 numbers of 4
bits some hundreds of them fit where one image of pixels did. So the latents are kept, not the
images, and the generator is needed again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from generators import Generator, Prior, StoredGenerator, read_generator
from hpd.codecs import Codec
from hpd.data import ImageSet
from hpd.device import Precision
from hpd.errors import ConfigError, RunError
from hpd.progress import told
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, ChunkedSettings
from hpd.sources.batches import draw_batch
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.gan import check_fit, prior_of, ready
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, rows_of
from hpd.storage import FLOAT_BITS
from hpd.students.teachers import Teacher, read_teacher
from hpd.typing import ParameterGroup, Pullback, Source, Stage, State, Step

Space = Literal["z", "w", "ws"]
# draws for each image that a teacher is to agree with, at most
_MOST_DRAWS = 50


@SOURCES.register("latents")
class LatentsSettings(ChunkedSettings):
    """Many images of a generator, from the latents that are stored of each."""

    generator: str = Field(description="bundled name, or folder of a generator with classes or not")
    generator_classes: GeneratorClasses = None
    store: Space = Field(
        "z",
        description="what is stored and optimised: z, before the mapping; w, after it; or ws, one w"
        " for each layer",
    )
    budget_images: int = Field(
        1, ge=1, description="floats to store, as the images a class that would take as many"
    )
    budget_floats: Annotated[int | None, Field(ge=1)] = Field(
        None, description="floats to store, in place of budget_images"
    )
    budget_bits: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description="bits to store, in place of either: codes and scales of `storage`, labels that"
        " are learnt, and room for others",
    )
    label_room: Annotated[int, Only("budget_bits")] = Field(
        0,
        ge=0,
        description="bits that are left free for a label of each image, which `hpd relabel` gives",
    )
    count_generator: bool = Field(
        False, description="the generator's own floats are of the budget, too"
    )
    images_per_class: Annotated[int | None, Field(ge=1)] = Field(
        None, description="images to give; null: all that the budget holds"
    )
    pool: Literal["all", "agreeing"] = Field(
        "all",
        description="which samples it starts from; agreeing: those that the teacher takes for what"
        " they are to be",
    )
    teacher: Annotated[str | None, Only("pool", "agreeing")] = Field(
        None, description="folder of `hpd squeeze`"
    )
    truncation_psi: float = Field(1.0, ge=0, le=1, description="1 for no truncation")
    batch_images: Annotated[int | None, Field(ge=1)] = Field(
        16, description="most images of a class in one step, drawn at random; null: all"
    )
    steps: int = Field(100, ge=0, description="of the latents; 0: samples as they are")
    lr: float = Field(0.02, gt=0)
    precision: Precision = Field(
        "float32", description="what the generator computes in; auto: bfloat16 where it is fast"
    )

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        given = [n for n in ("budget_floats", "budget_bits") if getattr(self, n) is not None]
        given += ["budget_images"] if self.budget_images != 1 else []
        if len(given) > 1:
            raise ConfigError(f"{given[0]} does nothing beside {given[1]}", fix="Leave one out.")
        return self

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            GeneratorError: if the generator does not exist or does not fit the data.
            ConfigError: if not one image a class fits the budget, or too few samples agree.
            RunError: if there is no teacher.
        """
        return self.build_from(read_generator(self.generator), train, device, streams)

    def build_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        """Return the source on a generator in memory; see `build`."""
        generator = ready(stored, self.precision, device)
        check_fit(generator.spec, train, stored.name)
        per_class = self.count(generator, train)
        matched = match_classes(generator.spec, train.classes, self.generator_classes)
        teacher = None
        if self.pool == "agreeing":
            if self.teacher is None:
                fix = "Name the folder of one: source.teacher."
                raise ConfigError("agreeing samples need a teacher", fix=fix)
            teacher = read_teacher(self.teacher)
            teacher.check_fits(train.image_shape, train.classes)
            teacher = teacher.to(device)
        draws = _Draws(generator, self.truncation_psi, self.chunk_images, teacher)
        z = torch.cat(
            [
                draws.of_class(c, label, per_class, streams.fork("latents", c))
                for c, label in enumerate(told("drawing samples", matched))
            ]
        )
        labels = torch.arange(train.num_classes).repeat_interleave(per_class).to(device)
        known = None
        if None not in matched:
            known = torch.tensor(matched, device=device)
        latents = _started(generator, z, known, labels, self)
        return LatentSource(stored, latents, labels, known, train.num_classes, self, streams)

    def count(self, generator: Generator, train: ImageSet) -> int:
        """Return the images to give in each class: what the budget leaves room for, at most.

        Raises:
            ConfigError: if there is no such number.
        """
        numbers, classes = _numbers(generator, self.store), train.num_classes
        own = generator.floats if self.count_generator else 0
        if self.budget_bits is not None:
            most, budget = self._in_bits(numbers, classes, own), f"{self.budget_bits:,} bits"
        else:
            images = self.budget_images * math.prod(train.image_shape) * classes
            floats = self.budget_floats or images
            most, budget = (floats - own) // (classes * numbers), f"{floats:,} floats"
        wanted = most if self.images_per_class is None else self.images_per_class
        if not 0 < wanted <= most:
            counted = f" beside a generator of {own:,} floats" if own else ""
            raise ConfigError(
                "the latents do not fit the budget",
                got=f"{max(wanted, 1)} images a class of {numbers} numbers{counted}",
                expected=f"at most {budget}",
                fix="Raise the budget, lower source.storage.bits, or take fewer images.",
            )
        return wanted

    def _in_bits(self, numbers: int, classes: int, generator: int) -> int:
        """Return the most images a class that `budget_bits` hold."""
        assert self.budget_bits is not None
        codec = self.storage or Codec(bits=32)
        learnt = 0
        if self.learnt_labels is not None:
            own = None if self.storage is None else self.storage.label_bits
            learnt = classes * (own or codec.bits)
        left = self.budget_bits - FLOAT_BITS * generator - (2 * FLOAT_BITS if learnt else 0)

        def needed(per_class: int) -> int:
            count = per_class * classes
            return codec.bits_for((count, numbers)) + count * (learnt + self.label_room)

        most = max(left, 0) // (classes * (numbers * codec.bits + learnt + self.label_room))
        while most and needed(most) > left:
            most -= 1
        return most

    def on(self, generator: str) -> Self:
        """Return the options with another generator; see `SourceSettings.on`."""
        return self.model_copy(update={"generator": generator})

    def unprojected(self) -> Self:
        """Return the options of samples that no teacher is asked of; see `SourceSettings`."""
        return self.model_copy(update={"pool": "all", "teacher": None})

    @property
    def has_prior(self) -> bool:
        """Whether images come out of a pretrained generator."""
        return True

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return the generator and its classes; see `SourceSettings.prior`."""
        return prior_of(stored or read_generator(self.generator), train, self.generator_classes)


class _Draws:
    """Samples of a generator, those that a teacher agrees with where there is one."""

    def __init__(
        self, generator: Generator, psi: float, chunk_images: int, teacher: Teacher | None
    ) -> None:
        self._generator, self._psi = generator, psi
        self._chunk, self._teacher = chunk_images, teacher

    @torch.no_grad()
    def of_class(self, number: int, label: int | None, count: int, streams: Streams) -> Tensor:
        """Return z of samples [count, z_dim].

        Args:
            number: of the class of the data.
            label: class of the generator, None for one without.
            count: how many.
            streams: of this class.

        Raises:
            ConfigError: if the teacher agrees with too few.
        """
        found, taken = [], 0
        for part in range(_MOST_DRAWS):
            rng = streams.generator("z", part)
            z = torch.randn(count, self._generator.spec.z_dim, generator=rng)
            z = z.to(next(self._generator.parameters()))
            kept = z if self._teacher is None else z[self._agrees(z, number, label)]
            found.append(kept)
            taken += len(kept)
            if taken >= count:
                return torch.cat(found)[:count]
        raise ConfigError(
            f"the teacher takes too few samples for class {number}",
            got=f"{taken} of {_MOST_DRAWS * count:,}",
            expected=f"{count:,}",
            fix="Take another teacher, or source.pool=all.",
        )

    def _agrees(self, z: Tensor, number: int, label: int | None) -> Tensor:
        assert self._teacher is not None
        answers = []
        for part in z.split(self._chunk):
            labels = None if label is None else torch.full((len(part),), label, device=z.device)
            ws = self._generator.map(part, labels, truncation_psi=self._psi)
            images = ((self._generator(ws) + 1) / 2).clamp(0, 1).float()
            answers.append(self._teacher.probabilities(images).argmax(dim=1) == number)
        return torch.cat(answers)


def _numbers(generator: Generator, store: Space) -> int:
    """Return how many numbers are stored of an image."""
    spec = generator.spec
    return {"z": spec.z_dim, "w": spec.w_dim, "ws": spec.num_ws * spec.w_dim}[store]


@torch.no_grad()
def _started(
    generator: Generator, z: Tensor, known: Tensor | None, labels: Tensor, options: LatentsSettings
) -> Tensor:
    """Return the latents of samples [N, ...] in the space that is stored."""
    if options.store == "z":
        return z
    own = None if known is None else known[labels].split(options.chunk_images)
    ws = torch.cat(
        [
            generator.map(some, None if own is None else own[i], options.truncation_psi)
            for i, some in enumerate(z.split(options.chunk_images))
        ]
    )
    return ws if options.store == "ws" else ws[:, 0]


class LatentSource:
    """Images of a generator; the latents that are stored of each are the parameters.

    Args:
        stored: the generator, frozen, on the device.
        latents: z [N, z_dim], w [N, D] or ws [N, num_ws, D].
        labels: class of the data of each [N].
        known: class of the generator for each class of the data; None: it has none.
        num_classes: of the data.
        settings: options.
        streams: randomness of the batches.
    """

    def __init__(
        self, stored: StoredGenerator, latents: Tensor, labels: Tensor, known: Tensor | None,
        num_classes: int, settings: LatentsSettings, streams: Streams,
    ) -> None:  # fmt: skip
        self._stored, self.generator = stored, stored.generator
        self.latents, self.labels = as_leaf(latents), labels
        self._known, self._num_classes = known, num_classes
        self._settings, self._streams = settings, streams

    @property
    def stored_floats(self) -> int:
        """Number of values in the latents."""
        return self.latents.numel()

    @property
    def generator_floats(self) -> int:
        """Parameters of the generator, without which there are no images."""
        return self.generator.floats

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The latents; see `Stores`."""
        return {self._settings.store: self.latents}

    @property
    def provenance(self) -> Mapping[str, object]:
        """Name, hash and licence of the generator, and what is stored of an image."""
        return {"generator": self._stored.facts, "latents": self._settings.store}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return (Stage(self._settings.store, self._settings.steps),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return the latents."""
        if stage:
            raise RunError("latents have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        options = self._settings
        return (ParameterGroup(options.store, (self.latents,), options.lr, self.labels),)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The latents; see `Shardable`."""
        return {self._settings.store: self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, self.latents = self.labels[own], as_leaf(self.latents[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.latents = labels, as_leaf(state[self._settings.store])

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        rng = self._streams.generator("batch", step.stage, step.index)
        return draw_batch(self.labels, self._num_classes, self._settings.batch_images, rng)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._settings.chunk_images)

    def _decode(self, indices: Tensor) -> Tensor:
        latents, store = self.latents[indices], self._settings.store
        if store == "z":
            own = None if self._known is None else self._known[self.labels[indices]]
            ws = self.generator.map(latents, own, truncation_psi=self._settings.truncation_psi)
        else:
            count = self.generator.spec.num_ws
            ws = latents if store == "ws" else latents[:, None].expand(-1, count, -1)
        return (self.generator(ws) + 1) / 2

    def state(self) -> State:
        """Return a clone of the latents."""
        return {self._settings.store: self.latents.detach().clone()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore the latents."""
        self.latents.copy_(state[self._settings.store])
