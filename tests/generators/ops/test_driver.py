"""What is asked of NVIDIA's driver, seen by a stand-in that runs kernels on the host."""

from __future__ import annotations

import ctypes

import pytest
import torch
from host_kernels import OnHost, host_kernels

from generators.ops import native
from generators.ops.cuda import driver, kernels
from generators.ops.cuda.driver import Driver, Launch, OnDevice
from generators.ops.cuda.launches import Operations
from hpd.errors import OpsError


def upsampled(start, size=40):
    """Filter an image of so many pixels, as a layer does."""
    x, taps = torch.ones(1, 1, size, size), torch.ones(12) / 12
    options = (taps, taps, 2, 2, (11, 10, 11, 10), 1.0, 0.2, None, False)
    return Operations(start).filtered_lrelu(x, None, *options)[0]


def asked(monkeypatch, library):
    """Record the functions that are called, and what the last two of their arguments are."""
    calls = []
    call = Driver._call

    def recorded(self, name, *arguments, **options):
        calls.append((name, arguments[-1]))
        return call(self, name, *arguments, **options)

    monkeypatch.setattr(Driver, "_call", recorded)
    return calls


def test_more_shared_memory_is_asked_for_once_and_only_where_it_is_needed(monkeypatch):
    calls = asked(monkeypatch, host_kernels())
    start = OnHost(shared_kib=227, processors=1)
    upsampled(start)
    upsampled(start)
    allowed = [value for name, value in calls if name == "cuFuncSetAttribute"]
    assert allowed == [start.started[0].shared_bytes] and allowed[0] > 48 * 1024
    small = OnHost(shared_kib=48)
    upsampled(small)
    assert [name for name, _ in calls].count("cuFuncSetAttribute") == 1
    assert small.started[0].shared_bytes <= 48 * 1024


def test_without_asking_it_would_not_start(monkeypatch):
    """The stand-in is as strict as a card."""
    monkeypatch.setattr(Driver, "allow_shared", lambda *arguments: None)
    with pytest.raises(OpsError, match="cuLaunchKernel of NVIDIA's driver fails: got CUDA_ERROR_I"):
        upsampled(OnHost(shared_kib=227, processors=1))


def test_a_plan_follows_what_the_card_says():
    for kib in (48, 99, 163, 227):
        start = OnHost(shared_kib=kib, processors=7)
        found = start.room(torch.empty(0))
        assert (found.shared_bytes, found.processors) == (kib * 1024, 7)
        upsampled(start, 150)
        assert start.started[0].shared_bytes <= kib * 1024
    silent = OnHost(shared_kib=0, processors=0)
    assert silent.room(torch.empty(0)) == driver.Room()


def test_code_is_loaded_once_and_a_thread_without_a_context_gets_one(monkeypatch):
    calls = asked(monkeypatch, host_kernels())
    start = OnHost()
    upsampled(start)
    upsampled(start)
    names = [name for name, _ in calls]
    assert names.count("cuModuleLoadData") == 1
    assert names.count("cuModuleGetFunction") == 1
    assert names.count("cuCtxSetCurrent") == 1
    # a thread of autograd's
    start.library.pretend_new_thread()
    upsampled(start)
    assert [name for name, _ in calls].count("cuCtxSetCurrent") == 2


def test_one_library_is_loaded_once_for_all_its_kernels(monkeypatch):
    calls = asked(monkeypatch, host_kernels())
    start = OnHost()
    upsampled(start)
    Operations(start).bias_act(torch.ones(1, 1, 2, 2), None, 1.0, 0.2, None)
    names = [name for name, _ in calls]
    assert (names.count("cuModuleLoadData"), names.count("cuModuleGetFunction")) == (1, 2)


def test_what_the_driver_says_is_told():
    library = host_kernels()
    elsewhere = OnDevice(Driver(library), lambda kernel, index: ("all", b"elsewhere"))
    launch = Launch(kernels.RAISED, 1, 0, [])
    with pytest.raises(OpsError, match=r"NO_BINARY_FOR_GPU\. If it is for another GPU, 'hpd ops"):
        elsewhere.start(launch, 0, 0)
    start = OnHost()
    unknown = Launch(kernels.Kernel("hpd_unknown", ""), 1, 0, [])
    with pytest.raises(OpsError, match=r"cuModuleGetFunction .* CUDA_ERROR_NOT_FOUND"):
        start(unknown, torch.empty(0))


def test_without_a_driver_there_is_an_error(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARY", "libthere-is-none.so")
    with pytest.raises(OpsError, match="no driver of NVIDIA"):
        Driver.of_system()


def test_a_launch_goes_to_the_stream_and_the_device_of_its_tensor(monkeypatch):
    entered, started = [], []

    class Entered:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            entered.append(self.index)

        def __exit__(self, *error):
            entered.append("left")

    class Stream:
        cuda_stream = 77

    class Like:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(torch.cuda, "device", Entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: Stream)
    device = OnDevice(Driver(host_kernels()), lambda kernel, index: ("all", b"emulated"))
    monkeypatch.setattr(device, "start", lambda *arguments: started.append(arguments))
    launch = Launch(kernels.RAISED, 1, 0, [])
    device(launch, Like)
    assert started == [(launch, 1, 77)]
    assert entered == [1, "left"]


def test_a_library_of_gpus_is_looked_at_before_it_is_used(tmp_path):
    good, bad = tmp_path / "good.fatbin", tmp_path / "bad.fatbin"
    good.write_bytes(bytes.fromhex("50ed55ba") + b"rest")
    bad.write_bytes(b"\x7fELF")
    native.load(good)
    assert native._code_of(good, kernels.RAISED, 0) == (str(good), good.read_bytes())
    for library in (bad, tmp_path / "none.fatbin"):
        with pytest.raises(OpsError, match="native operations do not load"):
            native.load(library)


def test_arguments_arrive_as_they_were_given():
    """Structures by value, numbers and addresses."""
    start = OnHost()
    values = torch.tensor([[[-1.0, 2.0, -3.0, 4.0]]])
    plan = driver_plan(values)
    start(Launch(kernels.RAISED, 1, 0, plan), values)
    assert values.flatten().tolist() == [-0.5, 2.0, -1.5, 4.0]


def driver_plan(values):
    from generators.ops.cuda.plans import RaisedPlan

    plan = RaisedPlan(planes=1, height=1, width=4, gain=1.0, slope=0.5, act=0)
    return [plan, ctypes.c_void_p(values.data_ptr()), ctypes.c_void_p(None)]
