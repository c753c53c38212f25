"""Metrics on their way to trackers."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml
from click.testing import CliRunner
from small_runs import STEPS, EndsAfter, small_config

import hpd
from hpd.cli import main
from hpd.errors import ConfigError


def config_with(tmp_path, generator_folder, *trackers):
    selection = {"kind": "loss", "every": 2}
    config = small_config(tmp_path / "data", generator_folder, selection=selection)
    return config | {"tracking": {"to": list(trackers)}}


def events(folder):
    """What TensorBoard reads from a folder: values by step, of each tag."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }, found


def test_tensorboard_shows_what_the_metrics_say(tmp_path, generator_folder):
    config = config_with(tmp_path, generator_folder, "tensorboard")
    hpd.distill(config, out=tmp_path / "run")
    shown, reader = events(tmp_path / "run" / "tensorboard")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["loss"] is not None]
    ends = [line for line in lines if line["loss"] is None]
    assert (len(steps), len(ends)) == (STEPS, 2)
    assert shown["loss"] == pytest.approx(dict(enumerate(line["loss"] for line in steps)))
    for name in ("score", "fixed_loss"):
        # the first stage ends where the second starts, whose value comes later
        wanted = {STEPS // 2: ends[0][name]}
        wanted |= {i: line[name] for i, line in enumerate(steps) if line[name] is not None}
        assert shown[name] == pytest.approx({**wanted, STEPS: ends[1][name]})
    assert shown["stage"] == {i: float(i >= STEPS // 2) for i in range(STEPS)}
    best = [stage["score"] for stage in stages(tmp_path / "run")]
    assert shown["best_score"] == pytest.approx({STEPS // 2: best[0], STEPS: best[1]})
    (said,) = reader.Tensors("config/text_summary")
    assert '"kind": "gradient"' in said.tensor_proto.string_val[0].decode()


def stages(run):
    return [json.loads(p.read_text()) for p in sorted((run / "checkpoints").glob("stage-*.json"))]


class EndsError(Exception):
    pass


def test_a_run_that_goes_on_is_shown_as_one(tmp_path, generator_folder):
    config = config_with(tmp_path, generator_folder, "tensorboard")
    with pytest.raises(EndsError):
        hpd.distill(config, out=tmp_path / "run", observers=[EndsAfter(6, EndsError)])
    hpd.distill(config, out=tmp_path / "run", resume=True)
    shown, _ = events(tmp_path / "run" / "tensorboard")
    assert sorted(shown["loss"]) == list(range(STEPS))


def test_trackers_may_change_while_a_run_goes_on_and_are_off_by_default(tmp_path, generator_folder):
    config = small_config(tmp_path / "data", generator_folder)
    hpd.distill(config, out=tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    tracked = config_with(tmp_path, generator_folder, "tensorboard") | {
        "selection": config["selection"]
    }
    hpd.distill(tracked, out=tmp_path / "run", resume=True)


def test_a_tracker_whose_package_is_missing_is_one_line(tmp_path, monkeypatch, generator_folder):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "hpd.engine.watching.tracking.find_spec",
        lambda name: None if name == "wandb" else find(name),
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_config(tmp_path / "data", generator_folder)))
    command = ["distill", str(path), "--tracker", "wandb", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert result.stderr == (
        "hpd: ConfigError: the tracker 'wandb' needs a package that is not installed. Install it "
        "with `pip install wandb`, or leave the tracker out.\n"
    )
    assert not (tmp_path / "run").exists()


def test_trackers_need_a_folder(tmp_path, generator_folder):
    config = config_with(tmp_path, generator_folder, "tensorboard")
    with pytest.raises(ConfigError, match="trackers write to the folder of the run"):
        hpd.distill(config)


def test_wandb_gets_the_same_in_offline_mode(tmp_path, monkeypatch, generator_folder):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    hpd.distill(config_with(tmp_path, generator_folder, "wandb"), out=tmp_path / "run")
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"best_score" in kept.read_bytes()
