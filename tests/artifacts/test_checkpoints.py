"""Checkpoints: whole or not there after any kill, and known when they were changed."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
import torch
from kills import count_events, die_at

from hpd.artifacts.checkpoints import FORMAT, Checkpoint, CheckpointFolder
from hpd.disk.files import write_json
from hpd.disk.seals import read_sealed, sealed
from hpd.errors import RunError
from hpd.typing import Step

EVENTS_OF_A_WRITE = 7


def checkpoint(stage, index):
    rng = torch.Generator().manual_seed(100 * stage + index)
    return Checkpoint(Step(stage, index), {"x": torch.randn(3, generator=rng)}, {"seen": index})


@pytest.fixture
def folder(tmp_path):
    """Three were written, so two are there."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for stage, index in ((0, 2), (0, 10), (1, 0)):
        folder.write(checkpoint(stage, index))
    return folder


def names(folder):
    return sorted(p.name for p in folder.path.iterdir())


def same(one, other):
    return one.step == other.step and torch.equal(one.loaded().tensors["x"], other.tensors["x"])


def test_the_last_two_are_kept_and_come_back_to_the_bit(folder):
    assert names(folder) == [
        "step-00-000010.json", "step-00-000010.safetensors",
        "step-01-000000.json", "step-01-000000.safetensors",
    ]  # fmt: skip
    newest = folder.newest()
    assert same(newest, checkpoint(1, 0))
    assert newest.about["seen"] == 0
    folder.keep(1)
    assert len(names(folder)) == 2


def test_they_are_in_the_order_of_the_run_not_of_their_names(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for stage, index in ((99, 999_999), (99, 1_000_000), (100, 0), (100, 5)):
        folder.write(checkpoint(stage, index))
    assert [name[:-5] for name in names(folder) if name.endswith("json")] == [
        "step-100-000000", "step-100-000005"
    ]  # fmt: skip
    assert folder.newest().step == Step(100, 5)


def test_an_empty_folder_has_none(tmp_path):
    assert CheckpointFolder(tmp_path / "nowhere").newest() is None


@pytest.mark.parametrize("name", ["step-01-000000.json", "step-01-000000.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_a_broken_one_is_left_out_and_the_one_before_taken(folder, name, damage, caplog):
    path = folder.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"flip": content, "truncate": content[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert same(folder.newest(), checkpoint(0, 10))
    assert names(folder) == ["step-00-000010.json", "step-00-000010.safetensors"]
    # without its JSON it never was a checkpoint
    if (name, damage) != ("step-01-000000.json", "missing"):
        (line,) = caplog.messages
        assert line.startswith("checkpoint step-01-000000 is broken and left out: ")


def test_every_byte_counts(folder):
    for name in ("step-01-000000.json", "step-01-000000.safetensors"):
        whole = (folder.path / name).read_bytes()
        for i in range(len(whole)):
            changed = bytearray(whole)
            changed[i] ^= 1 << (i % 8)
            (folder.path / name).write_bytes(changed)
            try:
                read = folder.read("step-01-000000")
            except (ValueError, KeyError, TypeError, OSError):
                continue
            # such as a capital letter in an escape: the content is the same
            assert same(read, checkpoint(1, 0)), (name, i)
            assert read.about["seen"] == 0
        (folder.path / name).write_bytes(whole)


def test_one_of_a_newer_version_is_refused_and_kept(folder):
    path = folder.path / "step-01-000000.json"
    write_json(path, sealed(read_sealed(path) | {"format": FORMAT + 1}))
    before = names(folder)
    with pytest.raises(RunError, match=r"newer version of hpd: got format 3, expected at most 2"):
        folder.newest()
    assert names(folder) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("event", range(1, EVENTS_OF_A_WRITE + 2))
def test_a_kill_at_any_moment_of_a_write_leaves_whole_ones_only(folder, event, caplog):
    """Between any two changes of files: temporary ones, renames, deletions."""
    child = os.fork()
    if child == 0:
        count_events(folder.path, die_at(event))
        folder.write(checkpoint(1, 2))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status)
    assert died == (event <= EVENTS_OF_A_WRITE)
    assert not died or os.WTERMSIG(status) == signal.SIGKILL
    written = (folder.path / "step-01-000002.json").exists()
    with caplog.at_level(logging.WARNING):
        newest = folder.newest()
    assert caplog.messages == []
    assert same(newest, checkpoint(1, 2) if written else checkpoint(1, 0))
    # the one before is whole, too, so there are always two
    assert same(folder.read(folder._names()[-2]), checkpoint(*((1, 0) if written else (0, 10))))
    stems = {json.loads((folder.path / f"{n}.json").read_text())["seen"] for n in folder._names()}
    assert stems <= {0, 2, 10}
    visible = {name.split(".")[0] for name in names(folder) if not name.startswith(".")}
    assert visible == set(folder._names())


def test_a_full_disk_leaves_the_ones_before(folder, monkeypatch):
    before = {name: (folder.path / name).read_bytes() for name in names(folder)}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write(checkpoint(1, 2))
    assert {name: (folder.path / name).read_bytes() for name in names(folder)} == before
