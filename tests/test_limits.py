"""What a run will take, told from a measured step; and what to change when it takes too much."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from conftest import CPU
from small_runs import STEPS, small_config

import hpd
from generators.families.stylegan2 import StyleGAN2
from hpd.cli import main
from hpd.engine import StepReport
from hpd.engine.watching.estimate import Estimate, Estimator, Work
from hpd.errors import OutOfMemoryError
from hpd.machine.memory import is_out_of_memory, peak_bytes
from hpd.objectives import matching
from hpd.typing import Stage, Step

SAID = "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def config(tmp_path, generator_folder):
    return small_config(tmp_path / "data", generator_folder)


def test_a_run_is_estimated_from_its_second_step(config):
    told, seconds = [], []

    class Listens:
        def on_step(self, report):
            seconds.append((report.seconds, report.score_seconds))
            assert len(told) == 0 or len(seconds) > 2

        def on_stage(self, report):
            pass

    hpd.distill(config, observers=[Listens()], on_estimate=told.append)
    (estimate,) = told
    assert estimate.step_seconds == seconds[1][0]
    assert estimate.score_seconds == seconds[0][1] > 0
    assert estimate.stored_floats == 3 * 64
    # two stages of four steps, each scored before steps 0 and 2 and at its end
    assert estimate.work == Work(STEPS, 6, 4)
    assert estimate.prepared_seconds > 0
    assert estimate.memory_bytes > 10**7


def report(score, seconds):
    return StepReport(Stage("s", 9), Step(0, 0), 0.0, score, {}, seconds, 0.5 if score else 0.0)


@pytest.mark.parametrize(
    ("work", "scores", "step_seconds", "score_seconds"),
    [(Work(9, 2), (1.0, None, 1.0), 2.0, 0.5), (Work(1, 2), (None,), 1.0, None)],
)
def test_one_step_is_enough_and_a_score_is_known_once_there_was_one(
    work, scores, step_seconds, score_seconds
):
    told = []
    estimator = Estimator(7, work, CPU, told.append)
    for i, score in enumerate(scores):
        estimator.on_step(report(score, 1.0 + i))
    (estimate,) = told
    assert (estimate.step_seconds, estimate.score_seconds) == (step_seconds, score_seconds)


def test_an_estimate_reads_well():
    whole = Estimate(2560, 1_500_000_000, 0.25, 2.0, Work(800, 90))
    assert str(whole) == (
        "2,560 floats, 1.5 GB, 0.25 s a step: about 6 min to distil (3 min for 800 steps, up to 3 "
        "min for 90 scores); the evaluation comes after"
    )
    slow = Estimate(2560, None, 0.25, 2.0, Work(8, 2, 2), 0.2, prepared_seconds=300.0)
    assert slow.seconds == 300 + 8 * 0.25 + 2 * 2 + 2 * 0.2
    assert str(slow) == (
        "2,560 floats, 0.25 s a step: about 5 min to distil (5 min to prepare, which is over, 2 s "
        "for 8 steps, up to 4 s for 2 scores, up to 0 s for 2 losses on fixed draws); the "
        "evaluation comes after"
    )
    part = Estimate(10, None, 1e-3, None, Work(1000, 5))
    assert str(part) == (
        "10 floats, 0.001 s a step: about 1 s to distil (1 s for 1,000 steps); the evaluation "
        "comes after"
    )


def test_the_command_prints_it(config, tmp_path):
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(main, ["distill", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0]
    assert first.startswith("192 floats, ")
    assert f"for {STEPS} steps, " in first
    assert "for 6 scores" in first


def test_peak_memory_never_falls():
    before = peak_bytes(CPU)
    kept = torch.ones(4_000_000)
    assert peak_bytes(CPU) >= before > 0
    del kept


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError(SAID), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


def test_torch_says_what_is_looked_for():
    """The real message, from a request that no machine can meet."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert is_out_of_memory(caught.value)


def starve(monkeypatch, most_images):
    """Let no more images than these go through the generator with a graph."""
    original = StyleGAN2.advance

    def advance(self, state, ws, start, stop):
        if torch.is_grad_enabled() and ws.requires_grad and len(ws) > most_images:
            raise RuntimeError(SAID)
        return original(self, state, ws, start, stop)

    monkeypatch.setattr(StyleGAN2, "advance", advance)


def test_a_smaller_chunk_is_tried_and_named_and_the_run_goes_on_with_it(
    config, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    whole = hpd.distill(config)
    starve(monkeypatch, 1)
    with pytest.raises(OutOfMemoryError) as caught:
        hpd.distill(config, out=out)
    # three images, so that two at a time are too many as well
    assert "stage 0" in caught.value.problem
    assert "can't allocate memory" in str(caught.value.got)
    assert caught.value.fix == (
        "A step fits with source.chunk_images=1, as was tried: add it to the command, and --resume"
        " if the run has an --out."
    )
    source = config["source"] | {"chunk_images": 1}
    run = hpd.distill(config | {"source": source}, out=out, resume=True)
    torch.testing.assert_close(run.distilled.images, whole.distilled.images)


def test_a_smaller_batch_is_named_where_no_chunk_helps(config, monkeypatch):
    original = matching.RealSide.batches

    def batches(self, labels, step):
        if self._settings.real_batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, labels, step)

    monkeypatch.setattr(matching.RealSide, "batches", batches)
    with pytest.raises(OutOfMemoryError) as caught:
        hpd.distill(config)
    assert "source.chunk_images=1 objective.real_batch=1, as was tried" in caught.value.fix
    assert "start anew with it, as the result is another" in caught.value.fix


def test_where_nothing_helps_it_says_so(config, monkeypatch):
    starve(monkeypatch, 0)
    with pytest.raises(OutOfMemoryError, match=r"No smaller batch fits. Take fewer images"):
        hpd.distill(config)


def test_other_errors_are_no_lack_of_memory(config, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(matching.RealSide, "batches", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        hpd.distill(config)
