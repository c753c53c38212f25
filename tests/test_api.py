"""The Python API: the names that hpd promises, and nothing else."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
import typing

import pytest
from conftest import ROOT

import hpd

PAGE = (ROOT / "docs" / "api.md").read_text()
FUNCTIONS = [name for name in hpd.__all__ if inspect.isfunction(getattr(hpd, name))]


def test_the_page_and_the_package_name_the_same():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `hpd.")]
    assert sorted(re.findall(r"`hpd\.(\w+)`", " ".join(rows))) == sorted(hpd.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "hpd" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == hpd._HOMES
    assert sorted(seen) == sorted(hpd.__all__)


def test_no_module_takes_the_name_of_what_is_public():
    """Python sets a package's attribute to a submodule when that is imported."""
    modules = {module.name for module in pkgutil.iter_modules(hpd.__path__)}
    assert not modules & set(hpd.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_explained(name):
    function = getattr(hpd, name)
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    assert hints.keys() == parameters.keys() | {"return"}
    about = inspect.getdoc(function)
    assert about
    if len(parameters) > 1:
        for parameter in parameters:
            assert re.search(rf"^\s*(\*\*|\*)?{parameter}:", about, re.M), parameter


def test_the_example_runs(tmp_path):
    program = ROOT / "docs" / "example.py"
    text = program.read_text()
    for slow, quick in {
        "source.steps=10": "source.steps=1",
        "epochs: 100": "epochs: 2",
        "evaluation.seeds=2": "evaluation.seeds=1",
    }.items():
        assert slow in text
        text = text.replace(slow, quick)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    accuracy = re.fullmatch(r"a perceptron, .*: (\d+\.\d)% of 500 real digits", last)
    assert accuracy
    assert float(accuracy[1]) > 40
    assert (tmp_path / "exports" / "example").is_dir()
