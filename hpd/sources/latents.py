"""Latents of a generator as what is stored: an image for the floats, or the bits, of a z.

What wins at equal storage is more images, and a z of a generator is an image: with 64 numbers of 4
bits some hundreds of them fit where one image of pixels did. So the latents are kept, not the
images, and the generator is needed again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from generators import Generator, Prior, StoredGenerator, read_generator
from generators.prepared import prepare_nothing
from generators.seeds import z_of_seeds
from hpd.data import ImageSet
from hpd.errors import ConfigError, RunError
from hpd.precision import Precision
from hpd.progress import told
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, ChunkedSettings
from hpd.sources.batches import Batches
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.coded import GENERATOR, StorageSettings
from hpd.sources.gan import check_fit, prior_of, ready
from hpd.sources.latent_budget import Costs, images_within, weight_shapes
from hpd.sources.latent_pools import Pool, Samples
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, rows_of
from hpd.students.teachers import Teacher, read_teacher
from hpd.typing import ParameterGroup, Pullback, Source, Stage, State, Step

Space = Literal["seed", "z", "w", "ws"]


@SOURCES.register("latents")
class LatentsSettings(ChunkedSettings):
    """Many images of a generator, from the latents that are stored of each."""

    generator: str = Field(description="bundled name, or folder of a generator with classes or not")
    generator_classes: GeneratorClasses = None
    store: Space = Field(
        "z",
        description="what is stored and optimised: z, before the mapping; w, after it; ws, one w"
        " for each layer; or seed, a number of 32 bits from which z is drawn, which nothing"
        " optimises",
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
        False,
        description="the generator's own weights are of the set: counted, stored in"
        " storage.generator_bits, of the budget",
    )
    learn_generator: Annotated[bool, Only("count_generator")] = Field(
        False, description="they are optimised as well"
    )
    lr_generator: Annotated[float, Only("learn_generator")] = Field(1e-4, gt=0)
    images_per_class: Annotated[int | None, Field(ge=1)] = Field(
        None, description="images to give; null: all that the budget holds"
    )
    pool: Pool = Field(
        "all",
        description="which samples it starts from; agreeing: those that the teacher takes for what"
        " they are to be; herding: of eight times as many those whose mean features, as the"
        " teacher has them, come nearest to those of real images",
    )
    teacher: Annotated[str | None, Only("pool", "agreeing", "herding")] = Field(
        None, description="folder of `hpd squeeze`"
    )
    truncation_psi: float = Field(1.0, ge=0, le=1, description="1 for no truncation")
    batch_images: Annotated[int | None, Field(ge=1)] = Field(
        16, description="most images of a class in one step, drawn at random; null: all"
    )
    steps: int = Field(100, ge=0, description="of the latents; 0: samples as they are")
    lr: Annotated[float, Only("store", "z", "w", "ws")] = Field(0.02, gt=0)
    precision: Precision = Field(
        "float32", description="what the generator computes in; auto: bfloat16 where it is fast"
    )

    @property
    def optimises(self) -> bool:
        """Whether there is anything to optimise: seeds are what they are."""
        learns = self.learn_generator or self.learnt_labels is not None
        return learns or self.store != "seed"

    @model_validator(mode="after")
    def _optimises_something(self) -> Self:
        fields = type(self).model_fields
        idle = [n for n in ("steps", "batch_images") if getattr(self, n) != fields[n].default]
        if not self.optimises and idle and self.steps:
            raise ConfigError(
                f"{idle[0]} does nothing where seeds are stored",
                expected="store z, w or ws, learn_generator, or learnt_labels",
                option=idle[0],
            )
        return self

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
        if self.count_generator:
            # its weights are of the set: rounded, perhaps learnt, and those of this set alone
            stored = replace(stored, generator=copy.deepcopy(stored.generator))
            prepare_nothing(stored.generator)
        generator = ready(stored, self.precision, device)
        check_fit(generator.spec, train, stored.name)
        per_class = self.count(generator, train)
        matched = match_classes(generator.spec, train.classes, self.generator_classes)
        samples = Samples(
            generator, self.truncation_psi, self.chunk_images, self.pool, self._judge(train, device)
        )
        seeds = torch.cat(
            [
                samples.of_class(c, label, per_class, train, streams.fork("latents", c))
                for c, label in enumerate(told("drawing samples", matched))
            ]
        )
        labels = torch.arange(train.num_classes).repeat_interleave(per_class).to(device)
        known = None
        if None not in matched:
            known = torch.tensor(matched, device=device)
        latents = _started(generator, seeds, known, labels, self)
        return LatentSource(stored, latents, labels, known, train.num_classes, self, streams)

    def _judge(self, train: ImageSet, device: torch.device) -> Teacher | None:
        """Return the teacher that chooses samples, None where all are taken.

        Raises:
            ConfigError: if there is none, or it is of other images.
        """
        if self.pool == "all":
            return None
        if self.teacher is None:
            fix = "Name the folder of one: source.teacher."
            raise ConfigError(f"source.pool={self.pool} needs a teacher", fix=fix)
        teacher = read_teacher(self.teacher)
        teacher.check_fits(train.image_shape, train.classes)
        return teacher.to(device)

    def count(self, generator: Generator, train: ImageSet) -> int:
        """Return the images to give in each class: what the budget leaves room for, at most.

        Raises:
            ConfigError: if there is no such number.
        """
        costs = Costs(
            _numbers(generator, self.store),
            self.store == "seed",
            train.num_classes,
            self.codec,
            self.learnt_labels is not None,
            self.label_room,
            weight_shapes(generator) if self.count_generator else (),
        )
        images = self.budget_images * math.prod(train.image_shape) * train.num_classes
        floats = self.budget_floats or images
        return images_within(costs, floats, self.budget_bits, self.images_per_class)

    @property
    def codec(self) -> StorageSettings:
        """In how many bits numbers are stored: what is stored is always kept beside the images."""
        return self.storage or StorageSettings(bits=32)

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
        prior = prior_of(stored or read_generator(self.generator), train, self.generator_classes)
        if prior is None:
            return None
        return replace(prior, seeded=self.store == "seed", counted=self.count_generator)


def _numbers(generator: Generator, store: Space) -> int:
    """Return how many numbers are stored of an image."""
    spec = generator.spec
    numbers = {"seed": 1, "z": spec.z_dim, "w": spec.w_dim, "ws": spec.num_ws * spec.w_dim}
    return numbers[store]


@torch.no_grad()
def _started(
    generator: Generator, seeds: Tensor, known: Tensor | None, labels: Tensor,
    options: LatentsSettings,
) -> Tensor:  # fmt: skip
    """Return the latents of samples [N, ...] in the space that is stored."""
    if options.store == "seed":
        return seeds.to(labels.device)
    z = z_of_seeds(seeds, generator.spec.z_dim).to(next(generator.parameters()))
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
        latents: seeds [N], int64, z [N, z_dim], w [N, D] or ws [N, num_ws, D].
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
        self._settings = settings
        self.latents, self.labels = self._leaf(latents), labels
        self._known, self._num_classes = known, num_classes
        self._batches = Batches(settings.batch_images, num_classes, streams)
        for weight in self._weights.values():
            weight.requires_grad_(settings.learn_generator)

    def _leaf(self, latents: Tensor) -> Tensor:
        # seeds are whole numbers: nothing is optimised
        return latents if self._settings.store == "seed" else as_leaf(latents)

    @property
    def _weights(self) -> Mapping[str, nn.Parameter]:
        """The generator's parameters, where they are of the set."""
        if not self._settings.count_generator:
            return {}
        return {GENERATOR + name: value for name, value in self.generator.named_parameters()}

    @property
    def stored_floats(self) -> int:
        """Number of values in the latents, and in the generator where it is of the set."""
        return sum(value.numel() for value in self.stored.values())

    @property
    def generator_floats(self) -> int:
        """Parameters of the generator outside of the set, without which there are no images."""
        return 0 if self._settings.count_generator else self.generator.floats

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The latents, and the generator where it is of the set; see `Stores`."""
        return {self._settings.store: self.latents, **self._weights}

    @property
    def provenance(self) -> Mapping[str, object]:
        """Name, hash and licence of the generator, and what is stored of an image."""
        return {"generator": self._stored.facts, "latents": self._settings.store}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage; without steps where nothing is optimised."""
        options = self._settings
        return (Stage(options.store, options.steps if options.optimises else 0),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return the latents."""
        if stage:
            raise RunError("latents have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        options, groups = self._settings, []
        if options.store != "seed":
            groups.append(ParameterGroup(options.store, (self.latents,), options.lr, self.labels))
        if options.learn_generator:
            weights = tuple(self._weights.values())
            groups.append(ParameterGroup("generator", weights, options.lr_generator))
        return groups

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The latents; see `Shardable`."""
        return {self._settings.store: self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels, self.latents = self.labels[own], self._leaf(self.latents[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels, self.latents = labels, self._leaf(state[self._settings.store])
        self.load_state(state)

    def batch(self, step: Step) -> Tensor:
        """Return random images of this step, as many of every class; see `DrawsBatches`."""
        return self._batches.of(self.labels, step)

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._settings.chunk_images)

    def _decode(self, indices: Tensor) -> Tensor:
        latents, store = self.latents[indices], self._settings.store
        if store == "seed":
            z = z_of_seeds(latents.cpu(), self.generator.spec.z_dim)
            latents, store = z.to(next(self.generator.parameters())), "z"
        if store == "z":
            own = None if self._known is None else self._known[self.labels[indices]]
            ws = self.generator.mapped(latents, own, self._settings.truncation_psi)
        else:
            count = self.generator.spec.num_ws
            ws = latents if store == "ws" else latents[:, None].expand(-1, count, -1)
        return (self.generator(ws) + 1) / 2

    def state(self) -> State:
        """Return clones of what is stored."""
        return {name: value.detach().clone() for name, value in self.stored.items()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore what is stored."""
        for name, value in self.stored.items():
            value.copy_(state[name])
