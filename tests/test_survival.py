"""The ground of runs that survive: seals, locks, signals and files that are whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from hpd.disk.files import is_leftover, remove_leftovers, write_bytes, write_tensors
from hpd.disk.locks import held
from hpd.disk.seals import digest_file, digest_json, digest_tensor, read_sealed, sealed, unsealed
from hpd.errors import RunError
from hpd.machine.interrupts import Interrupted, Interrupts, exit_code


def raise_signal(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)  # fmt: skip
def test_signals_are_raised_at_once_and_carry_an_exit_code(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, Interrupts():
        raise_signal(number)
    assert exit_code(caught.value) == code
    assert signal.getsignal(number) == before


def test_deferred_signals_wait_for_a_check_or_the_end():
    reached = []
    with pytest.raises(Interrupted), Interrupts() as interrupts, interrupts.deferred():
        interrupts.check()
        raise_signal(signal.SIGTERM)
        reached.append(interrupts.number)
        interrupts.check()
        reached.append("never")
    with pytest.raises(Interrupted), Interrupts() as interrupts, interrupts.deferred():
        raise_signal(signal.SIGTERM)
        reached.append("end")
    assert reached == [signal.SIGTERM, "end"]


def test_a_second_signal_is_raised_at_once():
    reached = []
    with pytest.raises(Interrupted), Interrupts() as interrupts, interrupts.deferred():
        raise_signal(signal.SIGINT)
        reached.append("first")
        raise_signal(signal.SIGINT)
        reached.append("never")
    assert reached == ["first"]


def test_a_signal_that_comes_twice_is_one_where_that_is_expected():
    """The terminal tells every process, and the launcher passes it on to them."""
    reached = []
    repeated = Interrupts(repeated=True)
    with pytest.raises(Interrupted) as caught, repeated as interrupts, interrupts.deferred():
        raise_signal(signal.SIGINT)
        raise_signal(signal.SIGTERM)
        reached.append(interrupts.number)
        interrupts.check()
    assert reached == [signal.SIGINT]
    assert exit_code(caught.value) == 130


def test_an_error_is_not_hidden_by_a_signal_that_waits():
    with pytest.raises(RunError), Interrupts() as interrupts, interrupts.deferred():
        raise_signal(signal.SIGTERM)
        raise RunError("the disk is full")


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_happens_outside_of_the_main_thread():
    before, errors = signal.getsignal(signal.SIGTERM), []

    def other():
        try:
            with Interrupts() as interrupts, interrupts.deferred():
                assert signal.getsignal(signal.SIGTERM) == before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors == []


def held_elsewhere(path, **options):
    """A process that holds a folder until it is ended; returns when it does."""
    code = (
        "import sys, time; from pathlib import Path; from hpd.disk.locks import held\n"
        "with held(Path(sys.argv[1]), 'distil into'):\n"
        "    print('holds', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline() == "holds\n"
    return process


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "new" / "folder"
    process = held_elsewhere(path)
    try:
        with pytest.raises(RunError) as refused, held(path, "evaluate"):
            pass
        said = str(refused.value)
        assert said.startswith(f"cannot evaluate {path}: another process works in it")
        if Path("/proc/locks").exists():
            assert f"got process {process.pid} (" in said
            assert sys.executable[:20] in said
            assert f"end it: `kill {process.pid}`" in said
        assert "\n" not in said
    finally:
        process.kill()
        process.wait()
    # nothing is left of a process that was killed
    with held(path, "evaluate"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to"), held(tmp_path / "file", "evaluate"):
        pass


def test_who_lends_a_folder_may_borrow_it(tmp_path):
    def borrow():
        with held(tmp_path, "evaluate", borrows=True):
            pass

    def refused(call, errors):
        try:
            call()
        except RunError as error:
            errors.append(str(error))

    errors = []
    with held(tmp_path, "distil into", lends=True):
        borrow()
        # who does not ask for it, and another thread, are others still
        with pytest.raises(RunError, match="another"), held(tmp_path, "distil into"):
            pass
        thread = threading.Thread(target=refused, args=(borrow, errors))
        thread.start()
        thread.join()
        borrow()
    assert len(errors) == 1
    with held(tmp_path, "distil into"):
        refused(borrow, errors)
    assert len(errors) == 2
    borrow()


def test_seals_show_any_change():
    content = {"a": [1, 2.5], "b": None, "c": "é"}
    assert unsealed(sealed(content)) == content
    assert digest_json({"b": (1,), "a": 2}) == digest_json({"a": 2, "b": [1]})
    for change in ({"a": [1, 2]}, {"b": 0}, {"c": "e"}, {"d": 1}):
        with pytest.raises(ValueError, match="changed"):
            unsealed(sealed(content) | change)
    with pytest.raises(KeyError):
        unsealed(content)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '"x"', "{" * 100_000, '{"sha256": 1}'])
def test_what_is_not_sealed_is_refused_in_one_way(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ValueError):
        read_sealed(tmp_path / "file")


def test_digests_tell_values_shapes_and_dtypes_apart():
    tensors = [
        torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), torch.ones(4),
        torch.zeros(4, dtype=torch.bfloat16), torch.zeros(0), torch.zeros(()),
    ]  # fmt: skip
    assert len({digest_tensor(tensor) for tensor in tensors}) == len(tensors)
    assert digest_tensor(torch.ones(2, 3).T) == digest_tensor(torch.ones(3, 2))


def test_a_file_is_digested_whole_or_its_beginning(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 500_000)
    beginning = tmp_path / "beginning"
    beginning.write_bytes(b"abc" * 400_000)
    assert digest_file(path, 1_200_000) == digest_file(beginning)
    assert digest_file(path) != digest_file(beginning)
    digest = write_tensors(path, {"x": torch.ones(3)})
    assert digest == digest_file(path)


def test_leftovers_are_what_write_bytes_leaves_and_nothing_else(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.extend(tmp_path.iterdir()))
    write_bytes(tmp_path / "file.json", b"x")
    assert is_leftover(seen[0].name)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / seen[0].name).touch()
    for name in (".config", ".part", "file.part", ".file.a.part", ".notes.abcdefgh"):
        (tmp_path / name).touch()
    before = sorted(p.name for p in tmp_path.iterdir())
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert list((tmp_path / "below").iterdir()) == []
