"""Whatever surroundings a program is started in: it works, or says in one line why not."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SMALL_STUDENT
from safetensors.torch import load_file
from small_runs import SMALL_EVALUATION
from surroundings import FULL, HPD, lines, needs_full, posix, start

import hpd
from hpd.disk.cache import cache_folder
from hpd.disk.files import is_leftover, write_bytes
from hpd.disk.locks import held
from hpd.errors import RunError

CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1"]},
    "device": "cpu",
    "source": {"kind": "pixel", "steps": 2},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8},
    "selection": {"kind": "last"},
    "evaluation": SMALL_EVALUATION | {"seeds": 1, "training": {"epochs": 1}},
}


# folders


@posix
@pytest.mark.parametrize("arguments", [["configs"], ["distill", "digits", "--out", "/nowhere"]])
def test_a_folder_that_is_gone_is_one_line(tmp_path, arguments):
    folder = tmp_path / "gone"
    folder.mkdir()
    shell = ["sh", "-c", 'rmdir "$PWD"; exec "$0" -m hpd "$@"', sys.executable, *arguments]
    ended = start(shell, cwd=folder)
    assert ended.returncode == 2
    assert lines(ended.stderr) == [
        "hpd: the folder that it was started in is gone. Change to another one."
    ]


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    """A user without a home, not even in the system's list of users."""

    def unknown(*arguments):
        raise KeyError("uid not found")

    for name in ("HOME", "HPD_CACHE", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"hpd-{os.getuid()}"


@posix
def test_without_a_home_the_cache_is_private_among_temporary_files(no_home):
    assert cache_folder("rows") == no_home / "rows"
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert cache_folder("ops") == no_home / "ops"


@posix
@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("value", ["", "relative"])
def test_an_empty_or_relative_home_is_none(no_home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert cache_folder("rows") == no_home / "rows"


@posix
@pytest.mark.parametrize("taken", ["open", "file", "link"])
def test_libraries_are_never_loaded_from_where_others_may_write(no_home, tmp_path, taken):
    if taken == "open":
        no_home.mkdir()
        no_home.chmod(0o777)
    elif taken == "file":
        no_home.write_bytes(b"")
    else:
        (tmp_path / "other").mkdir(mode=0o700)
        no_home.symlink_to(tmp_path / "other")
    with pytest.raises(NotADirectoryError):
        cache_folder("ops").mkdir(parents=True)


@posix
def test_a_cache_named_by_the_home_of_nobody_is_a_folder_like_any_other(
    no_home, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPD_CACHE", "~nobody-of-this-name/cache")
    assert cache_folder("rows") == tmp_path / "~nobody-of-this-name" / "cache" / "rows"


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o000, 0o666), (0o027, 0o640)])
def test_files_are_made_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_writing_leaves_the_umask_of_other_threads_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changed for all threads"))
    write_bytes(tmp_path / "file", b"x")


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127])
def test_a_file_of_the_longest_name_is_written_whole(tmp_path, name, monkeypatch):
    seen, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (seen.append(a.name), replace(a, b)))
    write_bytes(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert is_leftover(seen[0])


@posix
def test_a_folder_that_could_not_be_read_again_is_refused(tmp_path):
    name = os.fsdecode(b"run\xff")
    with (
        pytest.raises(RunError, match=r"is not UTF-8: got '.*run\\udcff'"),
        held(tmp_path / name, "x"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# the interpreter

SOURCES = sorted([*(ROOT / "hpd").rglob("*.py"), *(ROOT / "generators").rglob("*.py")])


def calls(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            yield node, name or getattr(node.func, "id", "")


def test_text_is_read_and_written_in_an_encoding_that_is_named():
    """Else it is that of the locale, in which names may not exist, or are others."""
    place = {"read_text": 0, "write_text": 1}
    found = []
    for path in SOURCES:
        for node, name in calls(path):
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
            text = any(isinstance(m, str) and m in {"r", "w", "a", "x", "rt", "wt"} for m in modes)
            unnamed = name in place and len(node.args) <= place[name]
            if not named and (unnamed or (name in {"open", "fdopen"} and text)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


def test_nothing_rests_on_an_assert():
    """Under `python -O` there is none: they only tell the type checker what is known."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assert):
                called = [n for n in ast.walk(node.test) if isinstance(n, ast.Call)]
                if any(getattr(call.func, "id", "") != "isinstance" for call in called):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_no_process_is_started_that_would_import_the_script_again():
    """A script without `if __name__ == "__main__"` would run twice."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            wrong = ("multiprocessing", "concurrent.futures.process", "torch.multiprocessing")
            assert not [name for name in names if name.startswith(wrong)], path


# a run


def digest(images):
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def wanted():
    """The images that a run gives in the surroundings of these tests, with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield hpd.distill(CONFIG).distilled.images
    torch.set_num_threads(before)


@needs_full
def test_a_run_is_the_same_in_the_worst_of_surroundings(wanted, tmp_path):
    """No home, warnings as errors, no docstrings, leftovers of a scheduler, nowhere to speak."""
    folder, run = tmp_path / "größe", tmp_path / "größe" / "[bold] läuft"
    folder.mkdir()
    (folder / "k.yaml").write_text(yaml.safe_dump(CONFIG), "utf-8")
    changes = {
        "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "ascii", "TERM": "dumb",
        "COLUMNS": "1", "NO_COLOR": "1", "HOME": "/nonexistent", "TMPDIR": "/nonexistent",
        "HPD_CACHE": str(folder / "k.yaml"), "HPD_OPS": "reference", "LC_ALL": "C",
        "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "",
    }  # fmt: skip
    with FULL.open("wb") as full:
        ended = start(
            [*HPD, "distill", str(folder / "k.yaml"), "--out", str(run)],
            changes=changes, removed=("LANG", "USER", "LOGNAME", "XDG_CACHE_HOME"),
            stdout=full, umask=0o077,
        )  # fmt: skip
    *remarks, last = lines(ended.stderr)
    assert last == "hpd: cannot write to standard output: No space left on device"
    assert all("teach a" in line or "test images" in line for line in remarks)
    assert ended.returncode == 2
    assert torch.equal(load_file(run / "distilled.safetensors")["images"], wanted)
    assert json.loads((run / "evaluation.json").read_text("utf-8"))["rows"]
    assert (run / "distilled.safetensors").stat().st_mode & 0o777 == 0o600


def test_half_a_launch_ends_a_run_before_it_begins(tmp_path):
    ended = start(
        [*HPD, "distill", "digits-pixel-dm", "--out", "run"],
        changes={"WORLD_SIZE": "2"}, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 2
    assert len(lines(ended.stderr)) == 1
    assert ended.stderr.startswith(b"hpd: ProcessError: WORLD_SIZE=2 in the environment")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_fork_does_not_wait_for_threads_of_its_parent():
    """Their parent has computed with several, which it has none of."""
    code = (
        "import os, signal, sys, torch\n"
        "torch.set_num_threads(2)\n"
        "import hpd.machine.device\n"
        "size = 2 ** 22\n"
        "torch.ones(size).exp().sum()\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(100)\n"
        "    torch.ones(size).exp().sum()\n"
        "    os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    ended = start([sys.executable, "-c", code], changes={"OMP_NUM_THREADS": "2"}, timeout=120)
    assert ended.returncode == 7, ended.stderr


def in_a_thread(results, work, *arguments):
    def run():
        try:
            results.append(work(*arguments))
        except BaseException as error:
            results.append(error)

    return threading.Thread(target=run)


def test_two_threads_at_once_come_to_what_one_does(wanted, tmp_path):
    results = []

    def work(name):
        run = hpd.distill(CONFIG, out=tmp_path / name)
        rows = hpd.evaluate(run).rows
        return digest(run.distilled.images), [row.accuracy_mean for row in rows]

    threads = [in_a_thread(results, work, name) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert results[0] == (digest(wanted), work("c")[1])


def test_two_threads_do_not_write_to_one_folder(tmp_path):
    results = []
    with held(tmp_path / "run", "distils into"):
        thread = in_a_thread(results, lambda: hpd.distill(CONFIG, out=tmp_path / "run"))
        thread.start()
        thread.join()
    assert isinstance(results[0], RunError)
    assert "another process works in it" in str(results[0])


def test_a_loop_of_events_may_be_running(wanted, tmp_path):
    async def main():
        run = hpd.distill(CONFIG, out=tmp_path / "run")
        return digest(run.distilled.images), hpd.report(run, out=tmp_path / "report.html")

    found, report = asyncio.run(main())
    assert found == digest(wanted)
    assert report.stat().st_size
