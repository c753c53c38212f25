"""A whole run of recovery, as DWA does it: interrupted, and gone on with to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SMALL_STUDENT, SMALL_TEACHER, THREE_DIGITS
from small_runs import EndsAfter

import hpd

NAMES = ("distilled.safetensors", "initial.safetensors", "manifest.json")


@pytest.fixture(scope="module")
def config(digits_teacher):
    return {
        "data": THREE_DIGITS,
        "device": "cpu",
        "source": {"kind": "pixel", "images_per_class": 2, "steps": 5, "lr": 0.1, "clip": True},
        "objective": {
            "kind": "recovery", "teacher": digits_teacher, "variance_weight": 11.0,
            "adjustment": {"mode": "directed", "rho": 0.3, "steps": 2},
            "add_ons": [{"kind": "mutual_information", "student": SMALL_STUDENT, "real_batch": 4}],
        },
        "optimizer": {"rates": "absolute", "beta2": 0.9, "schedule": "cosine"},
        "selection": "last",
        "checkpoint_every": 2,
    }  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(config, tmp_path, steps):
    """The images that direct the teacher are those of the first step, not of the first after."""
    whole = hpd.distill(config, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=tmp_path / "again", observers=[EndsAfter(steps)])
    again = hpd.distill(config, out=tmp_path / "again", resume=True)
    for name in NAMES:
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_images_stay_in_range_and_the_teacher_is_written_down(config, tmp_path):
    run = hpd.distill(config, out=tmp_path / "run")
    assert float(run.distilled.images.min()) >= -1e-6
    assert float(run.distilled.images.max()) <= 1 + 1e-6
    text = (Path(tmp_path) / "run" / "manifest.json").read_text()
    assert '"weights_sha256"' in text
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    for name in ("cross_entropy", "mean_gap", "mutual_information_share"):
        assert all(name in line for line in lines[:5]), name


def test_another_teacher_is_noticed_when_a_run_goes_on(config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=tmp_path / "run", observers=[EndsAfter(3)])
    student = f"student={SMALL_TEACHER['student']}"
    training = "training={epochs: 1, batch_size: 64}"
    other = str(tmp_path / "other")
    hpd.squeeze(THREE_DIGITS, student, training, out=other, seed=1)
    changed = {**config, "objective": {**config["objective"], "teacher": other}}
    with pytest.raises(hpd.HpdError, match="weights_sha256"):
        hpd.distill(changed, out=tmp_path / "run", resume=True)
