"""The configuration of a course of class-incremental learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.courses.buffers import BUFFERS, BufferSettings
from hpd.data import DATASETS, DatasetSettings
from hpd.disk.yaml_text import as_yaml
from hpd.errors import ConfigError
from hpd.evaluation import PROTOCOLS, EvaluationSettings
from hpd.given import config_values
from hpd.registry import Settings
from hpd.students import STUDENTS, StudentSettings, TrainingSettings
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import HardTraining

FORMAT = 1


class RehearsalSettings(Settings):
    """How students are trained on a buffer, each from fresh weights.

    The defaults are those of the source: 1,000 epochs with Siamese augmentation.
    """

    students: list[Annotated[StudentSettings, STUDENTS]] = Field(
        [ConvNetSettings()], min_length=1, description="architectures; the figures are their mean"
    )
    seeds: int = Field(3, ge=1, description="students of each, for each step of each order")
    training: HardTraining = Field(
        TrainingSettings.read(PROTOCOLS["dsa"]["training"]), description="on a buffer"
    )
    full_training: HardTraining = Field(
        TrainingSettings(epochs=30), description="on the buffer `everything`"
    )

    def evaluation(self, *, full: bool) -> EvaluationSettings:
        """Return the protocol by which students are compared."""
        return EvaluationSettings.read(
            {
                "students": self.students,
                "seeds": self.seeds,
                "training": self.full_training if full else self.training,
                "full_training": None,
                "baselines": [],
            }
        )


class ContinualSettings(Settings):
    """Everything that decides a course."""

    format: int = Field(FORMAT, ge=1, le=FORMAT, description="of this file")
    description: str = Field("", description="of the course")
    seed: int = Field(0, ge=0, description="root of every random stream")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Annotated[DatasetSettings, DATASETS] = Field(
        description="the real images, whose classes come one after another"
    )
    orders: int = Field(5, ge=1, description="of the classes, drawn at random")
    classes_per_step: int = Field(2, ge=2, description="new classes; a divisor of all")
    budget_images: int = Field(
        1, ge=1, description="floats to store of a class, as the images that would take as many"
    )
    buffers: dict[str, Annotated[BufferSettings, BUFFERS]] = Field(
        min_length=1, description="by name, in the order of the table"
    )
    rehearsal: RehearsalSettings = Field(
        RehearsalSettings(), description="how what is kept is learnt again beside new classes"
    )

    @classmethod
    def section(cls) -> str:
        """Return how messages name the top level."""
        return "the config"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in self.buffers:
            # they are names of files
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ConfigError(
                    "a buffer has a name that is not valid",
                    got=repr(name),
                    expected="letters, digits, _ and -",
                )
        return self

    def to_yaml(self) -> str:
        """Return the configuration with every default written out."""
        return as_yaml(self.model_dump(mode="json"))


def load_continual(
    config: str | Path | Mapping[str, Any] | ContinualSettings,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> ContinualSettings:
    """Resolve a configuration; arguments and errors as of `hpd.config.resolve_config`."""
    if not isinstance(config, ContinualSettings):
        values = config_values(config, overrides, seed)
        if "source" in values and "buffers" not in values:
            raise ConfigError(
                "the config is one of `hpd distill`",
                expected="buffers",
                fix="Name it in a buffer: `buffers: {mine: {kind: distilled, config: NAME}}`.",
            )
        return ContinualSettings.read(values)
    if overrides or seed is not None:
        raise ConfigError("overrides and seed belong in the settings", got="both")
    return config
