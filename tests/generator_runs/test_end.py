"""How a training ends, and which state is kept: by a curve made by hand."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from small_trainings import about, read_steps, read_weights, train

from generators import read_generator
from hpd.generator_runs import loop


def test_the_best_state_is_exported_not_the_last(tmp_path, stub):
    stub(3.0, 1.0, 2.0)
    stored = train(tmp_path)
    assert stored.provenance["images_seen"] == 32
    assert read_steps(tmp_path, "best-*") == [32]
    # as the state of that moment has it
    state = load_file(tmp_path / "state-00000004.safetensors")
    for name, value in stored.generator.state_dict().items():
        assert torch.equal(value, state[f"average.{name}"]), name
    assert stored.provenance["curve"]["points"] == [[16, 3.0], [32, 1.0], [48, 2.0]]


def test_the_last_state_counts_too_where_it_is_the_best(tmp_path, stub):
    stub(3.0, 2.0, 1.0)
    assert train(tmp_path, 40).provenance["images_seen"] == 40


def test_it_stops_by_patience(tmp_path, stub):
    left = stub(5.0, 3.0, 3.1, 3.0, 2.99, 1.0)
    lines = []
    stored = train(tmp_path, None, say=lines.append, **{"curve.patience": 3})
    assert left == [1.0]
    assert read_steps(tmp_path) == [8, 10]
    assert lines[-1] == "ended: 3 saves in a row brought no gain; kept: 80 images, distance 2.99"
    assert stored.provenance["images_seen"] == 80
    # once more, and it is still enough
    assert train(tmp_path, None, **{"curve.patience": 3}).sha256 == stored.sha256
    assert left == [1.0]


def test_it_stops_when_the_time_is_over(tmp_path, stub, monkeypatch):
    clock = iter(range(100_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    stub(*range(50, 0, -1))
    lines = []
    train(tmp_path, None, minutes=0.5, say=lines.append)
    assert lines[-1].startswith("ended: the time is over; kept: ")
    steps = read_steps(tmp_path)[-1]
    assert about(tmp_path, steps)["seconds"] >= 30
    before = read_weights(tmp_path)
    train(tmp_path, None, minutes=0.5)
    assert (read_steps(tmp_path)[-1], read_weights(tmp_path)) == (steps, before)
    # time counts over all parts
    train(tmp_path, None, minutes=1.0)
    assert read_steps(tmp_path)[-1] > steps


def test_going_on_from_a_generator_keeps_it_where_training_makes_it_worse(whole, tmp_path, stub):
    stub(1.0, 1.0, 9.0)
    start = whole / "generator"
    stored = train(tmp_path, start=start, start_images=32)
    assert stored.provenance["images_seen"] == 16
    before = read_generator(start)
    for name, value in before.generator.state_dict().items():
        assert torch.equal(value, stored.generator.state_dict()[name]), name
    assert stored.provenance["start"] == {"name": "generator", "sha256": before.sha256}
    assert str(start) not in (tmp_path / "generator/generator.json").read_text()
