"""Imports point one way, and importing has no side effect."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def as_module(place):
    """``hpd/config.py`` or ``hpd/data/`` as the name of the module."""
    return place.removesuffix("/").removesuffix(".py").replace("/", ".")


def picture():
    """The lines of the page's picture, from the top, and who never imports whom."""
    layers, never = [[]], []
    for line in re.search(r"^```text\n(.*?)^```", PAGE, re.S | re.M)[1].splitlines():
        place, *rest = line.split()[:3] or [""]
        if rest[:1] == ["->"]:
            never.append((as_module(place), as_module(rest[1])))
        elif place.endswith(("/", ".py")):
            layers[-1].append(as_module(place))
        elif set(place) == {"-"}:
            layers.append([])
    return layers, never


# each group may import itself and the groups of the layers before it
UPSIDE_DOWN, STRANGERS = picture()
LAYERS = UPSIDE_DOWN[::-1]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def group(module):
    """The most specific entry of LAYERS that a module belongs to, and its layer."""
    entries = [(name, i) for i, names in enumerate(LAYERS) for name in names]
    fits = [e for e in entries if module == e[0] or module.startswith(e[0] + ".")]
    return max(fits, key=lambda e: len(e[0]), default=None)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


FILES = sorted([*(ROOT / "hpd").rglob("*.py"), *(ROOT / "generators").rglob("*.py")])


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path):
    if path == ROOT / "hpd" / "__init__.py":
        return  # its names load lazily, see below
    own = group(module_name(path))
    assert own, f"{path} belongs to no line of docs/architecture.md"
    for name in imported(path):
        other = group(name)
        if other is None or other[0] == own[0]:
            continue
        assert other[1] < own[1], f"{own[0]} must not import {name}"
        assert (own[0], other[0]) not in STRANGERS, f"{own[0]} must not import {name}"


def test_the_picture_names_what_is_there_and_nothing_else():
    tops = [
        p for p in (ROOT / "hpd").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    ]
    there = {as_module(p.relative_to(ROOT).as_posix()) for p in tops} - {"hpd.__init__"}
    drawn = [name for names in LAYERS for name in names]
    assert sorted(drawn) == sorted(there | {"generators", "generators.ops", "tools", "tests"})
    assert {name for pair in STRANGERS for name in pair} <= set(drawn)


def test_the_page_names_places_that_exist():
    for place in re.findall(r"`((?:hpd|generators|tests|docs|configs|tools)/[^`]*)`", PAGE):
        assert (ROOT / place).exists(), place


def test_only_one_module_knows_accelerate():
    users = [p for p in FILES if any(n.split(".")[0] == "accelerate" for n in imported(p))]
    assert users == [ROOT / "hpd" / "machine" / "device.py"]


def test_importing_is_instant_and_silent():
    code = (
        "import sys, hpd; assert 'torch' not in sys.modules; "
        "import torch; before = torch.random.get_rng_state(); import hpd.api, hpd.cli; "
        "assert torch.equal(before, torch.random.get_rng_state()); "
        "assert not torch.cuda.is_initialized(); "
        "assert set(hpd.__all__) <= set(dir(hpd)); [getattr(hpd, n) for n in hpd.__all__]"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:hpd", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from hpd.cli import main; main(['--help'], standalone_mode=False); "
        "print([n for n in ('torch', 'numpy', 'rich', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
