"""The README tells the truth: its example runs, its commands exist, its files are there."""

from __future__ import annotations

import doctest
import re

import pytest
import yaml
from conftest import ROOT

from hpd.cli import main
from hpd.given import bundled_configs

README = re.sub(r"<!-- accuracy.*?-->|<!-- end -->", "", (ROOT / "README.md").read_text())


@pytest.mark.slow
def test_the_python_example_keeps_the_promise(tmp_path, monkeypatch):
    """The main job from a bundled configuration: its accuracy against random real images."""
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert tried >= 4
    assert failed == 0


def test_pictures_are_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_commands_exist():
    named = set(re.findall(r"\bhpd ([a-z]+)\b", "\n".join(re.findall(r"```.*?```", README, re.S))))
    assert named
    assert named <= set(main.commands)


def test_named_configs_exist():
    named = set(re.findall(r"`(digits[a-z-]*)`", README)) - {"digits"}
    assert named
    assert named <= set(bundled_configs())


def test_the_table_is_that_of_the_config():
    """The numbers in the README are those in the header of the config that made them."""
    header = bundled_configs()["digits"].read_text()
    rows = re.findall(
        r"^\| ([a-z ,]+?) \|.*\| (\d+\.\d) ± (\d+\.\d) \|$",
        README.partition("The same table")[0],
        re.M,
    )
    assert [row[0] for row in rows] == [
        "distilled", "initial", "random real", "random real bits", "prior samples", "full",
    ]  # fmt: skip
    for _, mean, std in rows:
        assert f"{mean} +- {std}" in header
    assert yaml.safe_load(header)["description"]
