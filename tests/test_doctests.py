"""Every example in a docstring says what comes out."""

from __future__ import annotations

import doctest
import importlib

import pytest
from conftest import ROOT

# what a program imports by its bare name
PROGRAMS = ROOT / "tools"
MODULES = [
    ".".join(path.relative_to(PROGRAMS if folder == "tools" else ROOT).with_suffix("").parts)
    for folder in ("hpd", "generators", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_modules(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert failed == 0
