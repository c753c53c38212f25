"""Configurations: one YAML file an experiment, typed, frozen, complete.

The only module that knows which sources, objectives, students, data sets and selectors exist.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.artifacts.packed.opening import folder_at
from hpd.artifacts.run_folder import CONFIG
from hpd.boundary import public
from hpd.data import DATASETS, DatasetSettings
from hpd.disk.paths import path_of
from hpd.disk.yaml_text import (
    Place,
    Placed,
    as_yaml,
    flatten,
    laid_over,
    parse_value,
    placed,
    read_yaml,
)
from hpd.engine import SELECTORS, OptimizerSettings, SelectorSettings
from hpd.engine.selection import LastSettings
from hpd.engine.selection.ridge import RidgeSettings
from hpd.engine.watching.tracking import TrackingSettings
from hpd.errors import ConfigError, nearest
from hpd.evaluation import EvaluationSettings
from hpd.machine.precision import Float32
from hpd.objectives import OBJECTIVES, ObjectiveSettings
from hpd.objectives.distribution import DistributionSettings
from hpd.own_code import OwnCode, reading
from hpd.registry import Settings
from hpd.showing import as_html, never_fails
from hpd.sources import SOURCES, SourceSettings
from hpd.students.relabels import RelabelSettings
from hpd.students.schedule import without_length

_PACKAGE = Path(__file__).parent

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
    description: str = ""
    seed: int = Field(0, ge=0, description="root of every random stream")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    float32: Float32 = Field(
        "ieee",
        description="how a GPU multiplies float32 numbers; tf32: with ten bits of their fraction,"
        " faster. A CPU has no tf32",
    )
    data: Annotated[DatasetSettings, DATASETS]
    source: Annotated[SourceSettings, SOURCES]
    objective: Annotated[ObjectiveSettings, OBJECTIVES] = Field(DistributionSettings())
    optimizer: OptimizerSettings = Field(OptimizerSettings())
    selection: Annotated[SelectorSettings, SELECTORS] = Field(RidgeSettings())
    relabel: RelabelSettings | None = Field(None, description="a teacher's labels for the result")
    evaluation: EvaluationSettings = Field(EvaluationSettings())
    classes_per_step: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description="classes whose images a step takes, drawn at random; null: all, and 10 where"
        " there are more than 100",
    )
    tracking: TrackingSettings = Field(TrackingSettings())
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


def bundled_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    # in a wheel they lie inside the package, in a checkout beside it
    folder = _PACKAGE / "configs"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "configs"
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


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


def config_values(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), seed: int | None = None
) -> Placed:
    """Return a configuration as it is given, with overrides and seed; see `load_config`."""
    if not isinstance(config, str | Path | Mapping):
        expected = "a name, a path or a mapping"
        raise ConfigError("no config", got=repr(config), expected=expected)
    values = _on_base(config, Path()) if isinstance(config, Mapping) else _read(config)
    if isinstance(overrides, str) or not isinstance(overrides, Iterable):
        fix = f"Give a list, [{overrides!r}]."
        raise ConfigError("overrides are several", got=repr(overrides), fix=fix)
    layer = values.layer + 1
    for override in overrides:
        _apply(values, override, layer)
    if seed is not None:
        values["seed"] = seed
        values.places["seed"] = Place("", layer)
    return _without_stale_description(values)


# what a description is about, where it is no more than a name
_DESCRIBED = ("data.subset", "data.classes", "source.generator")


def _without_stale_description(values: Placed) -> Placed:
    """Return options less a description of other data, another source or another objective."""
    place = values.places.get("description")
    if place is None:
        return values
    kinds = [
        f"{name}.kind" if isinstance(values.get(name), Mapping) else name
        for name in ("data", "source", "objective")
    ]
    names = [name for name in (*kinds, *_DESCRIBED) if name in values.places]
    layers = [values.places[name].layer for name in names]
    return values.without("description") if max(layers, default=0) > place.layer else values


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


def parse_options(overrides: Sequence[str]) -> Placed:
    """Turn ``"key=value"`` texts into options by name, the values as in YAML.

    Raises:
        ConfigError: for a text that cannot be read.
    """
    values = Placed({})
    for override in overrides:
        _apply(values, override, 0)
    return values


def _read(config: str | Path, beside: Path = Path(), above: Sequence[Path] = ()) -> Placed:
    """Return what a YAML file says, on its base.

    Args:
        config: name of a bundled one or a path.
        beside: folder that a relative path starts from.
        above: the files that this one is a base of.
    """
    bundled = bundled_configs()
    path = bundled.get(str(config)) or config_path(config, beside)
    if path is None:
        raise ConfigError(
            f"no config {str(config)!r}",
            expected="the name of a bundled one, a YAML file, or the folder of a run",
            fix=nearest(str(config), bundled, listed_by="hpd configs"),
        )
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base", fix="Leave out one `base` of the circle.")
    values = read_yaml(path)
    if not isinstance(values, Placed):
        raise ConfigError(f"{path} is not a config", got=type(values).__name__, expected="keys")
    return _on_base(values, path.parent, [*above, path.resolve()])


def config_path(config: str | Path, beside: Path = Path()) -> Path | None:
    """Return the file that a path names, in a run its config; None: there is none."""
    named = path_of(config)
    path = None if named is None else path_of(folder_at(beside / named))
    if path is not None and path.is_dir():
        path = path_of(path / CONFIG)
    return path if path is not None and path.is_file() else None


def run_folder(config: str | Path) -> Path | None:
    """Return the folder of a run or a course where a config is one; None: it is another."""
    path = None if str(config) in bundled_configs() else path_of(config)
    return path if path is not None and path.is_dir() and config_path(path) is not None else None


def _on_base(values: Mapping[str, Any], beside: Path, above: Sequence[Path] = ()) -> Placed:
    """Return a configuration with what its `base` says and itself does not."""
    own = values if isinstance(values, Placed) else Placed(values)
    base = own.get("base")
    if base is None:
        return own.without("base")
    if not isinstance(base, str):
        raise ConfigError("base is not valid", got=base, expected="the name or path of a config")
    below, own = _read(base, beside, above), own.without("base")
    places = {**below.places, **own.raised(below.layer + 1)}
    return Placed(laid_over(below, own, _kept), places)


def _kept(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is left of a group of options that `new` changes.

    Buffers are a list by name: those of a base are not added to one's own. A training's length is
    one thing in two options: epochs replace steps, and steps epochs.
    """
    if name == "buffers":
        return {}
    return without_length(old, new) if name.endswith("training") else old


