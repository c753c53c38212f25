"""Damaged configurations: YAML files, and the overrides beside them."""

from __future__ import annotations

import random
import re
from typing import Any

from attacks import damage
from attacks.target import Input, Target
from attacks.watch import WrongResultError
from hpd.config import load_config
from hpd.courses.settings import load_continual
from hpd.disk.yaml_text import flatten
from hpd.given import bundled_configs

_COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)


def _aliases(rng: random.Random) -> str:
    """Return a text that doubles at each of many levels."""
    levels, width = rng.choice((3, 9, 20)), rng.choice((2, 9))
    lines = ["a0: &a0 [x]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


def _deep(rng: random.Random) -> str:
    depth = rng.choice((10, 300, 1000, 3000))
    opening, closing = rng.choice((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")))
    return opening * depth + (closing * depth if rng.random() < 0.5 else "")


def _odd_yaml(rng: random.Random) -> str:
    """Return YAML that is allowed, and that no configuration has."""
    number = "9" * rng.choice((20, 400, 5000))
    return rng.choice((
        _aliases(rng), _deep(rng),
        f"seed: {number}\n", f"seed: 0x{'f' * 4000}\n", f"seed: {number}.{number}\n",
        f"seed: 1e{number[:20]}\n", "&a [*a]\n", "&a {b: *a}\n", "<<: {data: digits}\n",
        "data: &d {kind: digits, more: *d}\n", "<<: [1, 2]\n", "<<: *x\n", "!x y: 1\n",
        "data: !!python/object/apply:os.system ['touch was-run']\n", "data: !x y\n",
        "data: !!python/name:os.system\n", "!!python/module:antigravity\n", "? [a, b]\n: c\n",
        "data: !!binary aGVsbG8=\n", "data: !!set {a, b}\n", "data: !!timestamp 2001-01-01\n",
        "? {a: b}\n: c\n", "---\na: 1\n---\nb: 2\n", "%YAML 3.0\n---\na\n", "data: |\n  x\n y\n",
        "\ta: 1\n", "a:\n\t- b\n", "seed: .nan\n", "seed: -.inf\n", "1: 2\n", "null: 1\n",
        "true: 1\n", "[]: 1\n", "''\n", "\n", "base: x\n", "base: digits\nbase: fashion\n",
        "base: ./config.yaml\n", "base: {a: 1}\n", "! a\n", "@a\n", "`a\n", "%a\n",
        "description: " + "x" * rng.choice((700, 100_000)) + "\n", "a" * 5000 + ": 1\n",
        "data: {kind: digits, classes: [" + "0, " * 3000 + "]}\n",
    ))  # fmt: skip


def _encoded(said: str, rng: random.Random) -> bytes:
    """Return a text as bytes, seldom in an encoding that it should not be in."""
    if rng.random() < 0.9:
        return said.encode("utf-8", "surrogatepass")
    coding = rng.choice(
        ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "latin-1", "cp1252", "utf-7")
    )
    return said.encode(coding, "replace")


class _Settings(Target):
    """What all of them need: seeds as texts, and the words that options are made of."""

    def prepare(self) -> None:
        """Read the bundled configurations."""
        self._seeds: dict[str, str] = {}
        self._path = self.place.inputs / "config.yaml"
        self._words, self._keys, self._known = set[str](), set[str](), dict[str, str]()
        for name, path in bundled_configs().items():
            said = _COMMENT.sub("", path.read_text())
            self._seeds[name] = said
            self._path.write_text(said)
            # those that lie beside another are their bases, which have names of their own
            base = re.search(r"^base: (\S+)", said, re.MULTILINE)
            if base and base[1] not in bundled_configs():
                del self._seeds[name]
                continue
            settings = (load_continual if "buffers:" in said else load_config)(self._path)
            flat = flatten(settings.model_dump(mode="json"))
            self._keys |= {key for key in flat if "buffers" not in key}
            self._words |= {word for key in flat for word in key.split(".")}
            self._words |= {str(value) for value in flat.values() if len(str(value)) < 30}
            self._known |= {key: str(value) for key, value in flat.items()}
        self._sorted_keys, self._sorted_words = sorted(self._keys), sorted(self._words)

    def override(self, rng: random.Random) -> str:
        """Return a text that sets an option, or was meant to."""
        key, kind = rng.choice(self._sorted_keys), rng.randrange(12)
        value = rng.choice((
            str(damage.number(rng)), damage.text(rng), rng.choice(self._sorted_words),
            str(damage.odd(rng)), "{kind: " + rng.choice(self._sorted_words) + "}",
            f"[{damage.number(rng)}, {damage.text(rng)}]", "null", "{}", "[]",
        ))  # fmt: skip
        if kind == 0:
            key = damage.damage_text(key, rng, self._sorted_words)
        elif kind == 1:
            value = _odd_yaml(rng).rstrip("\n")
        elif kind == 2:
            return damage.damage_text(f"{key}={value}", rng, self._sorted_words)
        elif kind == 3:
            key = f"{key}.{rng.choice(self._sorted_words)}"
        elif kind == 4:
            key = key.rpartition(".")[0] or key
        elif kind < 8:
            value = self._known[key] if rng.random() < 0.5 else str(rng.randint(1, 3))
        return f"{key}={value}"


class Configs(_Settings):
    """Files."""

    name = "configs"
    share = 8.0
    about = (
        "YAML files: bytes, tokens, lines, keys given twice, anchors, tags, nesting, encodings and "
        "numbers of 5,000 digits; read by `load_config` and `load_continual`"
    )

    def make(self, rng: random.Random) -> Input:
        """Damage one."""
        name = rng.choice(sorted(self._seeds))
        said, how = self._seeds[name], rng.random()
        if how < 0.7:
            content = _encoded(damage.damage_text(said, rng, self._sorted_words), rng)
        elif how < 0.8:
            lines = said.splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines) + 1), _odd_yaml(rng))
            content = _encoded("".join(lines), rng)
        elif how < 0.83:
            content = _encoded(_odd_yaml(rng), rng)
        else:
            content = damage.damage_bytes(said.encode(), rng)
        self._path.write_bytes(content)
        course = "buffers:" in said
        return Input(f"a damaged {name}", lambda: self._feed(course, rng.random() < 0.05), content)

    def _feed(self, course: bool, again: bool) -> str:
        if course:
            load_continual(self._path)
            return "loaded"
        settings = load_config(self._path)
        if again:
            path = self.place.inputs / "again.yaml"
            path.write_text(settings.to_yaml(), encoding="utf-8")
            if load_config(path) != settings:
                raise WrongResultError(f"a config that is another after it was written: {settings}")
        return "loaded"


class Overrides(_Settings):
    """Texts on the command line."""

    name = "overrides"
    share = 5.0
    about = (
        "`KEY=VALUE` for every option there is, with values of any type; read by `load_config` and "
        "`load_continual`, given to bundled configurations and to mappings"
    )

    def prepare(self) -> None:
        """Read the bundled configurations."""
        super().prepare()
        small = ("digits", "digits-hmn", "digits-mim-dm", "digits-pixel-dm", "digits-hpd-dc")
        self._values: dict[str, dict[str, Any]] = {
            name: load_config(name).model_dump(mode="json") for name in small
        }

    def make(self, rng: random.Random) -> Input:
        """Make some, for a mapping that is damaged as well, or not."""
        texts = [self.override(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        name = rng.choice(sorted(self._values))
        values = self._values[name]
        if rng.random() < 0.3:
            values = damage.damage_value(values, rng)
        what = (
            f"overrides of {name}: {texts!r}, {values if values is not self._values[name] else ''}"
        )

        def feed() -> str:
            load_config(values, texts)
            return "loaded"

        return Input(what, feed, "\n".join(texts).encode("utf-8", "surrogatepass"))


CONFIGS = (Configs, Overrides)
