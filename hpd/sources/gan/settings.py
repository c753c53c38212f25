"""The levels of a pretrained generator as the source: H-PD, and GLaD as one stage of it.

Source: Zhong et al., Hierarchical Features Matter, CVPR 2025 (H-PD); Cazenavette et al.,
Generalizing Dataset Distillation via Deep Generative Prior, CVPR 2023 (GLaD).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from generators import Generator, GeneratorSpec, Prior, StoredGenerator, read_generator
from generators.projection import distance_named
from hpd.data import ImageSet
from hpd.errors import ConfigError, GeneratorError
from hpd.machine.precision import Precision, name_of, resolve_precision
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, CountedSettings
from hpd.sources.batches import Batches
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.coded import StorageSettings
from hpd.sources.gan.levels import GanSource, LevelPlan
from hpd.sources.gan.starts import Started, Starts
from hpd.typing import Source

_logger = logging.getLogger(__name__)

Start = Literal["average", "sample", "best", "project", "encode"]


@SOURCES.register("gan")
class GanSettings(CountedSettings):
    """Latents of a generator, optimised level by level.

    At level 0 these are the ws; at level k the ws and the features after k synthesis layers; at
    the last level the pixels.
    """

    generator: str = Field(description="bundled name, or folder of a generator")
    generator_classes: GeneratorClasses = None
    levels: list[int] | Literal["all"] = Field(
        "all", description="levels to optimise, ascending; one level is GLaD"
    )
    store: Literal["images", "ws"] = Field(
        "images",
        description="what is kept: images, or ws, from which the generator makes them again, where"
        " the only level is 0",
    )
    init: Start | None = Field(
        None,
        description="average: mean w of each class; sample: a draw per image; best: of many draws,"
        " or encoded real images, those from which regressions tell real images best; project:"
        " random real images, projected into W+; encode: random real images, by the encoder of an"
        " autoencoder; null: encode where there is one, else average at one image a class, else"
        " sample",
    )
    candidates: Annotated[int, Only("init", "best")] = Field(
        200,
        ge=2,
        description="draws of each class for init=best; the first is its mean w, the others lie"
        " from half of the way to a draw to all of it",
    )
    project_steps: Annotated[int, Only("init", "project")] = Field(
        200, ge=0, description="steps of init=project"
    )
    project_distance: Annotated[Literal["squared", "lpips"], Only("init", "project")] = Field(
        "squared", description="what init=project makes small; LPIPS needs AlexNet's weights"
    )
    average_draws: Annotated[int, Only("init", None, "average", "best", "project")] = Field(
        1000, ge=1, description="draws in the mean w of a class"
    )
    truncation_psi: Annotated[float, Only("init", None, "average", "sample")] = Field(
        1.0, ge=0, le=1, description="1 for no truncation"
    )
    features: Literal["generator", "random"] = Field(
        "generator",
        description="where the first level starts, if it has features: at the generator's, or at "
        "normal noise of their mean and deviation in each map",
    )
    search: Literal["none", "levels"] = Field(
        "none",
        description="levels: a level that is no better after `trial_steps`, by the selector, is"
        " skipped, and its steps go to those after it",
    )
    trial_steps: Annotated[int, Only("search", "levels")] = Field(
        10, ge=1, description="steps of a level before it is decided"
    )
    batch_images: Annotated[int | None, Field(ge=1)] = Field(
        None, description="most images of a class in one step, drawn at random; null: all"
    )
    offload: bool = Field(
        False,
        description="keep what is optimised in the memory of the host, and on the device what the"
        " images of a step need: for more images than it holds; on a CPU all is there anyway",
    )
    steps: int | list[int] = Field(100, description="steps per level, one number or one per level")
    lr_ws: float | list[float] = Field(0.02, description="one number or one per level")
    lr_features: float | list[float] = Field(0.02, description="one number or one per level")
    lr_pixels: float = Field(0.02, gt=0, description="of the last level, the images")
    lr_generator: float | None = Field(
        None, gt=0, description="learn the generator's weights, too; null: they are frozen"
    )
    precision: Precision = Field(
        "float32", description="what the generator computes in; auto: bfloat16 where it is fast"
    )
    feature_limit: float | None = Field(
        None, gt=0, description="clip features to +-this between levels; H-PD's code uses 10"
    )

    @model_validator(mode="after")
    def _keeps_what_makes_images(self) -> Self:
        if self.store == "ws" and (self.levels != [0] or self.lr_generator is not None):
            raise ConfigError(
                "from ws alone, with the generator as it is, the images cannot be had again",
                got=f"levels {self.levels}"
                if self.lr_generator is None
                else f"lr_generator {self.lr_generator:g}",
                expected="levels [0], and weights that are not learnt",
                fix="Set source.levels=[0], or leave out source.store.",
                option="store",
            )
        return self

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        if self.init == "best" and self.candidates < self.images_per_class:
            raise ConfigError(
                "there are fewer candidates than images",
                got=self.candidates,
                expected=f"at least {self.images_per_class}",
            )
        return self

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            GeneratorError: if the generator does not exist or does not fit the data.
            ConfigError: if levels, steps or init do not fit.
        """
        return self.build_from(read_generator(self.generator), train, device, streams)

    def build_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        """Return the source on a generator in memory; see `build`."""
        stored = stored.sized(train.image_shape[-1])
        generator = ready(stored, self.precision, device)
        check_fit(generator.spec, train, stored.name)
        classes = match_classes(generator.spec, train.classes, self.generator_classes)
        plan = self._plan(generator.spec)
        starts = Starts(generator, classes, train, streams, self.images_per_class, self.chunk)
        started = self._started(starts)
        noise = streams.fork("gan features") if self.features == "random" else None
        return GanSource(
            stored, started.ws, self.labels(train).to(device), plan,
            lr_pixels=self.lr_pixels, lr_generator=self.lr_generator,
            feature_limit=self.feature_limit, chunk_images=self.chunk, noise=noise,
            keeps_ws=self.store == "ws", instead=started.instead,
            batches=Batches(self.batch_images, train.num_classes, streams.fork("batches")),
            offload=self.offload,
        )  # fmt: skip

    def on(self, generator: str) -> Self:
        """Return the options with another generator; see `SourceSettings.on`."""
        return self.model_copy(update={"generator": generator})

    def unprojected(self) -> Self:
        """Return the options without what takes long in `init`; see `SourceSettings`."""
        drawn = self.init in ("best", "encode", None)
        # that an average is one image a class at most is still to be said
        drawn |= self.init == "average" and self.images_per_class == 1
        start = {"init": "sample"} if drawn else {}
        return self.model_copy(update={"project_steps": 0, **start})

    @property
    def codec(self) -> StorageSettings | None:
        """By what it is stored: ws are kept beside the images."""
        return self.storage or (StorageSettings(bits=32) if self.store == "ws" else None)

    @property
    def needs_scores(self) -> bool:
        """Whether levels are tried and skipped."""
        return self.search != "none"

    @property
    def has_prior(self) -> bool:
        """Whether images come out of a pretrained generator."""
        return True

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return the generator and its classes; see `SourceSettings.prior`."""
        return prior_of(stored or read_generator(self.generator), train, self.generator_classes)

    def _plan(self, spec: GeneratorSpec) -> list[LevelPlan]:
        """Return what to do at each level."""
        levels = list(range(spec.last_level + 1)) if self.levels == "all" else self.levels
        ascending = all(a < b for a, b in pairwise(levels))
        if not levels or not ascending or levels[0] < 0 or levels[-1] > spec.last_level:
            raise ConfigError(
                "levels must be ascending levels of the generator",
                got=levels,
                expected=f"0 to {spec.last_level}",
            )
        if self.features == "random" and levels[0] == 0:
            raise ConfigError(
                "features=random needs a first level that has features",
                got=levels[0],
                expected=f"1 to {spec.last_level}",
            )
        steps = [int(n) for n in _per_level(self.steps, "steps", len(levels))]
        lr_ws = _per_level(self.lr_ws, "lr_ws", len(levels), above_zero=True)
        lr_features = _per_level(self.lr_features, "lr_features", len(levels), above_zero=True)
        trial = self.trial_steps if self.search == "levels" else None
        rows = zip(levels, steps, lr_ws, lr_features, strict=True)
        return [LevelPlan(*row, trial) for row in rows]

    def _started(self, starts: Starts) -> Started:
        """Return the ws to start from.

        Raises:
            ConfigError: if all of a class would be alike.
            GeneratorError: if there is no encoder.
        """
        generator = starts.generator
        one: Start = "average" if self.images_per_class == 1 else "sample"
        init: Start = self.init or ("encode" if generator.has_encoder else one)
        if init == "average" and self.images_per_class > 1:
            raise ConfigError(
                "init=average would make all images of a class alike",
                got=f"{self.images_per_class} images per class",
                fix="Use source.init=sample.",
            )
        if init == "encode":
            return Started(starts.encoded())
        if init == "best":
            return Started(starts.best(self.candidates, self.average_draws))
        if init == "project":
            device = next(generator.parameters()).device
            distance = distance_named(self.project_distance, device)
            return Started(starts.projected(distance, self.project_steps, self.average_draws))
        if init == "average":
            return starts.averages(self.average_draws, self.truncation_psi)
        return Started(starts.drawn(1, self.truncation_psi))


def _per_level(
    value: float | Sequence[float], name: str, count: int, *, above_zero: bool = False
) -> list[float]:
    """Return one number for each level."""
    values = [value] * count if isinstance(value, int | float) else list(value)
    if len(values) != count or min(values) < 0 or (above_zero and min(values) == 0):
        raise ConfigError(
            f"{name} must be one number or one for each level",
            got=value,
            expected=f"{count} numbers, {'above 0' if above_zero else 'not negative'}",
        )
    return values


def ready(stored: StoredGenerator, precision: Precision, device: torch.device) -> Generator:
    """Return a generator on a device, computing as it is asked to."""
    generator = stored.generator.to(device)
    dtype = resolve_precision(precision, device)
    if precision != "float32":
        _logger.info("the generator computes in %s on %s", name_of(dtype), device.type)
    # None leaves the generator's own dtype, which may be float64
    generator.compute_dtype = None if dtype == torch.float32 else dtype
    return generator


def check_fit(spec: GeneratorSpec, train: ImageSet, name: str) -> None:
    """Check that a generator makes images of the data's shape.

    Raises:
        GeneratorError: with both shapes.
    """
    made = (spec.channels, spec.resolution, spec.resolution)
    if made != train.image_shape:
        raise GeneratorError(
            f"generator {name} does not fit the data",
            got=f"images {list(made)}",
            expected=f"{list(train.image_shape)} as in the data",
            fix="Choose another generator, or bring the data to its size.",
        )


def prior_of(stored: StoredGenerator, train: ImageSet, given: GeneratorClasses) -> Prior | None:
    """Return a generator with its class for each class of the data; None if it has no classes.

    Raises:
        GeneratorError: if it does not fit the data.
    """
    stored = stored.sized(train.image_shape[-1])
    spec = stored.generator.spec
    check_fit(spec, train, stored.name)
    classes = [c for c in match_classes(spec, train.classes, given) if c is not None]
    return Prior(stored, classes) if classes else None
