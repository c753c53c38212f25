"""Benchmarks time on the device that they are told, and forgive what fails."""

from __future__ import annotations

import time

import bench_objectives
import bench_ops
import bench_step
import pytest
import torch
import weigh_generator
from click.testing import CliRunner
from gpu_parts.waits import TINY_STEM
from stopwatch import CLOCKS, Stopwatch, peak_of

CPU = torch.device("cpu")
TOOLS = (bench_objectives, bench_ops, bench_step, weigh_generator)


def test_a_cpu_is_timed_by_the_clock():
    watch = Stopwatch(CPU)
    time.sleep(0.02)
    watch.mark()
    watch.mark()
    long, short = watch.seconds()
    assert 0.02 <= long < 5 and 0 <= short < long
    assert 2**26 < peak_of(CPU) < 2**40


def test_processor_seconds_leave_out_what_was_slept():
    watch = Stopwatch(CPU, CLOCKS["processor"])
    time.sleep(0.2)
    watch.mark()
    assert 0 <= watch.seconds()[0] < 0.1


class Event:
    """Of a GPU that does a millisecond's work between two events."""

    made = 0

    def __init__(self, enable_timing):
        assert enable_timing
        Event.made += 1
        self.number = Event.made

    def record(self, stream):
        assert stream == "stream"

    def elapsed_time(self, other):
        return float(other.number - self.number)


def test_a_gpu_is_timed_by_events_and_waited_for_at_both_ends(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    device = torch.device("cuda")
    watch = Stopwatch(device)
    watch.mark()
    watch.mark()
    assert waited == [device]
    assert watch.seconds() == [1e-3, 1e-3] and waited == [device] * 2


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_a_device_is_an_option_of_each(tool):
    (option,) = (own for own in tool.main.params if own.name == "device")
    assert option.default == "cpu" and list(option.type.choices) == ["cpu", "cuda"]


def test_operations_are_timed_on_the_cpu(native_cpu, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "native")
    options = ["--images", "1", "--repeats", "1", "--only", "bias_act lrelu clamp"]
    result = CliRunner().invoke(bench_ops.main, [*options, "--device", "cpu"])
    assert result.exit_code == 0 and result.output.count("bias_act lrelu clamp") == 4
    assert bench_ops.copy_speed(2**20, "cpu") > 0


def test_memory_of_trajectories_is_counted_on_the_cpu():
    assert bench_objectives.most_bytes(lambda: torch.ones(1000), CPU) == 4000


def test_a_way_that_fails_ends_no_other():
    student = {"kind": "convnet", "width": 4, "depth": 2}
    work = bench_step.Work(TINY_STEM, {"kind": "distribution", "student": student}, real_batch=4)
    options = {"precision": "float32", "compile": False}
    ways = {
        "wrong": bench_step.Way("nonsense", options), "right": bench_step.Way("reference", options)
    }  # fmt: skip
    found = bench_step.measure(work, ways, repeats=1)
    assert "unknown HPD_OPS 'nonsense'" in found["wrong"]["failed"]
    assert found["right"]["image_deviation"] == 0 and found["right"]["seconds_per_step"] > 0


def test_a_way_whose_process_ends_says_so(monkeypatch):
    class Process:
        exitcode = -9

        def join(self):
            pass

    class Pipe:
        def send(self, question):
            raise BrokenPipeError

        def recv(self):
            raise EOFError

    server = object.__new__(bench_step.Server)
    server._pipe, server._process, server.problem, server.images = Pipe(), Process(), None, None
    server.steps = []
    server.step("wall")
    assert server.end(None) == {"failed": "its process ended: got exit code -9"}
