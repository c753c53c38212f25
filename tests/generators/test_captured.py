"""Generators as graphs: the same bits, and a record only as long as it holds.

A CPU records here: see `pretended_graphs`. Nothing of it has run on a GPU.
"""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from families import VARIANTS, tiny_network
from host_kernels import pretending_cuda
from pretended_graphs import pretending_graphs

from generators.captured import Captured
from generators.ops.cuda import recording
from generators.prepared import prepared_values
from hpd.errors import OpsError


def frozen(name="stylegan_xl-stem"):
    return tiny_network(name).requires_grad_(False)


def inputs_of(network, level, rng, count=2):
    """State and ws at a level, as leaves."""
    ws = torch.randn(count, network.spec.num_ws, network.spec.w_dim, generator=rng)
    state = network.advance((), ws, 0, level)
    return tuple(t.detach().requires_grad_() for t in state), ws.requires_grad_()


def derived(images, state, ws):
    weights = torch.linspace(-1, 1, images.numel()).reshape(images.shape)
    # of an autoencoder ws are of no use behind level 0
    grads = torch.autograd.grad((images.sin() * weights).sum(), (ws, *state), allow_unused=True)
    return [images.detach(), *(g for g in grads if g is not None)]


def both(captured, network, state, ws, level):
    """Images and derivatives, from a record and without."""
    found = derived(captured.images(state, ws, level), state, ws)
    return found, derived(network.images(state, ws, level), state, ws)


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_images_and_derivatives_are_the_same_bits_step_after_step(name, dtype, monkeypatch, rng):
    network = frozen(name)
    network.compute_dtype = dtype
    captured = Captured(network)
    with pretending_graphs(monkeypatch) as recorders:
        for level in (0, 1):
            for _ in range(3):
                state, ws = inputs_of(network, level, rng)
                assert same(*both(captured, network, state, ws, level))
    assert [(r.warm_ups, r.records, r.replays) for r in recorders] == [(1, 2, 6)] * 2


def test_operations_of_cuda_are_recorded_as_all_others(monkeypatch, rng):
    network = frozen("stylegan3-r")
    captured = Captured(network)
    with pretending_cuda(monkeypatch) as start, pretending_graphs(monkeypatch) as recorders:
        for _ in range(2):
            state, ws = inputs_of(network, 1, rng)
            assert same(*both(captured, network, state, ws, 1))
    assert recorders[0].replays == 4
    assert any("scaled" in name or "filtered" in name for name in start.names)


def test_results_are_copies_that_later_steps_leave_alone(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch):
        kept, wanted = [], []
        for _ in range(3):
            state, ws = inputs_of(network, 1, rng)
            found, without = both(captured, network, state, ws, 1)
            kept.append(found)
            wanted.append(without)
        assert all(map(same, kept, wanted))


def test_a_derivative_that_comes_late_is_that_of_its_own_images(monkeypatch, rng):
    """Others were made in the same memory meanwhile, and maybe derived."""
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch):
        first, second = inputs_of(network, 1, rng), inputs_of(network, 1, rng)
        images = captured.images(*first, 1)
        other = captured.images(*second, 1)
        assert same(derived(other, *second), derived(network.images(*second, 1), *second))
        assert same(derived(images, *first), derived(network.images(*first, 1), *first))
        # twice, where the caller keeps what leads there
        images = captured.images(*first, 1)
        for _ in range(2):
            (grad,) = torch.autograd.grad(images.sum(), first[1], retain_graph=True)
        (wanted,) = torch.autograd.grad(network.images(*first, 1).sum(), first[1])
        assert torch.equal(grad, wanted)


def change_shape(network, captured, monkeypatch):
    return {"count": 3}


def change_level(network, captured, monkeypatch):
    return {"level": 2}


def change_dtype(network, captured, monkeypatch):
    network.compute_dtype = torch.bfloat16
    return {}


def change_a_weight(network, captured, monkeypatch):
    with torch.no_grad():
        next(p for p in network.parameters() if p.ndim == 4).mul_(1.5)
    return {}


def change_where_a_weight_lies(network, captured, monkeypatch):
    weight = next(p for p in network.parameters() if p.ndim == 4)
    weight.data = weight.data * 1.5
    return {}


def change_a_buffer(network, captured, monkeypatch):
    network.synthesis.layer(0).magnitude_ema.mul_(2)
    return {}


def change_operations(network, captured, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "reference")
    return {}


def change_precision(network, captured, monkeypatch):
    monkeypatch.setattr(recording, "settings", lambda: ("tf32",))
    return {}


def change_what_is_wanted(network, captured, monkeypatch):
    return {"fixed": True}


CHANGES = [
    change_shape, change_level, change_dtype, change_a_weight, change_where_a_weight_lies,
    change_a_buffer, change_operations, change_precision, change_what_is_wanted,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_record_has_it_made_anew(change, monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch) as recorders:
        state, ws = inputs_of(network, 1, rng)
        for _ in range(2):
            both(captured, network, state, ws, 1)
        assert len(recorders) == 1
        asked = change(network, captured, monkeypatch)
        level = asked.get("level", 1)
        state, ws = inputs_of(network, level, rng, asked.get("count", 2))
        if asked.get("fixed"):
            state = tuple(t.detach() for t in state)
            found, wanted = (
                derived(f(state, ws, level), (), ws) for f in (captured.images, network.images)
            )
        else:
            found, wanted = both(captured, network, state, ws, level)
        assert same(found, wanted)
        assert len(recorders) == 2


def test_records_of_a_level_that_is_left_go(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch) as recorders:
        both(captured, network, *inputs_of(network, 1, rng), 1)
        gone = weakref.ref(recorders.pop())
        both(captured, network, *inputs_of(network, 2, rng), 2)
        gc.collect()
        assert gone() is None


def test_what_was_prepared_stays_as_long_as_a_record_reads_it(monkeypatch, rng):
    """Its memory would be another tensor's, and nothing would say so."""
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch):
        state, ws = inputs_of(network, 1, rng)
        both(captured, network, state, ws, 1)
        (record,) = captured._recorded.values()
        flat = []
        for value in prepared_values(network):
            flat += value if isinstance(value, tuple) else [value]
        assert flat
        held = [weakref.ref(value) for value in flat]
        del value, flat
        for layer in network.modules():
            if hasattr(layer, "_kept"):
                layer._kept.clear()
        gc.collect()
        assert all(ref() is not None for ref in held)
        assert record.time > 0


