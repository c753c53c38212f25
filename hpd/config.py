"""Configurations: one YAML file an experiment, typed, frozen, complete.

The only module that knows which sources, objectives, students, data sets and selectors exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.data import DATASETS, DatasetSettings
from hpd.engine import SELECTORS, OptimizerSettings, SelectorSettings
from hpd.engine.selection.ridge import RidgeSettings
from hpd.engine.tracking import TrackingSettings
from hpd.errors import ConfigError, nearest
from hpd.evaluation import EvaluationSettings
from hpd.objectives import OBJECTIVES, ObjectiveSettings
from hpd.objectives.distribution import DistributionSettings
from hpd.registry import Settings
from hpd.sources import SOURCES, SourceSettings
from hpd.students.schedule import without_length

_PACKAGE = Path(__file__).parent


FORMAT = 1
# what can change while a run goes on: paths are held to the hashes of what lies there, the device
# and the size of chunks decide no more than how sums are rounded
_FREE = {"format", "description", "device", "checkpoint_every", "tracking", "evaluation"}
_FREE_ANYWHERE = {"chunk_images", "root", "generator", "experts", "teacher"}


class RunSettings(Settings):
    """Everything that decides a run."""

    format: int = Field(FORMAT, description="of this file; that of a newer hpd is refused")
    description: str = ""
    seed: int = Field(0, ge=0, description="root of every random stream")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Annotated[DatasetSettings, DATASETS]
    source: Annotated[SourceSettings, SOURCES]
    objective: Annotated[ObjectiveSettings, OBJECTIVES] = Field(DistributionSettings())
    optimizer: OptimizerSettings = Field(OptimizerSettings())
    selection: Annotated[SelectorSettings, SELECTORS] = Field(RidgeSettings())
    evaluation: EvaluationSettings = Field(EvaluationSettings())
    tracking: TrackingSettings = Field(TrackingSettings())
    checkpoint_every: int = Field(
        50, ge=1, description="steps between checkpoints; there is one after each stage, too"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_courses(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "memories" in values:
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

    def to_yaml(self) -> str:
        """Return the configuration with every default written out."""
        return as_yaml(self.model_dump(mode="json"))


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2's core schema reads them.

    In YAML 1.1 ``010`` is 8, ``1:30`` is 90 and ``no`` is false; here they are text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as the base class declares it


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that either version would take for something else."""


_NUMBER = list("-+.0123456789")
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBER),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        _NUMBER,
    ),
    ("merge", "<<", ["<"]),
):
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML without running anything.

    Raises:
        ConfigError: naming place and problem.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where} is not valid YAML", got=reason) from None


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return YAML that `parse_yaml` reads back, as do readers of YAML 1.1."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def bundled_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    # in a wheel they lie inside the package, in a checkout beside it
    folder = _PACKAGE / "configs"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "configs"
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def load_config(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), seed: int | None = None
) -> RunSettings:
    """Resolve a configuration.

    Args:
        config: name of a bundled one, path of a YAML file, or a mapping. One that has a `base`,
            the name or path of another, says only what differs from that.
        overrides: ``"key.sub=value"`` each, the value as in YAML.
        seed: replaces the configuration's.

    Raises:
        ConfigError: for an unknown name, an unknown key (with the nearest) or a wrong type.
    """
    return RunSettings.read(config_values(config, overrides, seed))


def config_values(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """Return a configuration as it is given, with overrides and seed; see `load_config`."""
    if not isinstance(config, str | Path | Mapping):
        expected = "a name, a path or a mapping"
        raise ConfigError("no config", got=repr(config), expected=expected)
    values = _on_base(config, Path()) if isinstance(config, Mapping) else _read(config)
    if isinstance(overrides, str):
        fix = f"Give a list, [{overrides!r}]."
        raise ConfigError("overrides are several", got=repr(overrides), fix=fix)
    for override in overrides:
        _apply(values, override)
    if seed is not None:
        values["seed"] = seed
    return values


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


def parse_options(overrides: Sequence[str]) -> dict[str, Any]:
    """Turn ``"key=value"`` texts into options by name, the values as in YAML.

    Raises:
        ConfigError: for a text that cannot be read.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _apply(values, override)
    return values


def _read(config: str | Path, beside: Path = Path(), above: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what a YAML file says, on its base.

    Args:
        config: name of a bundled one or a path.
        beside: folder that a relative path starts from.
        above: the files that this one is a base of.
    """
    bundled = bundled_configs()
    path = bundled.get(str(config), beside / Path(config).expanduser())
    if not path.is_file():
        raise ConfigError(
            f"no config {str(config)!r}",
            expected="the name of a bundled one or a YAML file",
            fix=nearest(str(config), bundled),
        )
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base", fix="Leave out one `base` of the circle.")
    values = parse_yaml(path.read_text(), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a config", got=type(values).__name__, expected="keys")
    return _on_base(values, path.parent, [*above, path.resolve()])


def _on_base(values: Mapping[str, Any], beside: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """Return a configuration with what its `base` says and itself does not."""
    own = dict(values)
    base = own.pop("base", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError("base is not valid", got=base, expected="the name or path of a config")
    return _laid_over(_read(base, beside, above), own)


def _laid_over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` changed by `values`: groups of options one by one, all else as a whole.

    A group of another `kind` takes nothing from the base, whose options are not its own.

    >>> _laid_over({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}})
    {'a': {'x': 1, 'y': 4}, 'b': 3}
    >>> _laid_over({"source": {"kind": "gan", "steps": 9}}, {"source": {"kind": "pixel"}})
    {'source': {'kind': 'pixel'}}
    """
    result = dict(base)
    for key, new in values.items():
        old = result.get(key)
        # `source: pixel` is short for `source: {kind: pixel}`
        old = {"kind": old} if isinstance(old, str) else old
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            same_kind = new.get("kind", old.get("kind")) == old.get("kind")
            new = _laid_over(_replaced(key, old, new), new) if same_kind else new
        result[key] = new
    return result


def _replaced(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of a group of options that `new` changes.

    A training's length is one thing in two options: epochs replace steps, and steps epochs.
    """
    return without_length(old, new) if name.endswith("training") else dict(old)


def _apply(values: dict[str, Any], override: str) -> None:
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
    for key in parents:
        inner = values.get(key)
        # `student: convnet` is short for `student: {kind: convnet}`
        inner = {"kind": inner} if isinstance(inner, str) else {} if inner is None else inner
        if not isinstance(inner, dict):
            raise ConfigError(f"cannot set {dotted!r}: {key!r} holds no options", got=inner)
        values[key] = dict(inner)
        values = values[key]
    value = parse_yaml(text, f"the value of {dotted}")
    kept = _replaced(parents[-1] if parents else "", values, {last: value})
    values.clear()
    values |= {**kept, last: value}


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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys.

    >>> flatten({"a": {"b": 1, "c": [2]}, "d": None})
    {'a.b': 1, 'a.c': [2], 'd': None}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
