"""YAML to values and back, with the place where each was given; nothing is run.

Read is YAML 1.2's core schema, less what loses something without a word: keys that stand twice,
values that a number sign cuts off, other encodings, and aliases that grow without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hpd.errors import ConfigError

_MOST_BYTES = 2**20
# of values, those that aliases repeat counted each time; a run's whole config has some 200
_MOST_VALUES = 20_000
_DEEPEST = 30
_CUT = re.compile(r"[ \t]+#[^\s#].*")
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an option was given.

    Args:
        text: for messages: file, line and column; "" if there is nothing to say.
        layer: what lies over a base has a higher number than that.
    """

    text: str = ""
    layer: int = 0


class Placed(dict[str, Any]):
    """Options, and the place of each.

    Args:
        values: nested mappings and lists.
        places: by dotted name; None: all are of one layer, and there is nothing to say.
    """

    def __init__(
        self, values: Mapping[str, Any], places: Mapping[str, Place] | None = None
    ) -> None:
        super().__init__(values)
        self.places = placed("", values, Place()) if places is None else dict(places)

    def place_of(self, option: str) -> Place | None:
        """Return the place of an option, or of the nearest group around it; None: of neither."""
        while option and option not in self.places:
            option = option.rpartition(".")[0]
        return self.places.get(option)

    def raised(self, layer: int) -> dict[str, Place]:
        """Return the places, moved up to a layer."""
        return {name: replace(place, layer=layer) for name, place in self.places.items()}

    @property
    def layer(self) -> int:
        """The highest layer."""
        return max((place.layer for place in self.places.values()), default=0)

    def given_in(self, layer: int, group: str, keys: Iterable[str]) -> set[str]:
        """Return the options of a group that a layer gave, or a part of them.

        >>> Placed({}, {"a.x.y": Place("", 1), "a.z": Place("", 0)}).given_in(1, "a", ["x", "z"])
        {'x'}
        """
        return {
            key
            for key in keys
            if any(
                place.layer == layer and f"{name}.".startswith(f"{group}.{key}.")
                for name, place in self.places.items()
            )
        }

    def without(self, option: str) -> Placed:
        """Return the options less one, by dotted name."""
        head, _, rest = option.partition(".")
        values: dict[str, Any] = dict(self)
        if rest and isinstance(values.get(head), Mapping):
            values[head] = dict(Placed(values[head], {}).without(rest))
        elif not rest:
            values.pop(head, None)
        return Placed(values, {k: v for k, v in self.places.items() if k != option})


def placed(name: str, value: Any, place: Place, depth: int = 0) -> dict[str, Place]:
    """Return one place for a value and all that is in it, by dotted name.

    Raises:
        ConfigError: if it is nested too deep.
    """
    if depth > _DEEPEST:
        raise ConfigError("the options are nested too deep", got=f"more than {_DEEPEST} levels")
    found = {name: place} if name else {}
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    for key, inner in items:
        found |= placed(f"{name}.{key}" if name else str(key), inner, place, depth + 1)
    return found