def _apply(given: Placed, override: str, layer: int) -> None:
    """Set one dotted key in nested mappings."""
    if not isinstance(override, str):
        fix = "hpd.distill and its like take each by itself, load_config all in one list."
        raise ConfigError(
            "cannot read override", got=repr(override), expected="'key=value'", fix=fix
        )
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError("cannot read override", got=repr(override), expected="key=value")
    *parents, last = dotted.split(".")
    values: dict[str, Any] = given
    for key in parents:
        inner = values.get(key)
        # `student: convnet` is short for `student: {kind: convnet}`
        inner = {"kind": inner} if isinstance(inner, str) else {} if inner is None else inner
        if not isinstance(inner, dict):
            raise ConfigError(f"cannot set {dotted!r}: {key!r} holds no options", got=inner)
        values[key] = dict(inner)
        values = values[key]
    value = parse_value(text, f"the value of {dotted}")
    kept = dict(values)
    if last == "kind" and parents and kept.get("kind", value) != value:
        kept = _given_beside(given, ".".join(parents), kept, layer)
    if parents and parents[-1] != "buffers":
        kept = dict(_kept(parents[-1], kept, {last: value}))
    values.clear()
    values |= {**kept, last: value}
    given.places |= placed(dotted, value, Place("", layer))


def _given_beside(
    given: Placed, group: str, options: Mapping[str, Any], layer: int
) -> dict[str, Any]:
    """Return the options of a group that overrides gave: another kind has none of the others."""
    kept = {}
    for key, value in options.items():
        places = [p for name, p in given.places.items() if f"{name}.".startswith(f"{group}.{key}.")]
        if any(place.layer == layer for place in places):
            kept[key] = value
        else:
            given.places = given.without(f"{group}.{key}").places
    return kept


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
