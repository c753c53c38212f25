"""What launchers leave in the environment: read whole, or refused in one line."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState

from hpd.errors import DeviceError, ProcessError
from hpd.machine import exchange
from hpd.machine.board import Board
from hpd.machine.device import Processes, open_device
from hpd.machine.exchange import Met, exchanging, meet
from hpd.machine.launch import VARIABLES, Launch, read_launch

PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", **PLACE},
        {"RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_RANK": "nonsense"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        SLURM,
        # the way out for a scheduler that leaves its variables behind
        {"WORLD_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
        {**PLACE, "MASTER_PORT": "nonsense"},
    ],
)
def test_what_can_run_alone_runs_alone(environ):
    assert read_launch(environ) == Launch(0, 1)


@pytest.mark.parametrize(
    ("names", "local"),
    [
        (("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "0"),
        (
            ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
             "OMPI_COMM_WORLD_LOCAL_SIZE"), "0",
        ),
        (("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"), "0"),
        (("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK",
          "MV2_COMM_WORLD_LOCAL_SIZE"), "0"),
    ],
)  # fmt: skip
def test_every_launcher_is_told_to_torch_in_its_own_words(names, local):
    launch = read_launch(PLACE | dict(zip(names, ["4", "2", local, "2"], strict=True)))
    assert launch == Launch(2, 4, 0, 2, "127.0.0.1:29511")
    assert launch.variables() == {
        "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip


@pytest.mark.parametrize("local", [{}, {"LOCAL_RANK": ""}, {"LOCAL_RANK": "-1"}])
def test_a_local_rank_that_was_not_said_is_the_rank(local):
    launch = read_launch({"WORLD_SIZE": "4", "RANK": "3"} | PLACE | local)
    assert (launch.local_rank, launch.local_count) == (3, None)


TWO = {"WORLD_SIZE": "2", "RANK": "1"}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 in the environment .* but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "but RANK is not set"),
        (TWO, "but MASTER_ADDR is not set"),
        (TWO | {"MASTER_ADDR": "a"}, "but MASTER_PORT is not set"),
        (TWO | PLACE | {"MASTER_PORT": ""}, "but MASTER_PORT is not set"),
        (TWO | PLACE | {"MASTER_PORT": "x"}, "MASTER_PORT .*: got 'x'"),
        (TWO | PLACE | {"MASTER_PORT": "65536"}, "MASTER_PORT is no port: got 65536"),
        (TWO | PLACE | {"RANK": "2"}, "RANK is too large: got RANK=2 with WORLD_SIZE=2"),
        (TWO | PLACE | {"LOCAL_RANK": "x"}, "LOCAL_RANK .*: got 'x'"),
        (TWO | PLACE | {"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE .*: got '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE .*: got 'two', expected 1 or more"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE .*: got '0', expected 1 or more"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE .*: got '-2'"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE .*: got '2.0'"),
        ({"RANK": "x"}, "RANK .*: got 'x'"),
        ({"RANK": "-1"}, "RANK .*: got '-1'"),
        ({"RANK": "1"}, "RANK is too large: got RANK=1 with no WORLD_SIZE"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK is too large: got RANK=1 with WORLD_SIZE=1"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
            "OMPI_COMM_WORLD_SIZE=2 .* but MASTER_ADDR is not set",
        ),
        ({"PMI_SIZE": "2"}, "PMI_SIZE=2 .* but PMI_RANK is not set"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE .*: got '9+'"),
    ],
)
def test_half_a_launch_names_the_variable_and_the_way_out(environ, said):
    way_out = "Start with `accelerate launch` or `torchrun`, or unset [A-Z_2]+ to run one process"
    with pytest.raises(ProcessError, match=f"{said}.*{way_out}") as caught:
        read_launch(environ)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_launch(monkeypatch):
    """As if nothing had used Accelerate in this process, and no launcher started it."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    for name in (*VARIABLES, *PLACE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("left", [dict.fromkeys(VARIABLES, ""), {"LOCAL_RANK": "0"}, SLURM])