def _all_of_it(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    return old


def laid_over(
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    kept: Callable[[str, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = _all_of_it,
) -> dict[str, Any]:
    """Return `base` changed by `values`: groups of options one by one, all else as a whole.

    A group of another `kind` takes nothing from the base, whose options are not its own.

    Args:
        base: nested options.
        values: what lies over them.
        kept: says what is left of a group, by its name, before another is laid over it.

    >>> laid_over({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}})
    {'a': {'x': 1, 'y': 4}, 'b': 3}
    >>> laid_over({"source": {"kind": "gan", "steps": 9}}, {"source": {"kind": "pixel"}})
    {'source': {'kind': 'pixel'}}
    """
    result = dict(base)
    for key, new in values.items():
        old = result.get(key)
        # `source: pixel` is short for `source: {kind: pixel}`
        old = {"kind": old} if isinstance(old, str) else old
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            same_kind = new.get("kind", old.get("kind")) == old.get("kind")
            new = laid_over(kept(key, old, new), new, kept) if same_kind else new
        result[key] = new
    return result


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


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2's core schema reads them.

    In YAML 1.1 ``010`` is 8, ``1:30`` is 90 and ``no`` is false; here they are text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as the base class declares it


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that either version would take for something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Write text with characters that do not print in double quotes, the only safe ones."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


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


def read_yaml(path: Path) -> Any:
    """Read a YAML file; see `parse_yaml`.

    Raises:
        ConfigError: as `parse_yaml`, and for a file that cannot be read or is not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ConfigError(f"{path} is too large for a config", got=f"{size:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}", got=error.strerror) from None
    return parse_yaml(decoded(content, path), str(path))


def decoded(content: bytes, path: Path) -> str:
    """Return the text of a file, with or without a byte order mark.

    Raises:
        ConfigError: if it is not UTF-8, with what it seems to be.
    """
    fix = "Save it as UTF-8."
    name = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    # without a mark, text of few languages has a zero in every second byte
    if name is None and content[:2].count(0) == 1:
        name = "UTF-16"
    if name is not None:
        raise ConfigError(f"{path} is not UTF-8", got=name, fix=fix)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} is not UTF-8",
            got=f"byte 0x{content[error.start]:02x} in line {line}, as of Latin-1 or a code page",
            fix=fix,
        ) from None


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML without running anything.

    Args:
        text: of one document.
        where: what messages call it.

    Returns:
        the value; a mapping as `Placed`.

    Raises:
        ConfigError: naming place and problem.
    """
    _, value, places = _parsed(text, where)
    return Placed(value, places) if isinstance(value, dict) else value


def parse_value(text: str, where: str) -> Any:
    """Parse the value of one option; a text with a number sign is kept whole.

    Raises:
        ConfigError: naming place and problem.
    """
    node, value, _ = _parsed(text, where, may_be_cut=True)
    if node is None:
        if text.strip():
            raise ConfigError(f"{where} is a comment", got=repr(text), fix="Put it in quotes.")
        return value
    rest = text[node.end_mark.index :].strip()
    if not rest or getattr(node, "flow_style", None) is False:
        return value
    if isinstance(value, str) and not node.style:
        return text.strip()
    raise ConfigError(f"{where} is followed by more", got=repr(rest), fix="Leave that out.")


def _parsed(
    text: str, where: str, *, may_be_cut: bool = False
) -> tuple[Any, Any, dict[str, Place]]:
    """Return the node of a document, None for an empty one, its value and the places in it."""
    problem = f"{where} is not valid YAML"
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, None, {}
            # before the value is made, which takes merged keys for its own
            places = dict(_checked(node, "" if may_be_cut else text, where))
            return node, loader.construct_document(node), places
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(problem, got=f"{reason} {_at(error.problem_mark)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(problem, got=error) from None
    except RecursionError:
        raise ConfigError(problem, got="values nested too deep") from None
    # what a tag asks for and the text is not: a number, a date that there is, yes or no
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(problem, got=error) from None


def _at(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f"in line {mark.line + 1}, column {mark.column + 1}"


def _checked(node: yaml.Node, text: str, where: str) -> Iterator[tuple[str, Place]]:
    """Yield where each option stands, by dotted name; refuse what YAML would lose silently."""
    left = _MOST_VALUES

    def walk(node: yaml.Node, name: str, depth: int) -> Iterator[tuple[str, Place]]:
        nonlocal left
        left -= 1
        if depth > _DEEPEST or left < 0:
            raise ConfigError(
                f"{where} holds too much",
                got=f"values {_at(node.start_mark)}",
                expected=f"at most {_MOST_VALUES} values, {_DEEPEST} levels deep",
            )
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, where)
            items = [(key.value, key.start_mark, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            items = [(i, value.start_mark, value) for i, value in enumerate(node.value)]
        else:
            _check_whole(node, text, where)
            return
        for key, mark, value in items:
            inner = f"{name}.{key}" if name else str(key)
            place = f"{where}, line {mark.line + 1}, column {mark.column + 1}"
            yield inner, Place(place)
            yield from walk(value, inner, depth + 1)

    return walk(node, "", 0)


def _check_keys(node: yaml.MappingNode, where: str) -> None:
    """Check that the keys of a mapping are names, each there once."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        merged = key.tag.endswith(":merge")
        if not (isinstance(key, yaml.ScalarNode) and (merged or key.tag.endswith(":str"))):
            got, fix = f"{key.value!r} {_at(key.start_mark)}", "Put it in quotes."
            raise ConfigError(f"{where} has a key that is no text", got=got, fix=fix)
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"the key {key.value!r} stands twice in {where}",
                got=f"lines {lines[key.value]} and {line}",
                fix="Leave one out.",
            )
        lines[key.value] = line


def _check_whole(node: yaml.Node, text: str, where: str) -> None:
    """Check that a number sign that cuts off a text is meant to: a space follows, or a line end."""
    if not isinstance(node, yaml.ScalarNode) or node.style or not node.tag.endswith(":str"):
        return
    cut = _CUT.match(text, node.end_mark.index)
    if cut:
        raise ConfigError(
            f"{where} has a text that a number sign cuts off",
            got=f"{cut[0].strip()!r} after {node.value!r} {_at(node.start_mark)}",
            fix="Put the text in quotes, or a space after the number sign of a comment.",
        )


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return YAML that `parse_yaml` reads back, as do readers of YAML 1.1."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def as_flow(value: Any) -> str:
    """Return a value on one line, as an override or `parse_value` takes it.

    >>> as_flow({"kind": "cifar10", "classes": ["1", "cat"]})
    "{kind: cifar10, classes: ['1', cat]}"
    >>> as_flow(True), as_flow(None), as_flow(1e-5), as_flow("a: b")
    ('true', 'null', '1.0e-05', "'a: b'")
    """
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True,
        width=float("inf"),
    )  # fmt: skip
    # of a scalar the end of the document is written, too
    return text.removesuffix("\n").removesuffix("\n...")
