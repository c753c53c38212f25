"""What is written whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import signal

import pytest

from hpd.artifacts.places import drafted
from hpd.disk.locks import held


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, text="a"):
    with drafted(folder) as draft:
        draft.mkdir()
        (draft / "file").write_text(text, "utf-8")


def test_a_draft_becomes_the_folder_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "new")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["file"]


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), drafted(tmp_path / "new") as draft:
        draft.mkdir()
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    child = os.fork()
    if child == 0:
        with drafted(tmp_path / "new") as draft:
            draft.mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = names(tmp_path)
    assert left.startswith(".new.")
    write(tmp_path / "other")
    assert names(tmp_path) == [left, "other"]
    write(tmp_path / "new")
    assert names(tmp_path) == ["new", "other"]


def test_a_draft_of_a_process_at_work_stays(tmp_path):
    place = tmp_path / ".new.0123abcd.draft"
    with held(place, "writes to"):
        write(tmp_path / "new")
        assert names(tmp_path) == [place.name, "new"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a.b", "[x]*", " "])
def test_any_name_of_a_folder_will_do(tmp_path, name):
    write(tmp_path / name)
    assert names(tmp_path) == [name]
