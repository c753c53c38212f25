"""All tools: what the user can mend is one line."""

from __future__ import annotations

import errno
import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import Tool, tool

from hpd.errors import RunError

TOOLS = Path(__file__).parents[2] / "tools"
RUN_BY_USERS = sorted(p.stem for p in TOOLS.glob("*.py") if "__main__" in p.read_text())


@pytest.mark.parametrize("name", RUN_BY_USERS)
def test_every_tool_fails_as_the_others_do(name):
    main = importlib.import_module(name).main
    parts = main.commands.values() if isinstance(main, click.Group) else [main]
    assert all(isinstance(part, Tool) for part in parts)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunError("a is broken", fix="Give\nanother."), "RunError: a is broken. Give another."),
        (OSError(errno.ENOSPC, "No space left"), f"OSError: [Errno {errno.ENOSPC}] No space left"),
    ],
)
def test_an_error_that_can_be_mended_is_one_line(error, line):
    @tool("Fails.")
    def main():
        raise error

    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.output) == (1, f"Error: {line}\n")


def test_a_mistake_of_ours_is_not_hidden():
    @tool("Fails.")
    def main():
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        CliRunner().invoke(main, [], catch_exceptions=False)


@pytest.mark.parametrize("content", ['{"rows": [', "[]"])
def test_a_page_is_left_alone_if_its_measurements_are_broken(tmp_path, content):
    page, results = tmp_path / "page.md", tmp_path / "r.json"
    page.write_text("as it was")
    results.write_text(content)
    result = CliRunner().invoke(
        importlib.import_module("results_page").main, [str(results), str(page)]
    )
    assert result.exit_code == 1
    assert f"{results} is broken" in result.output and result.output.count("\n") == 1
    assert page.read_text() == "as it was"
