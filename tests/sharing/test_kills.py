"""Whatever is killed, whenever: no half file looks whole, and the next one ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, TESTS
from stub_hub import WRITES, StubHub

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    pytest.importorskip("huggingface_hub")
    folder, hub = tmp_path_factory.mktemp("kills"), StubHub()
    surroundings = {
        "OMP_NUM_THREADS": "1", "HPD_OPS": "reference", "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.address, "HF_TOKEN": WRITES, "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1", "HPD_CACHE": str(folder / "cache"),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, str(TESTS / "share_kills.py"), str(folder)],
            env={**os.environ, **surroundings}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        hub.close()
    assert done.returncode == 0, done.stderr
    return hub, json.loads((folder / "report.json").read_text())


def of(killed, what):
    return [attempt for attempt in killed[1] if attempt["what"] == what]


def test_a_pack_that_is_killed_leaves_nothing_that_looks_whole(killed):
    attempts = of(killed, "pack")
    assert sum(one["killed"] for one in attempts) >= 6
    for one in attempts:
        assert one["between"] in ("nothing", "whole"), one
        assert one["after"] == "whole", one
        # a kill after it was whole leaves the place where it was made
        if one["between"] == "nothing":
            assert one["left"] == ["run.hpd"], one
    assert {one["between"] for one in attempts if one["killed"]} >= {"nothing"}


def test_a_push_that_is_killed_shows_nothing_and_is_completed(killed):
    attempts = of(killed, "push")
    *dead, alive = attempts
    assert all(one["killed"] for one in dead)
    assert not alive["killed"]
    assert len(dead) >= 8
    for one in attempts:
        assert one["between"] in ([], alive["after"]), one
        assert one["after"] == alive["after"]
    assert "SHA256SUMS" in alive["after"]


def test_what_reached_the_hub_is_not_sent_again(killed):
    sent = Counter(path for method, path in killed[0].requests if method == "PUT")
    # from pushes that were killed, and from those after them
    assert len(sent) >= 10
    assert set(sent.values()) == {1}


def test_a_pull_that_is_killed_leaves_nothing_that_looks_whole(killed):
    attempts = of(killed, "pull")
    assert sum(one["killed"] for one in attempts) >= 8
    for one in attempts:
        assert one["between"] in ("nothing", "whole"), one
        assert one["after"] == "whole", one
        if one["between"] == "nothing":
            assert one["left"] == ["theirs"], one
    # kills came before the first file and after some
    assert len({one["kept"] for one in attempts}) >= 4
