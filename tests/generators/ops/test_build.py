"""Libraries of native operations: made once, whole, by one process at a time, whatever happens."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import signal

import pytest
from compilers import Bench, Builder

from generators.ops import build as builds
from generators.ops.build import (
    FailedBeforeError,
    build,
    clean,
    find_failure,
    find_library,
    telling_lines,
)
from hpd.errors import OpsError

ERROR = "kernel.cpp:7:3: error: expected ';' before 'return'"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_a_library_is_made_of_all_sources_once(bench):
    library = build(bench.recipe())
    assert library.parent.parent == bench.cache / "ops"
    assert library.read_text() == "// one\n// two\n"
    assert len(bench.calls()) == 3
    assert build(bench.recipe()) == library == find_library(bench.recipe())
    assert len(bench.calls()) == 3
    assert not bench.leftovers()


def test_odd_names_are_quoted(tmp_path, monkeypatch):
    folder = tmp_path / "it's $HOME : a (b)"
    folder.mkdir()
    bench = Bench(folder, monkeypatch)
    # the script takes what lies in folders with spaces apart, a compiler would not
    bench.set_compiler('printf "%s" "$inputs" > "$out"; exit')
    monkeypatch.setenv("CXX", shlex.quote(str(folder / "compiler")))
    assert build(bench.recipe()).is_file()
    assert f"{folder}/csrc/cpu/one.cpp" in "\n".join(bench.calls())


def change_source(bench):
    (bench.csrc / "cpu" / "one.cpp").write_text("// 1\n")


def change_header(bench):
    (bench.csrc / "common.h").write_text("// new\n")


def change_name(bench):
    (bench.csrc / "cpu" / "one.cpp").rename(bench.csrc / "cpu" / "three.cpp")


def change_compiler(bench):
    bench.set_compiler(version="1.1")


@pytest.mark.parametrize("change", [change_source, change_header, change_name, change_compiler])
def test_what_changes_a_library_changes_its_key(bench, change):
    before = bench.recipe().key
    change(bench)
    assert bench.recipe().key != before


def test_the_key_knows_torch_and_flags_but_no_folders(bench, tmp_path, monkeypatch):
    from generators.ops import toolchain

    before = bench.recipe().key
    moved = tmp_path / "moved"
    bench.csrc.rename(moved)
    monkeypatch.setattr(toolchain, "CSRC", moved)
    monkeypatch.setattr(toolchain, "_TORCH", tmp_path)
    assert bench.recipe().key == before
    monkeypatch.setattr(toolchain.torch, "__version__", "2.0.0")
    other_torch = bench.recipe().key
    monkeypatch.setattr(toolchain, "_CPU_FLAGS", (*toolchain._CPU_FLAGS, "-DX"))
    assert len({before, other_torch, bench.recipe().key}) == 3


def truncate(library):
    library.write_bytes(library.read_bytes()[:-1])


def flip(library):
    library.write_bytes(library.read_bytes()[:-1] + b"x")


def lose_record(library):
    (library.parent / "record.json").unlink()


def break_record(library):
    (library.parent / "record.json").write_text("{")


def lose_library(library):
    library.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, lose_record, break_record, lose_library])
def test_a_damaged_library_is_made_again(bench, damage):
    library = build(bench.recipe())
    content = library.read_bytes()
    damage(library)
    assert find_library(bench.recipe()) is None
    assert build(bench.recipe()) == library
    assert library.read_bytes() == content
    assert len(bench.calls()) == 6
    assert not bench.leftovers()


@pytest.mark.parametrize("moment", ["_ninja_file", "compiler", "_keep", "_describe"])
def test_a_killed_build_leaves_nothing_that_blocks_the_next(bench, moment):
    if moment == "compiler":
        bench.set_compiler("kill -9 $BUILDER; exit 1")
    assert Builder(None if moment == "compiler" else moment).end() == -signal.SIGKILL
    assert bench.leftovers()
    assert find_library(bench.recipe()) is None
    bench.set_compiler()
    # at once: the lock went with its holder
    assert build(bench.recipe(), limit_seconds=30).is_file()
    assert not bench.leftovers()


def test_of_two_processes_the_second_takes_what_the_first_made(bench):
    ready, go = bench.folder / "ready", bench.folder / "go"
    os.mkfifo(ready)
    os.mkfifo(go)
    bench.set_compiler(f"case $inputs in *one.cpp) echo > '{ready}'; read x < '{go}';; esac")
    first = Builder(None)
    assert "building" in first.hear()
    # either end waits until the other has opened it, too
    ready.read_text()
    second = Builder(None)
    assert "waiting for another process" in second.hear()
    go.write_text("\n")
    assert first.hear() == second.hear() == str(find_library(bench.recipe()))
    assert first.end() == second.end() == 0
    assert len(bench.calls()) == 3


def test_waiting_for_another_process_has_an_end(bench):
    recipe = bench.recipe()
    (bench.cache / "ops").mkdir(parents=True)
    with (bench.cache / "ops" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OpsError, match=r"another process .* 0 s\. End it; it holds /.*\.lock"):
            build(recipe, limit_seconds=0.1)
    assert build(recipe).is_file()


def test_a_compiler_that_hangs_is_ended_with_its_children(bench):
    fifo = bench.folder / "fifo"
    os.mkfifo(fifo)
    bench.set_compiler(f"read x < '{fifo}'")
    with pytest.raises(OpsError, match="too long to compile: got more than 0 s"):
        build(bench.recipe(), limit_seconds=0.3)
    with pytest.raises(OSError, match="No such device") as caught:
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO  # nobody reads
    assert not bench.leftovers()
    assert find_failure(bench.recipe()) is None


def test_a_failed_build_is_remembered_until_it_is_asked_for(bench):
    bench.break_compiler("In file included from a.h:", ERROR, "  7 |   return")
    with pytest.raises(OpsError) as first:
        build(bench.recipe())
    # sources fail side by side
    assert first.value.lines[:2] == (ERROR, "  7 |   return")
    assert "do not compile with" in str(first.value)
    tried = len(bench.calls())
    with pytest.raises(FailedBeforeError, match="'hpd ops build' tries again") as second:
        build(bench.recipe())
    assert second.value.lines == first.value.lines
    assert len(bench.calls()) == tried
    with pytest.raises(OpsError):
        build(bench.recipe(), retry=True)
    assert len(bench.calls()) > tried
    bench.set_compiler()
    assert build(bench.recipe(), retry=True).is_file()
    assert find_failure(bench.recipe()) is None
    assert not bench.leftovers()


def test_sources_that_change_meanwhile_leave_no_library(bench):
    recipe = bench.recipe()
    bench.set_compiler(f"echo >> '{bench.csrc}/cpu/one.cpp'")
    with pytest.raises(OpsError, match="changed while they were built"):
        build(recipe)
    assert find_library(recipe) is None
    assert find_failure(recipe) is None
    bench.set_compiler()
    assert build(bench.recipe()).is_file()


@pytest.mark.parametrize(
    "fault",
    ["fatal error: cannot write 'x.o': No space left on device",
     "c++: fatal error: Killed signal terminated program cc1plus"],
)  # fmt: skip
def test_a_fault_of_the_machine_is_not_remembered(bench, fault):
    bench.break_compiler(fault)
    with pytest.raises(OpsError) as caught:
        build(bench.recipe())
    assert caught.value.lines[0] == fault
    bench.set_compiler()
    assert build(bench.recipe()).is_file()


def test_the_first_error_is_told():
    output = [
        "ninja: Entering directory `/x'", "[1/3] g++ -c a.cpp -o 0.o", "a.cpp:1: warning: odd",
        "FAILED: 1.o", "g++ -DNO_ERROR -c b.cpp -o error.o", "In file included from b.cpp:2:",
        ERROR, *[f"note {i}" for i in range(20)], "ninja: build stopped: subcommand failed.",
    ]  # fmt: skip
    assert telling_lines("\n".join(output)) == [ERROR, *[f"note {i}" for i in range(9)]]
    assert telling_lines("one\n\ntwo\n") == ["one", "two"]
    assert telling_lines("/bin/sh: g++: not found")
    assert telling_lines("") == []


def no_folder(bench, monkeypatch):
    file = bench.folder / "file"
    file.touch()
    monkeypatch.setenv("HPD_CACHE", str(file))


def not_writable(bench, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (bench.cache / "ops").mkdir(parents=True)
    (bench.cache / "ops").chmod(0o555)


def full(bench, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builds, "write_json", fail)


@pytest.mark.parametrize("fault", [no_folder, not_writable, full])
def test_a_cache_that_cannot_be_written_is_one_clear_error(bench, monkeypatch, fault):
    fault(bench, monkeypatch)
    with pytest.raises(OpsError, match=r"cannot be kept: got .*\. Free .* HPD_CACHE\.$"):
        build(bench.recipe())
    assert find_library(bench.recipe()) is None
    assert not bench.leftovers()


def test_cleaning_keeps_what_is_in_use(bench):
    old = build(bench.recipe())
    bench.break_compiler(ERROR)
    change_source(bench)
    with pytest.raises(OpsError):
        build(bench.recipe())
    change_header(bench)
    bench.set_compiler()
    current = build(bench.recipe())
    (bench.cache / "ops" / ".building-killed").mkdir()
    assert clean() == 1
    assert current.is_file()
    assert not old.parent.exists()
    assert {path.name for path in (bench.cache / "ops").iterdir()} == {".lock", bench.recipe().key}
    assert clean() == 0


def test_cleaning_nothing_is_fine(bench):
    assert clean() == 0
    assert not bench.cache.exists()


def test_the_cache_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv("HPD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builds.cache_folder() == tmp_path / "hpd" / "ops"
