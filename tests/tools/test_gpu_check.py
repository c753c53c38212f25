"""The check of a GPU: parts that fail end no other, and each part finds what it is to find."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import gpu_check
import pytest
import torch
from click.testing import CliRunner
from gpu_parts import (
    bandwidth,
    choices,
    digits,
    golden,
    graphs,
    kernels,
    machine,
    sanitizer,
    steps,
    waits,
)
from gpu_parts.page import page, reason_of, table
from gpu_parts.part import Part, Place, verdict_of
from gpu_parts.parts import PARTS
from gpu_parts.running import Record, run_part
from host_kernels import OnHost
from pretended_graphs import pretending_graphs

from hpd.errors import DeviceError, RunError

TRIALS = """
import os, time
from gpu_parts.part import Row

def fine(place):
    yield Row("one", "good", "as it should | be", {"figure": 1.5})
    yield Row("two", "told", place.device)

def raises(place):
    yield Row("one", "good", "so far")
    raise RuntimeError("CUDA out of memory")

def crashes(place):
    yield Row("one", "good", "so far")
    print("on its way", flush=True)
    os.abort()

def hangs(place):
    time.sleep(600)
    yield Row("one", "good", "never")
"""


@pytest.fixture
def trials(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trials_of_parts.py").write_text(TRIALS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    names = ("raises", "crashes", "fine")
    parts = {n: Part(f"It {n}", f"trials_of_parts:{n}", 200, "nothing") for n in names}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    return parts


@pytest.fixture
def place(tmp_path):
    return Place("cpu", tmp_path)


def start(out, *options):
    return CliRunner().invoke(gpu_check.main, ["--device", "cpu", "--out", str(out), *options])


def test_a_part_that_fails_ends_no_other_and_the_check_goes_on_where_it_was(trials, tmp_path):
    out = tmp_path / "out"
    result = start(out, "--parts", "raises,crashes")
    assert result.exit_code == 1, result.output
    found = json.loads((out / "check.json").read_text())["parts"]
    assert [found[name]["verdict"] for name in ("raises", "crashes")] == ["bad", "bad"]
    assert found["raises"]["rows"][-1]["says"] == "out of memory: CUDA out of memory"
    # what it found before it crashed is kept, and what it said
    assert [row["what"] for row in found["crashes"]["rows"]] == ["one", "the part"]
    assert "SIGABRT" in found["crashes"]["rows"][-1]["says"]
    assert "on its way" in found["crashes"]["log"]

    result = start(out)
    assert result.exit_code == 1
    assert "raises            ..." not in result.output and "fine              ..." in result.output
    kept = json.loads((out / "check.json").read_text())["parts"]
    assert kept["crashes"] == found["crashes"]
    assert kept["fine"]["verdict"] == "good" and kept["fine"]["seconds"] > 0
    assert kept["fine"]["rows"][0]["figures"] == {"figure": 1.5}
    text = (out / "check.md").read_text()
    assert "## It crashes\n\n**bad**: 1 of 2 bad: the part: its process ended by itself" in text
    assert "as it should \\| be" in text

    result = start(out, "--parts", "fine", "--again")
    assert result.exit_code == 0 and "fine              ..." in result.output


def test_a_part_that_hangs_is_ended_and_one_whose_time_was_cut_is_not_finished(trials, tmp_path):
    part = Part("It hangs", "trials_of_parts:hangs", 4, "nothing")
    found = run_part(part, "cpu", tmp_path, 100, {})
    assert (found["verdict"], found["finished"]) == ("bad", True)
    assert found["rows"][-1]["says"] == "did not end within 4 s"
    found = run_part(part, "cpu", tmp_path, 0.5, {})
    assert (found["verdict"], found["finished"]) == ("skipped", False)


def test_no_part_is_started_when_the_time_is_over(trials, tmp_path):
    result = start(tmp_path / "out", "--minutes", "0.05")
    assert result.exit_code == 0
    assert result.output.count("not started") == 3 and result.output.count("not run") == 3


def test_options_that_are_wrong_are_one_line(tmp_path, monkeypatch):
    assert "no part 'kernel'" in start(tmp_path, "--parts", "kernel").output
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.device_of("auto") == "cpu"
    with pytest.raises(DeviceError, match="finds no GPU"):
        gpu_check.device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_check.device_of("auto") == "cuda"


@pytest.mark.parametrize("content", ["[]", "{", '{"machine": 3, "parts": 4}'])
def test_a_record_that_is_broken_or_of_another_machine_is_not_gone_on_with(content, tmp_path):
    path = tmp_path / "check.json"
    path.write_text(content)
    with pytest.raises(RunError, match="broken"):
        Record.open(path, {"device": "A"})
    Record(path, {"device": "B"}).keep("machine", {"verdict": "good", "finished": True})
    assert Record.open(path, {"device": "B"}).is_done("machine")
    with pytest.raises(RunError, match="of another machine"):
        Record.open(path, {"device": "A"})


def test_every_part_is_there_and_says_what_it_asks():
    for name, part in PARTS.items():
        module, function = part.run.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert part.title and part.asked and 0 < part.limit_seconds <= 300


def test_a_part_is_as_good_as_its_worst_row():
    assert verdict_of([]) == verdict_of(["skipped"]) == "skipped"
    assert verdict_of(["told", "skipped"]) == "told"
    assert verdict_of(["told", "good"]) == "good"
    assert verdict_of(["good", "skipped", "bad"]) == "bad"
    rows = [{"what": "a", "verdict": "bad", "says": "wrong"}]
    found = {
        "machine": {"verdict": "bad", "rows": rows, "seconds": 2.0, "peak": {"gpu_bytes": 2**21}}
    }
    assert reason_of(found["machine"]) == "1 of 1 bad: a: wrong"
    steps_of = {
        "what": "native",
        "verdict": "told",
        "says": "",
        "figures": {"peak_bytes": 3 * 2**20},
    }
    found["steps-dm"] = {"verdict": "told", "rows": [steps_of], "device": "cuda"}
    assert "| steps-dm | told | 0.0 | 3 |" in page({}, PARTS, found)
    lines = table(PARTS, found).splitlines()
    assert lines[1].split()[:4] == ["machine", "bad", "2.0", "2"] and len(lines) == len(PARTS) + 1
    assert "| machine | bad | 2.0 | 2 |  | 1 of 1 bad: a: wrong |" in page({}, PARTS, found)


def test_the_machine_and_what_builds_are_told(place, monkeypatch):
    rows = {row.what: row for row in machine.machine(place)}
    assert (
        rows["device"].verdict == "good" and rows["versions"].figures["torch"] == torch.__version__
    )
    monkeypatch.setattr(machine.nvrtc, "available", lambda: None)
    monkeypatch.setenv("CXX", "/there/is/none")
    assert [row.verdict for row in machine.build(place)] == ["skipped", "skipped"]


def of_kernels(place, monkeypatch):
    few = [p for p in kernels.problems(True) if "odd" in p.name or "XL, 26" in p.name]
    monkeypatch.setattr(kernels, "problems", lambda tiny: few)
    monkeypatch.setenv("HPD_OPS", "native")
    return {row.what: row for row in kernels.of_library(place)}


def test_kernels_agree_and_one_that_is_wrong_is_found(place, monkeypatch, native_cpu):
    rows = of_kernels(place, monkeypatch)
    assert len(rows) == 6 * 3 and {row.verdict for row in rows.values()} == {"good"}
    own, reference = kernels._OPERATIONS["upfirdn2d"]
    wrong = (lambda x, **options: 1.001 * own(x, **options), reference)
    monkeypatch.setitem(kernels._OPERATIONS, "upfirdn2d", wrong)
    broken = (lambda x, **options: torch.ones(2).reshape(3), reference)
    monkeypatch.setitem(kernels._OPERATIONS, "bias_act", broken)
    rows = of_kernels(place, monkeypatch)
    assert rows["upfirdn2d, odd, float32"].verdict == "bad"
    assert rows["bias_act, odd, float16"].says.startswith("RuntimeError")
    assert rows["filtered_lrelu, odd, float32"].verdict == "good"


def test_layers_with_scales_are_held_to_the_reference_by_every_input(native_cpu, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "native")
    named = {p.name: p for p in kernels.problems(True)}
    problem = named["filtered_lrelu, StyleGAN3-R, 26 px to 52, with scales and channels-last"]
    found = kernels.deviations(problem, torch.float32, torch.device("cpu"))
    assert {*found} == {"forward", "backward", "bias", "before", "after"}
    assert all(value <= 3e-5 for value in found.values())


def test_choices_are_judged_by_what_could_have_been_chosen(place, monkeypatch):
    """On the host: that it runs, and that a slow choice is told."""
    for part in (choices.tiles, choices.layouts, choices.scales):
        assert [row.verdict for row in part(place)] == ["skipped"]
    (problem,) = (p for p in kernels.problems(True) if p.name == "filtered_lrelu, XL, 42 px")
    device, timed = torch.device("cpu"), []

    def seconds(call, device):
        call()
        return timed.pop(0)

    monkeypatch.setattr(choices, "seconds", seconds)
    start = OnHost()
    for times, verdict in (([1.0] * 7 + [1.1], "good"), ([1.0] * 7 + [1.3], "bad")):
        timed[:] = times
        row = choices.compared_tiles("tiles", problem, torch.float32, start, device)
        assert row.verdict == verdict
        assert "up to 48 KiB" in row.says and "227 KiB" in row.figures
    assert len({launch.shared_bytes for launch in start.started}) > 1
    for look, good, bad in (
        (choices.compared_layouts, [1.0, 2.0, 2.1], [1.0, 3.0, 2.1]),
        (choices.compared_scales, [1.0, 1.0, 2.0, 2.0], [1.0, 2.1, 2.0, 2.0]),
    ):
        for times, verdict in ((good, "good"), (bad, "bad")):
            timed[:] = times
            row = look("layer", problem, torch.float32, device)
            assert row.verdict == verdict and len(row.figures) == len(times)


def test_graphs_are_held_to_the_bits_and_to_the_time(place, monkeypatch):
    assert [row.verdict for row in graphs.graphs(place)] == ["skipped"]
    timed = []

    def seconds(call, device):
        call()
        return timed.pop(0)

    monkeypatch.setattr(graphs, "seconds", seconds)
    cpu = torch.device("cpu")
    for times, limit, verdict in (
        ([2.0, 1.0], None, "good"), ([1.0, 2.0], None, "bad"), ([2.0, 1.0], 0, "bad"),
    ):  # fmt: skip
        timed[:] = times
        with pretending_graphs(monkeypatch, limit):
            row = graphs.compared("tiny", waits.TINY_STEM, "float32", 1, cpu)
        assert (row.verdict, row.figures["equal"]) == (verdict, True)
        assert row.figures["recorded"] == (limit is None)
    with pretending_graphs(monkeypatch):
        wrong = iter((1.0, 1.0, 1.0, 1.0))
        monkeypatch.setattr(
            graphs.Captured, "images",
            lambda self, state, ws, level: self._generator.images(state, ws, level)
            * next(wrong, 1.1),
        )  # fmt: skip
        timed[:] = [2.0, 1.0]
        row = graphs.compared("tiny", waits.TINY_STEM, "float32", 1, cpu)
    assert row.verdict == "bad" and row.figures["deviation"] > 0.05


def test_kernels_of_nvrtc_are_skipped_on_a_cpu(place, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "auto")
    assert [row.verdict for row in kernels.of_nvrtc(place)] == ["skipped"]


def test_golden_numbers_are_compared_or_the_reason_is_told(place, monkeypatch, tmp_path):
    monkeypatch.setenv("HPD_OPS", "auto")
    monkeypatch.setattr(golden, "FOLDERS", (tmp_path / "none",))
    assert [row.verdict for row in golden.golden(place)] == ["skipped"]
    (folder,) = (tmp_path / "golden",)
    folder.mkdir()
    source = Path(__file__).parents[1] / "golden" / "ada_cond32"
    (folder / "ada").symlink_to(source)
    monkeypatch.setattr(golden, "FOLDERS", (folder,))
    *rows, last = golden.golden(place)
    assert [row.verdict for row in rows] == ["good", "good"] and last.verdict == "skipped"
    assert 0 < rows[0].figures["image"] < 1e-5 and rows[0].figures["gradient_norm"] < 1e-4


def test_the_sanitizer_is_read(place, monkeypatch, tmp_path):
    assert [row.verdict for row in sanitizer.sanitizer(place)] == ["skipped"]
    gpu = Place("cuda", tmp_path, 60)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: None)
    assert "no compute-sanitizer" in next(iter(sanitizer.sanitizer(gpu))).says
    clean = "12 passed in 3 s\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.judge("memcheck", 0, clean).verdict == "good"
    bad = "========= Invalid __global__ read\n========= ERROR SUMMARY: 1 error\n12 passed\n"
    row = sanitizer.judge("memcheck", 86, bad)
    assert row.verdict == "bad" and "Invalid __global__ read" in row.says
    none = "SKIPPED [12] native_ops.py:16: no CUDA device\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.judge("memcheck", 0, none).verdict == "skipped"
    script = tmp_path / "sanitizer"
    script.write_text('#!/bin/sh\necho "$2 $HPD_OPS"; echo 12 passed\n')
    script.chmod(0o755)
    monkeypatch.setattr(sanitizer, "find_sanitizer", lambda: str(script))
    assert [row.verdict for row in sanitizer.sanitizer(gpu)] == ["good", "good"]
    assert (tmp_path / "racecheck.log").read_text().startswith("racecheck native")


def test_bandwidth_is_a_share_of_a_copy(place, monkeypatch, native_cpu):
    monkeypatch.setenv("HPD_OPS", "native")
    monkeypatch.setattr(bandwidth, "CHOSEN", bandwidth.CHOSEN[-2:])
    copy, *rows = bandwidth.bandwidth(place)
    assert copy.figures["bytes_per_s"] > 0
    for row in rows:
        figures = row.figures
        assert row.verdict == "told" and figures["bytes"] >= 2**20
        speed = figures["bytes"] / figures["forward_s"]
        assert figures["forward_share"] == pytest.approx(speed / copy.figures["bytes_per_s"])


def test_dispatches_and_waits_of_a_step_are_counted(place, monkeypatch):
    with waits.Dispatches("cpu") as mode:
        torch.ones(2).add(1).mul(2)
    assert mode.counted == {"add.Tensor": 1, "mul.Tensor": 1}
    asked = waits.objectives(True)
    assert asked["regression without a pool"]["pool"] is None
    monkeypatch.setattr(waits, "objectives", lambda tiny: {"dm": asked["dm"]})
    (row,) = waits.waits(place)
    assert row.verdict == "told" and row.figures["dispatches"] > 100

    modes = []

    class Stepper:
        def take(self):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    count, where = waits.synchronisations(Stepper())
    assert (count, modes) == (1.0, ["warn", 0])
    assert [name.split(":")[0] for name in where] == ["test_gpu_check.py"]


def test_steps_are_judged_by_speed_and_images(tmp_path):
    figures = {
        "seconds_per_step": 0.1, "generator_seconds": 0.06, "objective_seconds": 0.04,
        "peak_bytes": 2**30, "image_deviation": 1e-6,
    }  # fmt: skip
    gpu, slow = Place("cuda", tmp_path), figures | {"seconds_per_step": 0.2}
    native = steps._row("native", figures, slow, gpu)
    assert native.verdict == "good" and "2.00 times as fast" in native.says
    assert native.figures["steps_per_second"] == pytest.approx(10)
    assert steps._row("native", slow, figures, gpu).verdict == "bad"
    off = figures | {"image_deviation": 0.01}
    assert steps._row("native", off, slow, gpu).verdict == "bad"
    assert steps._row("native, tf32", off, slow, gpu).verdict == "good"
    assert steps._row("native", {"failed": "out of memory"}, slow, gpu).verdict == "bad"
    assert steps._row("native", figures, {"failed": "x"}, gpu).verdict == "good"


def test_the_digits_are_compared_with_the_spread_of_the_cpu(monkeypatch, place):
    scores = iter([70.0, 72.0, 74.0])
    monkeypatch.setattr(
        digits, "taught",
        lambda device, seed, size: {
            "accuracy": next(scores), "distil_seconds": 1.0, "teach_seconds": 1.0,
        },
    )  # fmt: skip
    *rows, last = digits.digits(place)
    assert [row.what for row in rows] == ["cpu, seed 0", "cpu, seed 1"] and last.verdict == "told"
    ((near,), (far,)) = (
        list(digits._compared("cuda", {"cuda": [mean, mean], "cpu": [70.0, 72.0]}))
        for mean in (74.0, 80.0)
    )
    assert (near.verdict, far.verdict) == ("good", "bad")
    assert far.figures["gap"] == pytest.approx(9) and far.figures["most"] == pytest.approx(
        3 * 2**0.5
    )
    assert list(digits._compared("cuda", {"cuda": [], "cpu": [70.0, 72.0]})) == []
