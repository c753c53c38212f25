"""What a configuration says, as values with their places: by name or file, on its base, changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpd.artifacts.packed.opening import folder_at
from hpd.artifacts.run_folder import CONFIG
from hpd.disk.paths import path_of
from hpd.disk.yaml_text import Place, Placed, laid_over, parse_value, placed, read_yaml
from hpd.errors import ConfigError, nearest
from hpd.students.schedule import LENGTHS, without_length

_PACKAGE = Path(__file__).parent


def bundled_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    # in a wheel they lie inside the package, in a checkout beside it
    folder = _PACKAGE / "configs"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "configs"
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


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
    group = ".".join(parents)
    # what overrides give stays, but of epochs and steps the later one counts
    own = given.given_in(layer, group, values)
    kept = dict(values)
    if last == "kind" and parents and values.get("kind", value) != value:
        kept = {key: old for key, old in values.items() if key in own}
    if parents and parents[-1] != "buffers":
        stays = {*_kept(parents[-1], kept, {last: value}), *own.difference(LENGTHS)}
        kept = {key: old for key, old in kept.items() if key in stays}
    for key in values.keys() - kept.keys():
        given.places = given.without(f"{group}.{key}").places
    values.clear()
    values |= {**kept, last: value}
    given.places |= placed(dotted, value, Place("", layer))
