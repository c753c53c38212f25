"""Latents of a generator as what is stored: an image for the floats, or the bits, of a z.

What wins at equal storage is more images, and a z of a generator is an image: with 64 numbers of 4
bits some hundreds of them fit where one image of pixels did. So the latents are kept, not the
images, and the generator is needed again.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from generators import Generator, Prior, StoredGenerator, read_generator
from generators.prepared import prepare_nothing
from generators.seeds import z_of_seeds
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.machine.precision import Precision
from hpd.progress import told
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, ChunkedSettings
from hpd.sources.batches import Batches
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.coded import StorageSettings
from hpd.sources.gan.settings import check_fit, prior_of, ready
from hpd.sources.latents.budget import Costs, images_within, weight_shapes
from hpd.sources.latents.pools import Pool, Samples
from hpd.sources.latents.source import SPACES, Drawn, LatentPlan, LatentSource, Space
from hpd.students.teachers import Teacher, read_teacher
from hpd.typing import Source


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
    begin: Annotated[Literal["z", "w"] | None, Only("store", "w", "ws")] = Field(
        None,
        description="space in which optimisation begins: a stage of `steps` steps there, and in"
        " each one after it up to that of `store`; null: in that one alone",
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
    lr_generator: Annotated[float, Only("learn_generator")] = Field(
        1e-4, gt=0, description="learning rate of its weights"
    )
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
    steps: int = Field(
        100, ge=0, description="of the latents, in each stage; 0: samples as they are"
    )
    lr: Annotated[float, Only("store", "z", "w", "ws")] = Field(
        0.02, gt=0, description="learning rate of the latents"
    )
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

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The space of each stage, the last of them that which is stored."""
        if self.begin is None or self.store == "seed":
            return (self.store,)
        first, last = SPACES.index(self.begin), SPACES.index(self.store)
        return SPACES[first : last + 1]

    @model_validator(mode="after")
    def _goes_forwards(self) -> Self:
        if self.begin is not None and len(self.spaces) < 2:
            raise ConfigError(
                "optimisation begins before the space that is stored, or says nothing",
                got=f"begin={self.begin}, store={self.store}",
                fix="Leave source.begin out.",
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
            generator, self.truncation_psi, self.chunk, self.pool, self._judge(train, device)
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
        plan = LatentPlan(
            self.spaces, self.steps, self.lr, counted=self.count_generator,
            lr_generator=self.lr_generator if self.learn_generator else None,
            optimises=self.optimises, psi=self.truncation_psi, chunk=self.chunk,
        )  # fmt: skip
        drawn = Drawn(_started(generator, seeds, labels, self), labels, known)
        batches = Batches(self.batch_images, train.num_classes, streams)
        return LatentSource(stored, drawn, plan, batches)

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
        return replace(
            prior, seeded=self.store == "seed", counted=self.count_generator,
            generator_codec=self.codec.of_generator,
        )  # fmt: skip


def _numbers(generator: Generator, store: Space) -> int:
    """Return how many numbers are stored of an image."""
    spec = generator.spec
    numbers = {"seed": 1, "z": spec.z_dim, "w": spec.w_dim, "ws": spec.num_ws * spec.w_dim}
    return numbers[store]


def _started(
    generator: Generator, seeds: Tensor, labels: Tensor, options: LatentsSettings
) -> Tensor:
    """Return the seeds of samples [N], or the z [N, z_dim] that are drawn from them."""
    if options.store == "seed":
        return seeds.to(labels.device)
    return z_of_seeds(seeds, generator.spec.z_dim).to(next(generator.parameters()))
