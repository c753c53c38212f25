"""Devices and precisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpd.errors import DeviceError, ProcessError
from hpd.machine.device import Processes, open_device
from hpd.machine.precision import has_fast_bfloat16, resolve_precision, set_float32

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2 avx512_bf16", True), ("amx_tile amx_bf16", True), ("fpu avx512f", False)],
)
def test_auto_is_bfloat16_where_a_cpu_lists_units_for_it(monkeypatch, flags, fast):
    info = f"processor : 0\nflags : {flags}\nbugs : amx_bf16\n"
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path, *encoding: info)
    assert has_fast_bfloat16(CPU) is fast
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if fast else torch.float32)


def test_auto_is_float32_where_nothing_is_known(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert resolve_precision("auto", CPU) == torch.float32


def test_a_named_precision_is_taken_at_its_word():
    assert resolve_precision("float32", CPU) == torch.float32
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16


def test_an_unknown_device_is_one_line():
    with pytest.raises(
        DeviceError, match="no device 'cpux': expected auto, cpu, cuda, cuda:0, mps"
    ):
        open_device("cpux")


def test_one_process_averages_with_nobody():
    alone = Processes.started(cpu=True)
    assert (alone.rank, alone.count) == (0, 1)
    value = torch.ones(2)
    assert alone.average(value) is value
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.sum(value) is value
    assert alone.largest(3) == 3
    assert alone.gather(value, [2])[0] is value
    assert alone.objects("a") == ["a"]
    assert alone.first(lambda: "b") == "b"
    with pytest.raises(ZeroDivisionError), alone.together():
        _ = 1 / 0
    assert not alone.told
    alone.end()


def test_an_exchange_that_fails_says_what_it_means(monkeypatch):
    """In a group of two of which the other is not there."""

    def unreachable(*arguments, **options):
        raise RuntimeError("Connection closed by peer\nat some place")

    monkeypatch.setattr("torch.distributed.all_gather", unreachable)
    monkeypatch.setattr("torch.distributed.all_reduce", unreachable)
    monkeypatch.setattr("hpd.machine.device._exchange_device", lambda: CPU)
    for exchange in (lambda p: p.sum(torch.ones(1)), lambda p: p.largest(1)):
        with pytest.raises(
            ProcessError, match=r"^another process of the run has ended\. Start all"
        ):
            exchange(Processes(0, 2))


def test_a_device_that_was_found_and_cannot_be_used_is_one_line(monkeypatch):
    """As in a child of fork whose parent has used it."""

    def taken(*arguments, **options):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess\nat some place")

    monkeypatch.setattr(torch, "empty", taken)
    with pytest.raises(DeviceError, match=r"no device .auto.: got Cannot re-init.* Try device=cpu"):
        open_device("auto")


def test_float32_means_one_thing_in_convolutions_and_matrices():
    """As opened: ieee, unless TF32 is asked for."""

    def kinds():
        backends = torch.backends
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            return {backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision}
        used = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        return {"tf32" if flag else "ieee" for flag in used}

    set_float32("tf32")
    assert kinds() == {"tf32"}
    open_device("cpu")
    assert kinds() == {"ieee"}
    open_device("cpu", "tf32")
    assert kinds() == {"tf32"}
    open_device("cpu")
