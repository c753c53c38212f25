"""The levels of a pretrained generator as the source: H-PD, and GLaD as one stage of it.

Source: Zhong et al., Hierarchical Features Matter, CVPR 2025 (H-PD); Cazenavette et al.,
Generalizing Dataset Distillation via Deep Generative Prior, CVPR 2023 (GLaD).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from generators import Generator, GeneratorSpec, Prior, StoredGenerator, read_generator
from generators.projection import distance_named, project
from hpd.data import ImageSet
from hpd.device import Precision, resolve_precision
from hpd.errors import ConfigError, GeneratorError
from hpd.progress import told
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.base import SOURCES, CountedSettings
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.gan_levels import GanSource, LevelPlan
from hpd.sources.starts import best_candidates, spread_of
from hpd.typing import Source


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
    init: Literal["average", "sample", "best", "project"] | None = Field(
        None,
        description="average: mean w of each class; sample: a draw per image; best: of many draws"
        " those from which regressions tell real images best; project: random real images,"
        " projected into W+; null: average at one image a class, else sample",
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
    steps: int | list[int] = Field(100, description="steps per level, one number or one per level")
    lr_ws: float | list[float] = Field(0.02, description="one number or one per level")
    lr_features: float | list[float] = Field(0.02, description="one number or one per level")
    lr_pixels: float = Field(0.02, gt=0)
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
        generator = ready(stored, self.precision, device)
        check_fit(generator.spec, train, stored.name)
        classes = match_classes(generator.spec, train.classes, self.generator_classes)
        plan = self._plan(generator.spec)
        if self.init == "project":
            ws = self._projected_ws(generator, classes, train, streams)
        elif self.init == "best":
            ws = self._best_ws(generator, classes, train, streams.fork("gan init"))
        else:
            ws = self._drawn_ws(generator, classes, streams)
        noise = streams.fork("gan features") if self.features == "random" else None
        return GanSource(
            stored, ws, self.labels(train).to(device), plan,
            lr_pixels=self.lr_pixels, lr_generator=self.lr_generator,
            feature_limit=self.feature_limit, chunk_images=self.chunk_images, noise=noise,
        )  # fmt: skip

    def on(self, generator: str) -> Self:
        """Return the options with another generator; see `SourceSettings.on`."""
        return self.model_copy(update={"generator": generator})

    def unprojected(self) -> Self:
        """Return the options without what takes long in `init`; see `SourceSettings`."""
        start = "sample" if self.init == "best" else self.init
        return self.model_copy(update={"project_steps": 0, "init": start})

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

    def _projected_ws(
        self, generator: Generator, classes: list[int | None], train: ImageSet, streams: Streams
    ) -> Tensor:
        """Return the ws of random real images [N, num_ws, D], ordered by class."""
        rng = streams.generator("gan init")
        device = next(generator.parameters()).device
        real = train.unit(train.draw_per_class(self.images_per_class, rng), device)
        labels = None
        if generator.spec.num_classes:
            labels = torch.tensor(classes, device=device).repeat_interleave(self.images_per_class)
        return project(
            generator,
            real,
            labels,
            distance=distance_named(self.project_distance, device),
            rng=rng,
            steps=self.project_steps,
            average_draws=self.average_draws,
            chunk_images=self.chunk_images,
        )

    @torch.no_grad()
    def _best_ws(
        self, generator: Generator, classes: list[int | None], train: ImageSet, streams: Streams
    ) -> Tensor:
        """Return ws [N, num_ws, D], ordered by class, chosen from many; see `best_candidates`."""
        device = next(generator.parameters()).device
        spread = spread_of((0.5, 1.0), self.candidates).to(device)[:, None, None]
        every: list[Tensor] = []

        def images() -> Iterator[Tensor]:
            for c, label in enumerate(told("drawing samples", classes)):
                rng = streams.generator("draws", c)
                mean = generator.class_average(label, self.average_draws, rng)
                z = torch.randn(self.candidates, generator.spec.z_dim, generator=rng).to(device)
                labels = None if label is None else torch.full((len(z),), label, device=device)
                every.append(mean + spread * (generator.map(z, labels) - mean))
                parts = every[-1].split(self.chunk_images)
                made = torch.cat([((generator(part) + 1) / 2).cpu() for part in parts])
                yield made.clamp(0, 1)

        chosen = best_candidates(images(), self.images_per_class, train, device, streams)
        return torch.cat([ws[own.to(device)] for ws, own in zip(every, chosen, strict=True)])

    def _drawn_ws(
        self, generator: Generator, classes: list[int | None], streams: Streams
    ) -> Tensor:
        """Return ws [N, num_ws, D], ordered by class."""
        init = self.init or ("average" if self.images_per_class == 1 else "sample")
        if init == "average" and self.images_per_class > 1:
            raise ConfigError(
                "init=average would make all images of a class alike",
                got=f"{self.images_per_class} images per class",
                fix="Use source.init=sample.",
            )
        draws = self.average_draws if init == "average" else 1
        rows = []
        for c, label in enumerate(classes):
            for i in range(self.images_per_class):
                rng = streams.generator("gan init", c, i)
                rows.append(generator.class_average(label, draws, rng, self.truncation_psi))
        return torch.stack(rows)


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
    spec = stored.generator.spec
    check_fit(spec, train, stored.name)
    classes = [c for c in match_classes(spec, train.classes, given) if c is not None]
    return Prior(stored, classes) if classes else None
