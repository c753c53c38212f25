"""Configurations: one YAML file an experiment, typed, frozen, complete.

The only module that knows which sources, objectives, students, data sets and selectors exist.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.boundary import public
from hpd.data import DATASETS, DatasetSettings
from hpd.disk.yaml_text import as_yaml, flatten
from hpd.engine import SELECTORS, OptimizerSettings, SelectorSettings
from hpd.engine.selection import LastSettings
from hpd.engine.selection.ridge import RidgeSettings
from hpd.engine.watching.tracking import TrackingSettings
from hpd.errors import ConfigError
from hpd.evaluation import EvaluationSettings
from hpd.given import config_values
from hpd.machine.precision import Float32
from hpd.objectives import OBJECTIVES, ObjectiveSettings
from hpd.objectives.distribution import DistributionSettings
from hpd.own_code import OwnCode, reading
from hpd.registry import Settings
from hpd.showing import as_html, never_fails
from hpd.sources import SOURCES, SourceSettings
from hpd.students.relabels import RelabelSettings

FORMAT = 1
# what can change while a run goes on: paths are held to the hashes of what lies there, the device
# and the size of chunks decide no more than how sums are rounded
_FREE = {
    "format", "description", "device", "float32", "checkpoint_every", "checkpoint_minutes",
    "curve_every", "tracking", "evaluation", "own_code",
}  # fmt: skip
_FREE_ANYWHERE = {"chunk_images", "root", "generator", "experts", "teacher"}


class RunSettings(Settings):
    """Everything that decides a run."""

    format: int = Field(FORMAT, description="of this file; that of a newer hpd is refused")
    description: str = Field("", description="of the run, in the report")
    seed: int = Field(0, ge=0, description="root of every random stream")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    float32: Float32 = Field(
        "ieee",
        description="how a GPU multiplies float32 numbers; tf32: with ten bits of their fraction,"
        " faster. A CPU has no tf32",
    )
    data: Annotated[DatasetSettings, DATASETS] = Field(description="the real images")
    source: Annotated[SourceSettings, SOURCES] = Field(description="what is optimised")
    objective: Annotated[ObjectiveSettings, OBJECTIVES] = Field(
        DistributionSettings(), description="what the images are matched to"
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="how steps are taken")
    selection: Annotated[SelectorSettings, SELECTORS] = Field(
        RidgeSettings(), description="which state is kept"
    )
    relabel: RelabelSettings | None = Field(None, description="a teacher's labels for the result")
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="how the result is judged"
    )
    classes_per_step: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description="classes whose images a step takes, drawn at random; null: all, and 10 where"
        " there are more than 100",
    )
    tracking: TrackingSettings = Field(
        TrackingSettings(), description="where metrics are sent, too"
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints within a stage")
    checkpoint_minutes: float | None = Field(
        10, gt=0, description="minutes between checkpoints at most; null: however many"
    )
    curve_every: int = Field(
        20, ge=0, description="steps between losses on fixed draws, the report's curve; 0: none"
    )
    own_code: list[OwnCode] = Field(
        [], description="noted by a run: what does not come with hpd; nothing is imported by it"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_courses(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "buffers" in values:
            raise ConfigError(
                "the config is one of class-incremental learning", fix="Run it by `hpd continual`."
            )
        return values

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer_format(cls, values: Any) -> Any:
        # first of all checks: a newer version may have keys that are unknown here
        if isinstance(values, Mapping):
            number = values.get("format", FORMAT)
            if isinstance(number, int) and number > FORMAT:
                raise ConfigError(
                    "the config is for a newer version of hpd",
                    got=f"format {number}",
                    expected=f"at most {FORMAT}",
                    fix="Install that version.",
                )
        return values

    @model_validator(mode="after")
    def _can_take_some_classes(self) -> Self:
        if self.classes_per_step is not None and self.objective.takes_all_classes:
            raise ConfigError(
                "the objective matches all classes together",
                got=f"classes_per_step {self.classes_per_step}",
                expected=OBJECTIVES.kind_of(self.objective),
                fix="Leave out classes_per_step.",
                option="classes_per_step",
            )
        return self

    @model_validator(mode="after")
    def _can_search(self) -> Self:
        if self.source.needs_scores and isinstance(self.selection, LastSettings):
            raise ConfigError(
                "a search over levels needs scores", got="selection last",
                expected="a selection that scores", fix="Leave out selection, or source.search.",
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _has_the_prior_of_its_baselines(self) -> Self:
        asked = [name for name in self.evaluation.baselines if name.startswith("prior")]
        if asked and not self.source.has_prior:
            raise ConfigError(
                f"the baseline {asked[0]!r} needs a source with a generator",
                got=SOURCES.kind_of(self.source),
                expected="gan, or hmn with a stylegan as its decoder",
                fix="Leave it out of evaluation.baselines.",
            )
        return self

    @classmethod
    def section(cls) -> str:
        """Return how messages name the top level."""
        return "the config"

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and return the settings; of unknown kinds say what is noted of them."""
        with reading(values):
            return super().read(values)

    @classmethod
    def read_kept(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of a run, with parts whose kind is unknown kept as they are.

        Raises:
            ConfigError: see `read`; and where such a part is asked to do something.
        """
        with reading(values, kept=True):
            return super().read(values)

    def __repr__(self) -> str:
        kinds = (
            DATASETS.kind_of(self.data), SOURCES.kind_of(self.source),
            OBJECTIVES.kind_of(self.objective), SELECTORS.kind_of(self.selection),
        )  # fmt: skip
        return f"RunSettings({', '.join(kinds)}, seed {self.seed})"

    @never_fails
    def _repr_html_(self) -> str:
        return as_html(repr(self), f"<pre>{html.escape(self.to_yaml())}</pre>")

    def to_yaml(self) -> str:
        """Return the configuration with every default written out."""
        return as_yaml(self.model_dump(mode="json"))


@public
def load_config(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), seed: int | None = None
) -> RunSettings:
    """Resolve a configuration.

    Args:
        config: name of a bundled one, path of a YAML file, folder of a run, or a mapping. One that
            has a `base`, the name or path of another, says only what differs from that.
        overrides: ``"key.sub=value"`` each, the value as in YAML.
        seed: replaces the configuration's.

    Raises:
        ConfigError: for an unknown name, an unknown key (with the nearest) or a wrong type.
    """
    return RunSettings.read(config_values(config, overrides, seed))


def resolve_config(
    config: str | Path | Mapping[str, Any] | RunSettings,
    overrides: Sequence[str],
    seed: int | None,
) -> RunSettings:
    """Return the settings of a run, given as such or as `load_config` takes them.

    Raises:
        ConfigError: see `load_config`; and for overrides of settings.
    """
    if not isinstance(config, RunSettings):
        return load_config(config, overrides, seed)
    if overrides or seed is not None:
        raise ConfigError("overrides and seed belong in the settings", got="both")
    return config


def config_changes(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ and that decide a run, by dotted name, as (old, new).

    >>> old = load_config("digits")
    >>> config_changes(old, load_config("digits", ["source.steps=3", "evaluation.seeds=1"]))
    {'source.steps': (40, 3)}
    """
    before, after = (flatten(settings.model_dump(mode="json")) for settings in (old, new))
    return {
        key: (before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
        and key.split(".")[0] not in _FREE
        and key.split(".")[-1] not in _FREE_ANYWHERE
    }
