"""Imports point one way, and importing has no side effect."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# each group may import itself and the groups before it
LAYERS = [
    ["hpd.typing", "hpd.errors"],
    [
        "hpd.allocator",
        "hpd.registry",
        "hpd.checks",
        "hpd.rng",
        "hpd.files",
        "hpd.seals",
        "hpd.locks",
        "hpd.interrupts",
    ],
    ["generators.ops"],
    ["generators", "hpd.students", "hpd.augment", "hpd.data", "hpd.device", "hpd.memory"],
    ["hpd.sources", "hpd.objectives", "hpd.artifacts"],
    ["hpd.engine", "hpd.evaluation"],
    ["hpd.theory"],
    ["hpd.config"],
    ["hpd.continual"],
    ["hpd.api"],
    ["hpd.cli", "hpd.__main__"],
]
# the seam: these do not know each other, though they stand in one layer
STRANGERS = [
    ("hpd.sources", "hpd.objectives"),
    ("hpd.objectives", "hpd.sources"),
    ("hpd.engine", "hpd.sources"),
    ("hpd.engine", "hpd.objectives"),
    ("hpd.data", "hpd.students"),
    ("hpd.augment", "hpd.students"),
    ("hpd.artifacts", "hpd.sources"),
    ("hpd.artifacts", "hpd.objectives"),
]


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
    assert own, f"{path} belongs to no layer: add it to LAYERS"
    for name in imported(path):
        assert not name.startswith(("tools", "tests"))
        other = group(name)
        if other is None:
            continue
        assert other[1] <= own[1], f"{own[0]} must not import {name}"
        assert (own[0], other[0]) not in STRANGERS, f"{own[0]} must not import {name}"


def test_only_one_module_knows_accelerate():
    users = [p for p in FILES if any(n.split(".")[0] == "accelerate" for n in imported(p))]
    assert users == [ROOT / "hpd" / "device.py"]


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