def test_only_so_many_shapes_are_recorded(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch) as recorders:
        for count in (1, 2, 3, 4, 1, 2):
            state, ws = inputs_of(network, 1, rng, count)
            assert same(*both(captured, network, state, ws, 1))
    assert len(recorders) == 2


def test_without_memory_for_it_there_is_no_record_and_it_is_told_once(monkeypatch, rng, caplog):
    network = frozen()
    captured = Captured(network)
    for limit in (0, 1):
        with pretending_graphs(monkeypatch, limit) as recorders:
            for _ in range(3):
                state, ws = inputs_of(network, 1 + limit, rng)
                assert same(*both(captured, network, state, ws, 1 + limit))
        assert len(recorders) == 1
    told = [r.getMessage() for r in caplog.records if "captured" in r.getMessage()]
    assert told == ["the generator is not captured as a graph: CUDA out of memory"] * 2


def test_what_asks_the_device_is_not_recorded(monkeypatch, rng, caplog):
    class Asking(type(frozen())):
        def _run(self, state, ws, start, stop):
            state = super()._run(state, ws, start, stop)
            return tuple(t * 2 if float(t.detach().mean()) > 1e9 else t for t in state)

    network = frozen()
    network.__class__ = Asking
    captured = Captured(network)
    with pretending_graphs(monkeypatch):
        state, ws = inputs_of(network, 1, rng)
        assert same(*both(captured, network, state, ws, 1))
    assert "not permitted when stream is capturing" in caplog.text


def test_it_is_off_unless_asked_for_and_where_it_would_be_wrong(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    state, ws = inputs_of(network, 1, rng)
    last = network.spec.last_level
    pixels = tuple(t.detach().requires_grad_() for t in network.advance(state, ws, 1, last))
    # what is changed here is changed back before what the block has changed
    with pretending_graphs(monkeypatch) as recorders, pytest.MonkeyPatch.context() as patch:
        with torch.no_grad():
            captured.images(state, ws, 1)
        captured.images((), ws.detach(), 0)
        captured.images(pixels, ws, last)
        with patch.context() as elsewhere:
            elsewhere.setattr(recording, "DEVICE_TYPES", {"cuda"})
            captured.images(state, ws, 1)
        with patch.context() as unknown:
            unknown.setattr(type(network), "layers_known", False)
            captured.images(state, ws, 1)
        next(network.parameters()).requires_grad_()
        captured.images(state, ws, 1)
        network.requires_grad_(False)
        with patch.context() as without:
            without.delenv("HPD_GRAPHS")
            captured.images(state, ws, 1)
        assert not recorders
        patch.setenv("HPD_GRAPHS", "yes")
        with pytest.raises(OpsError, match="unknown HPD_GRAPHS 'yes'"):
            captured.images(state, ws, 1)


def test_there_is_no_second_derivative_and_that_is_said(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch):
        state, ws = inputs_of(network, 1, rng)
        images = captured.images(state, ws, 1).square().sum()
        (grad,) = torch.autograd.grad(images, ws, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.square().sum().backward()


def test_a_copy_records_for_itself(monkeypatch, rng):
    network = frozen()
    captured = Captured(network)
    with pretending_graphs(monkeypatch) as recorders:
        state, ws = inputs_of(network, 1, rng)
        both(captured, network, state, ws, 1)
        other = copy.deepcopy(captured)
        assert other._generator is not network
        assert same(*both(other, network, state, ws, 1))
        assert len(recorders) == 2


class TestCuda:
    """What is asked of torch, seen through a stand-in: the order of it, and on which stream."""

    def test_everything_is_asked_for_on_one_stream_and_in_one_pool(self, monkeypatch):
        said = []

        class Stream:
            def __init__(self, device):
                self.name = device

            def wait_stream(self, other):
                said.append(f"{self.name} waits for {other.name}")

        class On:
            def __init__(self, stream):
                self.stream = stream

            def __enter__(self):
                said.append(f"on {self.stream.name}")

            def __exit__(self, *error):
                said.append("off")

        class Graph:
            def replay(self):
                said.append("replay")

        class Recording(On):
            def __init__(self, graph, *, pool, stream, capture_error_mode):
                super().__init__(stream)
                said.append(f"into {pool} {capture_error_mode}")

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(torch.cuda, "stream", On)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Recording)
        recorder = recording.recorder_of("side")
        recorder.warm_up(lambda: said.append("call"))
        waits = ["side waits for main", "on side", "call", "call", "off", "main waits for side"]
        assert said == waits
        said.clear()
        result, replay = recorder.record(lambda: said.append("call") or 7)
        replay()
        assert said == ["into pool thread_local", "on side", "call", "off", "replay"]
        assert result == 7

    def test_settings_that_a_record_has_are_told_apart(self, monkeypatch):
        before = recording.settings()
        monkeypatch.setenv("HPD_OPS", "reference")
        after = recording.settings()
        assert before != after
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        assert recording.settings() != after
