from __future__ import annotations

import shutil

import pytest
from sharing_config import CONFIG
from stub_hub import WRITES, StubHub

import hpd


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A run in few bits that was evaluated. Not to be changed: `run` is a copy."""
    folder = tmp_path_factory.mktemp("shared") / "digits-0"
    hpd.evaluate(hpd.distill(CONFIG, out=folder))
    return folder


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "digits-0")


@pytest.fixture(scope="session")
def packed(original, tmp_path_factory):
    """What it was packed to. Not to be changed."""
    return hpd.pack(original, tmp_path_factory.mktemp("packed") / "digits-0.hpd").path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on the loopback, at which who asks may write."""
    constants = pytest.importorskip("huggingface_hub.constants")
    stub = StubHub()
    # what HF_ENDPOINT says where the library is imported after it was set
    template = stub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", stub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # as it is where the library was imported before a test of other things went offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setenv("HPD_CACHE", str(tmp_path / "cache"))
    yield stub
    stub.close()
