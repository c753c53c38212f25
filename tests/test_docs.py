"""The code in the documentation runs as it stands there."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_and_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    # users' own modules draw their weights from torch's global generator
    with torch.random.fork_rng(devices=[]):
        exec(compile(code, str(page), "exec"), {})
    said = re.findall(r"print\(.*\)  # (.*)$", code, re.M)
    assert capsys.readouterr().out.splitlines() == said
