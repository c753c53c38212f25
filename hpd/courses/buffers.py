"""What is kept of the classes of a step: images drawn, chosen or distilled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator

from hpd.artifacts import DistilledSet
from hpd.config import RunSettings, load_config
from hpd.data import ImageSet
from hpd.engine import SELECTORS, OptimizerSettings, SelectorSettings
from hpd.errors import ConfigError
from hpd.objectives import OBJECTIVES, ObjectiveSettings
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.sources import SOURCES, SourceSettings
from hpd.students import STUDENTS, StudentSettings, TrainingSettings, in_batches, train_student
from hpd.students.coresets import SELECTIONS
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import HardTraining

_SECTIONS = ("source", "objective", "optimizer", "selection")

Distil = Callable[[Mapping[str, Any], int], DistilledSet]
"""Distils the classes of a step, by the sections of a configuration and a seed."""
Weigh = Callable[[Mapping[str, Any], int], int]
"""Returns what that would store, in floats, before it is done."""


@dataclass(frozen=True)
class Arrival:
    """The classes that come with a step.

    Args:
        train: their training images, labelled from 0 on in the order in which they come.
        per_class: real images of a class that take as many floats as there are for it.
        device: where to compute.
        streams: randomness of this step, the same for all buffers.
        distil: distils these classes.
        weigh: says what that would store.
    """

    train: ImageSet
    per_class: int
    device: torch.device
    streams: Streams
    distil: Distil
    weigh: Weigh

    @property
    def budget(self) -> int:
        """Floats that there are for these classes."""
        return self.per_class * self.train.num_classes * math.prod(self.train.image_shape)

    def keep(self, indices: torch.Tensor) -> DistilledSet:
        """Return some of the real images as they are."""
        train = self.train
        images = train.unit(indices)
        return DistilledSet(
            images, train.labels[indices], train.classes, train.normalisation, images.numel()
        )


class BufferSettings(Settings):
    """Options of a buffer."""

    within_budget: ClassVar[bool] = True

    def make(self, arrival: Arrival) -> DistilledSet | None:
        """Return what is kept of the classes that come with a step; None: all, as they are.

        Raises:
            DataError: if a class has too few images.
            HpdError: for what goes wrong in a distillation.
        """
        raise NotImplementedError

    def weigh(self, arrival: Arrival) -> int:
        """Return what it will store of the classes that come with a step, in floats.

        Nothing is trained for it.

        Raises:
            HpdError: for what can be known to go wrong.
        """
        arrival.train.check_per_class(arrival.per_class)
        return arrival.budget


BUFFERS: Registry[BufferSettings] = Registry("buffer", BufferSettings)


@BUFFERS.register("random")
class RandomSettings(BufferSettings):
    """Random real images of each class: what every other buffer must beat."""

    def make(self, arrival: Arrival) -> DistilledSet:
        """Draw the images; see `BufferSettings.make`."""
        rng = arrival.streams.generator("random")
        return arrival.keep(arrival.train.draw_per_class(arrival.per_class, rng))


@BUFFERS.register("coreset")
class CoresetSettings(BufferSettings):
    """Real images that stand for their class in the features of a student.

    The student is trained on all images of the classes of the step, which are at hand then.
    """

    selection: str = Field("herding", description=f"{' or '.join(SELECTIONS)}")
    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(), description="whose features count"
    )
    training: HardTraining = Field(TrainingSettings(epochs=30), description="of that student")

    @model_validator(mode="after")
    def _is_known(self) -> CoresetSettings:
        if self.selection not in SELECTIONS:
            raise ConfigError(
                f"selection in {self.section()} is not valid",
                got=self.selection,
                expected=" or ".join(SELECTIONS),
            )
        return self

    def make(self, arrival: Arrival) -> DistilledSet:
        """Train the student and choose; see `BufferSettings.make`."""
        train, streams = arrival.train, arrival.streams.fork("coreset")
        train.check_per_class(arrival.per_class)
        shape, weights = train.image_shape, streams.generator("weights")
        student = self.student.build(shape, train.num_classes, weights).to(arrival.device)
        images, labels = train.seen_on(arrival.device), train.labels.to(arrival.device)
        train_student(student, images, labels, self.training, streams).eval()
        choose = SELECTIONS[self.selection]
        chosen = [
            own[choose(in_batches(student.embed, images.at(own)).cpu(), arrival.per_class)]
            for own in train.by_class
        ]
        return arrival.keep(torch.cat(chosen))


@BUFFERS.register("everything")
class EverythingSettings(BufferSettings):
    """All real images: what a buffer without a limit would reach."""

    within_budget: ClassVar[bool] = False

    def make(self, arrival: Arrival) -> None:
        """Keep all; see `BufferSettings.make`."""

    def weigh(self, arrival: Arrival) -> int:
        """Return the floats of all images; see `BufferSettings.weigh`."""
        return len(arrival.train) * math.prod(arrival.train.image_shape)


@BUFFERS.register("distilled")
class DistilledSettings(BufferSettings):
    """What a source comes to: sections of an ordinary configuration.

    Those that are not given are taken from `config`, options of the same kind one by one.
    """

    config: str | None = Field(
        None, description="bundled name or YAML file of a configuration of `hpd distill`"
    )
    source: Annotated[SourceSettings, SOURCES] = Field(description="what is optimised")
    objective: Annotated[ObjectiveSettings, OBJECTIVES] = Field(
        RunSettings.model_fields["objective"].default, description="what images are matched to"
    )
    optimizer: OptimizerSettings = Field(
        RunSettings.model_fields["optimizer"].default, description="how steps are taken"
    )
    selection: Annotated[SelectorSettings, SELECTORS] = Field(
        RunSettings.model_fields["selection"].default, description="which state is kept"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Take from the configuration what is not given."""
        if not isinstance(values, Mapping) or not isinstance(values.get("config"), str):
            return values
        base = load_config(values["config"]).model_dump(mode="json")
        return {**values, **{key: _over(base[key], values.get(key, {})) for key in _SECTIONS}}

    def make(self, arrival: Arrival) -> DistilledSet:
        """Distil; see `BufferSettings.make`."""
        return arrival.distil(self._sections, arrival.streams.seed("distil"))

    def weigh(self, arrival: Arrival) -> int:
        """Return the floats of the source; see `BufferSettings.weigh`."""
        return arrival.weigh(self._sections, arrival.streams.seed("distil"))

    @property
    def _sections(self) -> dict[str, Any]:
        values = self.model_dump(mode="json")
        return {key: values[key] for key in _SECTIONS}


def _over(base: Mapping[str, Any], given: Any) -> Any:
    """Return options with those that are given in place of the others.

    Options of another kind share nothing with those of the first.

    >>> _over({"kind": "a", "x": 1, "y": {"z": 2}}, {"x": 3, "y": {"z": 4}})
    {'kind': 'a', 'x': 3, 'y': {'z': 4}}
    >>> _over({"kind": "a", "x": 1}, {"kind": "b"})
    {'kind': 'b'}
    >>> _over({"kind": "a", "x": 1}, "b")
    'b'
    """
    if not isinstance(given, Mapping):
        return given
    if given.get("kind", base.get("kind")) != base.get("kind"):
        return dict(given)
    merged = dict(base)
    for key, value in given.items():
        old = base.get(key)
        merged[key] = _over(old, value) if isinstance(old, Mapping) else value
    return merged