def test_what_is_left_of_a_launch_does_not_reach_accelerate(no_launch, monkeypatch, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert open_device("auto").type in {"cpu", "cuda", "mps", "xpu"}
    assert Processes.started().count == 1
    assert PartialState().num_processes == 1
    assert not torch.distributed.is_initialized()
    assert dict(os.environ) == before


@pytest.mark.parametrize("start", [Processes.started, lambda: open_device("auto")])
def test_half_a_launch_is_refused_where_processes_or_devices_are_asked_for(
    no_launch, monkeypatch, start
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessError, match="but RANK is not set"):
        start()
    assert PartialState._shared_state == {}
    assert open_device("cpu") == torch.device("cpu")


@pytest.fixture
def port(no_launch, monkeypatch):
    """A port that is taken, and that the processes are to meet at."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(number))
        yield number, taken


def test_a_port_of_another_program_is_named(port):
    with pytest.raises(ProcessError, match=f"another program uses the port {port[0]}, .*_port"):
        meet(0, 2, f"127.0.0.1:{port[0]}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_never_comes_is_not_waited_for_for_ever(port, monkeypatch, rank):
    number, taken = port
    taken.close()
    monkeypatch.setattr(exchange, "_MEETING", timedelta(seconds=1))
    message = f"process {rank} of 2 cannot meet the others at 127.0.0.1:{number}: got .*MASTER_ADDR"
    with pytest.raises(ProcessError, match=message) as caught:
        meet(rank, 2, f"127.0.0.1:{number}")
    assert "\n" not in str(caught.value)


GONE = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:6",
    "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 7200000ms for recv operation",
    "[../gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:1: Connection reset by peer",
    "NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited or there was a network error",
)


@pytest.mark.parametrize("said", GONE)
def test_an_exchange_says_that_the_other_end_is_gone(said):
    message = r"^another process of the run has ended\. Start all of them again"
    with pytest.raises(ProcessError, match=message), exchanging():
        raise RuntimeError(said)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            torch.distributed.DistBackendError(
                "NCCL error\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
            ),
            DeviceError, "two processes compute on one GPU",
        ),
        (
            torch.distributed.DistBackendError("NCCL error: unhandled system error\nlast error:"),
            ProcessError, "cannot exchange what they computed: got NCCL error: unhandled system",
        ),
        (RuntimeError("[enforce fail at gloo/alg.cc:1] size. 1 vs 2"), ProcessError, "gloo/alg"),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "out of memory"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ],
)  # fmt: skip
def test_what_else_fails_in_an_exchange_is_not_taken_for_a_process_that_ended(error, kind, said):
    with pytest.raises(kind, match=said) as caught, exchanging():
        raise error
    assert type(caught.value) is kind
    assert "another process" not in str(caught.value)


def test_flags_numbers_and_objects_go_by_the_group_of_words(monkeypatch):
    """So that a process waits for one that works long without NCCL, which would end it."""
    groups, words = [], object()

    def gathered(found, own, group, **options):
        groups.append(group)
        found[:] = [own] * len(found)
        return SimpleNamespace(wait=lambda timeout: True)

    monkeypatch.setattr(torch.distributed, "all_gather", gathered)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda box, src, group: groups.append(group)
    )
    processes = Processes(0, 2, Met(words))
    processes.any(True)
    processes.largest(1)
    processes.objects("a")
    processes.first(lambda: "b")
    with processes.together():
        pass
    processes.agree(lambda: [1.0, 2.0], 2)
    assert groups == [words] * 8


class Moments:
    """An exchange that takes some moments, or fails in the end."""

    def __init__(self, moments, error=None):
        self.left, self.error = moments, error

    def wait(self, timeout):
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError("Operation timed out!")
        if self.error is not None:
            raise self.error
        return True

    def is_completed(self):
        return self.left < 0


@pytest.fixture
def slow(monkeypatch):
    """Two processes whose numbers take some moments, and the board on which the other writes."""

    def begin(moments, error=None):
        def gathered(found, own, group, **options):
            for part in found:
                part.copy_(own)
            return Moments(moments, error)

        monkeypatch.setattr(torch.distributed, "all_gather", gathered)
        board = Board()
        return Processes(0, 2, Met(board=board)), board

    return begin


def test_one_that_works_long_is_waited_for_as_long_as_there_are_signs_of_it(slow, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    processes, board = slow(50)

    def get(name):
        # half an hour between two looks, and a sign since the last
        clock.now += 1800
        return str(clock.now)

    monkeypatch.setattr(board, "get", get)
    monkeypatch.setattr("hpd.machine.board.time.monotonic", lambda: clock.now)
    assert processes.largest(0) == 0
    assert clock.now > 80_000


def test_one_that_is_silent_is_not_waited_for(slow, monkeypatch):
    clock = iter(range(0, 10**6, 60))
    processes, board = slow(10**6)
    board.put("alive/1", "7")
    monkeypatch.setattr("hpd.machine.board.time.monotonic", lambda: next(clock))
    with pytest.raises(ProcessError, match="nothing was heard of process 1 for 600 seconds"):
        processes.largest(0)
    # a minute each, and the first one saw a sign
    assert 600 < next(clock) < 1000


def test_an_exchange_that_fails_after_a_wait_says_what_it_means(slow):
    processes, _ = slow(3, RuntimeError("Connection closed by peer [::1]:6"))
    with pytest.raises(ProcessError, match="another process of the run has ended"):
        processes.largest(0)


def test_a_slot_is_the_same_for_all_and_new_each_time():
    one, other = Board(), Board()
    assert [one.slot() for _ in range(3)] == [other.slot() for _ in range(3)]
    assert len({one.slot() for _ in range(3)}) == 3
    one.put("a", "b")
    assert (one.get("a"), one.get("c")) == ("b", None)
