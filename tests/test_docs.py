"""The documentation tells the truth: commands and snippets run, links and names are there."""

from __future__ import annotations

import contextlib
import io
import pydoc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT
from own_modules import Elsewhere

from hpd.cli import main
from hpd.engine import SELECTORS
from hpd.objectives import OBJECTIVES
from hpd.sources import SOURCES

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
# what makes a command quick without changing what it shows
QUICK = [
    "selection=last", "evaluation.seeds=1", "evaluation.full_training=null",
    "evaluation.students=[{kind: convnet, width: 8, depth: 1}]", "evaluation.training={epochs: 1}",
    "objective.student={kind: convnet, width: 8, depth: 1}", "source.steps=1",
]  # fmt: skip
QUICKER = {
    "distill": QUICK,
    "experts": QUICK[5:6],
    "theory": ["seeds=1", "ranks=[2]", "point_counts=[9]", "example_counts=[20000]",
               "real_counts=[9]"],
    "continual": ["orders=1", "data.classes=['0', '1', '3', '7']", "buffers={random: random}",
                  "rehearsal={seeds: 1, students: [{kind: convnet, width: 8, depth: 1}],"
                  " training: {epochs: 1}}"],
}  # fmt: skip
BUILT_BEFORE = ("hpd ops build",)
# what they start is run here, in one process: see test_processes.py
LAUNCHERS = ("accelerate", "torchrun")


def blocks(page):
    """The fenced blocks of bash and Python in order: language, file that it is a part of, text."""
    fence = r'^```(bash|python)(?: title="(\w+\.py)")?\n(.*?)^```'
    return re.findall(fence, (DOCS / page).read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_commands_and_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    there, names = Elsewhere(tmp_path, monkeypatch), {}
    there.forget()
    # as where Python is started in the folder
    sys.path.insert(0, str(tmp_path))
    with torch.random.fork_rng(devices=[]), contextlib.ExitStack() as stack:
        stack.callback(there.forget)
        for language, file, text in blocks(page):
            if file:
                with (tmp_path / file).open("a") as part:
                    part.write(text + "\n\n")
                continue
            if language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(text, page, "exec"), names)
                said = re.findall(r"print\(.*\)  # (.*)$", text, re.M)
                assert printed.getvalue().splitlines() == said
                continue
            for line in text.splitlines():
                run(line)


def run(line):
    words = shlex.split(line, comments=True)
    if not words or line.startswith(BUILT_BEFORE):
        return
    if words[0] in LAUNCHERS:
        assert words[words.index("-m") + 1] == "hpd", line
        words = words[words.index("hpd") :]
    assert words[0] == "hpd", line
    quicker = QUICKER.get(words[1], [])
    # what the page sets itself comes last, and wins
    arguments = [*words[1:3], *quicker, *words[3:]]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("pages", "registry"),
    [("sources/{}", SOURCES), ("objectives/{}", OBJECTIVES), ("selectors", SELECTORS)],
)
def test_every_kind_has_a_page_with_its_options(pages, registry):
    for kind in registry:
        name = pages.format(kind)
        page = DOCS / f"{name}.md"
        assert page.is_file(), f"docs/{name}.md is missing"
        settings = registry[kind]
        assert f"<!-- options: {settings.__module__}.{settings.__name__} -->" in page.read_text()


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "sources" / "gan" / "index.html").read_text()
    assert "levels to optimise, ascending; one level is GLaD" in page
    # nobody is asked for anything when a page is read
    assert not re.findall(r"""(?:src|href)=["']https?://(?:fonts|cdn|unpkg)""", page)


def test_every_word_is_the_name_of_something():
    names = re.findall(r"`((?:hpd|generators)\.[\w.]+)`", (DOCS / "concepts.md").read_text())
    assert len(names) > 20
    assert [name for name in names if pydoc.locate(name) is None] == []


def test_every_page_is_in_the_navigation():
    def leaves(node):
        if isinstance(node, dict):
            return [leaf for value in node.values() for leaf in leaves(value)]
        return (
            [leaf for part in node for leaf in leaves(part)] if isinstance(node, list) else [node]
        )

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(leaves(config["nav"])) == PAGES
    assert all((DOCS / page).is_file() for page in PAGES)
    assert Path(DOCS / config["hooks"][0].removeprefix("docs/")).is_file()


def test_the_page_of_the_tools_lists_them_all():
    listed = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "tools/README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "tools").glob("*.py"))
