"""The levels of a pretrained generator as the source: H-PD, and GLaD as one stage of it.

Source: Zhong et al., Hierarchical Features Matter, CVPR 2025 (H-PD); Cazenavette et al.,
Generalizing Dataset Distillation via Deep Generative Prior, CVPR 2023 (GLaD).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from generators import Generator, GeneratorSpec, Prior, StoredGenerator, read_generator
from generators.projection import perceptual_distance, project, squared_distance
from hpd.data import ImageSet
from hpd.data.imagenet import NUM_CLASSES, indices_of_classes
from hpd.device import Precision, resolve_precision
from hpd.errors import ConfigError, GeneratorError, nearest
from hpd.rng import Streams
from hpd.sources.base import SOURCES, CountedSettings
from hpd.sources.gan_levels import GanSource, LevelPlan
from hpd.typing import Source


@SOURCES.register("gan")
class GanSettings(CountedSettings):
    """Latents of a generator, optimised level by level.

    At level 0 these are the ws; at level k the ws and the features after k synthesis layers; at
    the last level the pixels.
    """

    generator: str = Field(description="bundled name, or folder of a generator")
    generator_classes: list[int] | None = Field(
        None, description="the generator's index for each class; null: by name or wnid"
    )
    levels: list[int] | Literal["all"] = Field(
        "all", description="levels to optimise, ascending; one level is GLaD"
    )
    init: Literal["average", "sample", "project"] | None = Field(
        None,
        description="average: mean w of each class; sample: a draw per image; project: random "
        "real images, projected into W+; null: average at one image a class, else sample",
    )
    project_steps: int = Field(200, ge=0, description="steps of init=project")
    project_distance: Literal["lpips", "squared"] = Field(
        "lpips", description="what init=project makes small; LPIPS needs AlexNet's weights"
    )
    average_draws: int = Field(1000, ge=1, description="draws in the mean w of a class")
    truncation_psi: float = Field(1.0, ge=0, le=1, description="1 for no truncation")
    features: Literal["generator", "random"] = Field(
        "generator",
        description="where the first level starts, if it has features: at the generator's, or at "
        "normal noise of their mean and deviation in each map",
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
        generator = stored.generator.to(device)
        dtype = resolve_precision(self.precision, device)
        # None leaves the generator's own dtype, which may be float64
        generator.compute_dtype = None if dtype == torch.float32 else dtype
        check_fit(generator.spec, train, stored.name)
        classes = match_classes(generator.spec, train.classes, self.generator_classes)
        plan = self._plan(generator.spec)
        if self.init == "project":
            ws = self._projected_ws(generator, classes, train, streams)
        else:
            ws = self._drawn_ws(generator, classes, streams)
        noise = streams.fork("gan features") if self.features == "random" else None
        return GanSource(
            stored, ws, self.labels(train).to(device), plan,
            lr_pixels=self.lr_pixels, lr_generator=self.lr_generator,
            feature_limit=self.feature_limit, chunk_images=self.chunk_images, noise=noise,
        )  # fmt: skip

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
        return [LevelPlan(*row) for row in zip(levels, steps, lr_ws, lr_features, strict=True)]

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
            distance=perceptual_distance(device)
            if self.project_distance == "lpips"
            else squared_distance,
            rng=rng,
            steps=self.project_steps,
            average_draws=self.average_draws,
            chunk_images=self.chunk_images,
        )

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


def prior_of(stored: StoredGenerator, train: ImageSet, given: Sequence[int] | None) -> Prior | None:
    """Return a generator with its class for each class of the data; None if it has no classes.

    Raises:
        GeneratorError: if it does not fit the data.
    """
    spec = stored.generator.spec
    check_fit(spec, train, stored.name)
    classes = [c for c in match_classes(spec, train.classes, given) if c is not None]
    return Prior(stored, classes) if classes else None


def match_classes(
    spec: GeneratorSpec, classes: Sequence[str], given: Sequence[int] | None
) -> list[int | None]:
    """Return the generator's class index for each class of the data.

    Args:
        spec: facts about the generator. One of a thousand classes without names is of ImageNet:
            names and wnids of the data's classes then say which are meant.
        classes: names of the data's classes.
        given: the indices, if the user gave them.

    Raises:
        GeneratorError: for a class that the generator does not have.
    """
    if spec.num_classes == 0:
        return [None] * len(classes)
    if given is not None:
        if len(given) != len(classes) or not all(0 <= i < spec.num_classes for i in given):
            raise GeneratorError(
                "generator_classes must name a class of the generator for each class of the data",
                got=list(given),
                expected=f"{len(classes)} numbers in 0..{spec.num_classes - 1}",
            )
        return list(given)
    # the published generators of ImageNet do not name their thousand classes
    if not spec.classes and spec.num_classes == NUM_CLASSES:
        indices = indices_of_classes(classes)
        if indices is not None:
            return [*indices]
    for name in classes:
        if name not in spec.classes:
            hint = nearest(name, spec.classes) if spec.classes else "Its classes have no names."
            raise GeneratorError(
                f"the generator has no class {name!r}",
                fix=f"{hint} Choose data.classes to fit, or set source.generator_classes.",
            )
    return [spec.classes.index(name) for name in classes]
