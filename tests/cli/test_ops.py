"""`hpd ops`: what it prints, and how it fails."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from compilers import Bench

from generators.ops import toolchain
from generators.ops.build import find_library
from hpd.cli import main

ERRORS = ["a.cpp:1: error: unknown type 'flaot'", "    1 | flaot x;", "      | ^~~~~"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(toolchain, "wants_cuda", lambda: False)
    return Bench(tmp_path, monkeypatch)


def ops(*arguments):
    return CliRunner().invoke(main, ["ops", *arguments])


def test_build_says_what_was_built_with_what(bench):
    done = ops("build")
    assert done.exit_code == 0
    first, last = done.stdout.splitlines()
    assert first.startswith(f"cpu: {bench.folder / 'compiler'} 1.0 -std=")
    assert last == f"cpu: {find_library(bench.recipe())}"
    assert ops("build", "--device", "cpu").stdout == done.stdout


def test_build_shows_the_compilers_lines_then_one_of_its_own(bench):
    (bench.csrc / "cpu" / "two.cpp").unlink()
    bench.break_compiler(*ERRORS)
    done = ops("build")
    assert done.exit_code == 2
    *said, last = done.stderr.splitlines()
    assert said[-3:] == ERRORS
    assert last.startswith("hpd: OpsError: native operations for cpu do not compile with ")
    assert not set(ERRORS) & set(last.split("\n"))
    tried = len(bench.calls())
    assert ops("build").exit_code == 2
    assert len(bench.calls()) > tried
    bench.set_compiler()
    assert ops("build").exit_code == 0


def test_build_removes_what_is_old_if_asked(bench):
    ops("build")
    old = find_library(bench.recipe())
    (bench.csrc / "cpu" / "one.cpp").write_text("// changed\n")
    assert ops("build").exit_code == 0
    assert old.is_file()
    done = ops("build", "--clean")
    assert done.stdout.splitlines()[-1] == "old libraries removed: 1"
    assert not old.exists()
    assert find_library(bench.recipe())


def test_both_are_built_where_there_is_cuda(bench, monkeypatch):
    monkeypatch.setattr(toolchain, "wants_cuda", lambda: True)
    done = ops("build")
    # there are no sources for CUDA here
    assert done.exit_code == 2
    assert done.stdout.splitlines()[-1] == f"cpu: {find_library(bench.recipe())}"
    assert "no sources of native operations for cuda" in done.stderr.splitlines()[-1]


def told(stdout):
    """What is told of each type of device, name by name, and the lines below all of it."""
    head, *blocks = stdout.rstrip("\n").split("\n\n")
    assert head == "HPD_OPS=auto (of auto, native, reference)"
    found = {}
    for block in blocks[:2]:
        first, *lines = block.splitlines()
        device, path = first.split()
        pairs = (line.strip().split(None, 1) for line in lines)
        found[device] = {"path": path} | {pair[0]: pair[1] for pair in pairs}
    return found, blocks[2:]


def test_status_tells_all_in_a_few_lines(bench, monkeypatch):
    ops("build")
    found, below = told(ops("status").stdout)
    cpu = found["cpu"]
    assert [*cpu] == ["path", "by", "why", "library", "compiler", "flags", "scales"]
    assert (cpu["path"], cpu["why"]) == ("native", "built")
    assert cpu["by"] == "a library that a compiler makes once"
    assert cpu["library"] == str(find_library(bench.recipe()))
    assert cpu["scales"] == "of planes before and behind filtered_lrelu"
    cuda = found["cuda"]
    assert (cuda["path"], cuda["by"]) == ("reference", "plain torch")
    assert cuda["why"].startswith("no sources of native operations for cuda")
    assert below[0].startswith("torch.compile is not used for generators: ")
    assert below[1].startswith("HPD_GRAPHS=off: no graphs of CUDA.")
    monkeypatch.setenv("HPD_GRAPHS", "on")
    assert told(ops("status").stdout)[1][1].startswith("HPD_GRAPHS=on: images of frozen gen")
    monkeypatch.setenv("HPD_GRAPHS", "of")
    done = ops("status")
    assert done.exit_code == 2
    assert "unknown HPD_GRAPHS 'of'" in done.stderr.splitlines()[-1]


def test_status_tells_the_shared_memory_and_the_tiles_of_each_gpu(bench, monkeypatch):
    class Properties:
        name, shared_memory_per_block_optin, multi_processor_count = "A card", 227 * 1024, 132

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr("generators.ops.cuda.nvrtc.available", lambda: "NVRTC 13.0")
    text = ops("status").stdout
    assert "kernels that NVRTC makes as they are asked for" in text
    assert text.count("A card: 132 processors, blocks of 227 KiB of shared memory at most") == 2
    rows = [line.split() for line in text.splitlines() if line.startswith("  36 px, up 2 ")]
    assert rows[0][-5:] == ["36", "x", "36", "52", "102"]
    assert "of planes inside of filtered_lrelu" in text


def test_status_shows_why_a_build_failed(bench):
    bench.break_compiler(*ERRORS)
    ops("build")
    done = ops("status")
    assert done.exit_code == 0
    assert "'hpd ops build' tries again." in done.stdout
    assert all(line.strip() in done.stdout for line in ERRORS)


@pytest.mark.parametrize("command", ["build", "status"])
def test_errors_are_one_line(bench, monkeypatch, command):
    monkeypatch.setenv("HPD_OPS", "fast")
    (bench.folder / "compiler").unlink()
    done = ops(command)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["build"], ["status"]])
def test_help_has_an_example(command):
    done = ops(*command, "--help")
    assert done.exit_code == 0
    assert "Example:\n" in done.stdout
