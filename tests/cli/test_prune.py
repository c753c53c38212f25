"""Pruning a run: within the budget, nothing else changed, a run like any other."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import CPU, SMALL_STUDENT
from kills import attempt
from small_runs import SMALL_EVALUATION, contents

from hpd import api
from hpd.api.handing_on import pruning
from hpd.artifacts import DistilledSet, RunFolder
from hpd.cli import main
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams

CONFIG = {
    "data": "digits",
    "source": {
        "kind": "hmn", "overbudget": 0.5, "steps": 1, "decoder": {"kind": "conv", "fit_steps": 2},
    },
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8},
    "selection": "last",
    "evaluation": SMALL_EVALUATION | {"seeds": 1},
}  # fmt: skip
OPTIONS = ("betas=[0, 1]", f"student={SMALL_STUDENT}", "training.epochs=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "large"
    return api.distill(CONFIG, out=out)


@pytest.fixture(scope="module")
def pruned(run):
    """A run pruned by the command line, and what it printed."""
    result = CliRunner().invoke(main, ["prune", str(run.folder), *OPTIONS])
    assert result.exit_code == 0, result.output
    return run.folder.parent / "large-pruned", result.output


def test_the_budget_is_kept_and_the_rest_is_the_same_to_the_bit(run, pruned):
    assert run.distilled.stored_floats > 2560
    less = DistilledSet.load(pruned[0])
    assert less.stored_floats <= 2560
    counts = torch.bincount(less.labels)
    assert counts.unique().numel() == 1
    assert int(counts[0]) < run.distilled.images_per_class
    # as many as fit: one more in each class would not
    account = RunFolder(pruned[0]).read_manifest()["account"]
    assert account["left_over"] < 10 * account["lines"][2]["floats_each"]
    whole = {(int(y), x.numpy().tobytes()) for x, y in zip(*vars_of(run.distilled), strict=True)}
    left = [(int(y), x.numpy().tobytes()) for x, y in zip(*vars_of(less), strict=True)]
    assert set(left) <= whole
    assert len(set(left)) == len(less)


def vars_of(distilled):
    return distilled.images, distilled.labels


def test_only_instance_memories_are_dropped(run, pruned):
    before, after = (RunFolder(p).read_best_stage() for p in (run.folder, pruned[0]))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (name != "instance_memory")
    assert (
        sum(value.numel() for value in after.values())
        == api.load_run(pruned[0]).distilled.stored_floats
    )


def test_it_is_a_run_like_any_other(run, pruned):
    folder, printed = pruned
    again = api.load_run(folder)
    assert again.config.source.overbudget == 0
    assert again.config.source.images_per_class == again.distilled.images_per_class
    assert len(again.initial) == len(again.distilled)
    api.evaluate(folder)
    told = RunFolder(folder).read_manifest()["pruning"]
    assert [trial["beta"] for trial in told["trials"]] == [0.0, 1.0]
    assert "instance memories" in printed
    assert "held-out accuracy" in printed
    RunFolder(folder).check_whole()


def test_the_stored_memories_give_the_images_again_to_the_bit(run, pruned):
    for folder in (run.folder, pruned[0]):
        again = api.load_run(folder)
        train, source = again.config.data.build().train, again.config.source
        restored = source.restore(
            RunFolder(folder).read_best_stage(), train, CPU, Streams(0).fork("source")
        )
        assert torch.equal(render_all(restored), again.distilled.images)


def test_it_can_be_pruned_to_more_than_the_config_allowed(run, tmp_path):
    account = RunFolder(run.folder).read_manifest()["account"]
    each = 10 * account["lines"][2]["floats_each"]
    less = api.prune(run.folder, *OPTIONS, out=tmp_path / "a", budget=account["total"] - each)
    assert less.distilled.stored_floats == account["total"] - each > 2560
    again = api.prune(tmp_path / "a", *OPTIONS, out=tmp_path / "b", budget=2560)
    assert again.distilled.stored_floats <= 2560


def test_it_can_be_pruned_again(pruned, tmp_path):
    budget = DistilledSet.load(pruned[0]).stored_floats - 100
    less = api.prune(pruned[0], *OPTIONS, out=tmp_path / "less", budget=budget)
    assert less.distilled.stored_floats <= budget


def test_soft_labels_stay_with_their_images_and_are_counted(run, pruned, tmp_path):
    labelled = tmp_path / "labelled"
    shutil.copytree(run.folder, labelled)
    soft = torch.rand(len(run.distilled), 10, generator=torch.Generator().manual_seed(0))
    soft = soft / soft.sum(dim=1, keepdim=True)
    folder = RunFolder(labelled)
    folder.write_soft_labels(replace(run.distilled, soft_labels=soft), {"floats": soft.numel()})
    after = api.prune(labelled, *OPTIONS, out=tmp_path / "less").distilled
    manifest = RunFolder(tmp_path / "less").read_manifest()
    plain = RunFolder(pruned[0]).read_manifest()
    assert manifest["soft_labels"] == {"floats": 10 * len(after)}
    assert manifest["storage"]["images"] == plain["storage"]["images"]
    assert manifest["storage"]["labels"]["floats"] == 10 * len(after)
    kept = [
        int((run.distilled.images == image).flatten(1).all(1).nonzero()) for image in after.images
    ]
    assert torch.equal(after.soft_labels, soft[kept])


def test_what_cannot_be_is_refused_and_nothing_is_written(run, pruned, tmp_path):
    with pytest.raises(RunError, match="already holds a run"):
        api.prune(run.folder, out=pruned[0])
    with pytest.raises(RunError, match="got 0 images a class"):
        api.prune(run.folder, *OPTIONS, out=tmp_path / "a", budget=100)
    with pytest.raises(ConfigError, match=r"unknown key 'beta' in pruning\. Did you mean 'betas'"):
        api.prune(run.folder, "beta=1", out=tmp_path / "a")
    pixels = CONFIG | {"source": {"kind": "pixel", "steps": 0}}
    api.distill(pixels, out=tmp_path / "pixels")
    with pytest.raises(ConfigError, match="cannot be pruned: got pixel, expected hmn"):
        api.prune(tmp_path / "pixels", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_kill_anywhere_leaves_no_run_or_the_whole_one(run, pruned, tmp_path, monkeypatch):
    write, found = pruning._write, []
    monkeypatch.setattr(pruning, "_write", lambda *given: found.append(given))
    out = tmp_path / "out"
    api.prune(run.folder, *OPTIONS, out=out)
    ((*given, _),) = found
    event, killed = 1, True
    while killed:
        killed = attempt(tmp_path, event=event, work=lambda _: write(*given, out))
        assert not killed or not out.exists()
        event *= 2
    assert contents(out).items() <= contents(pruned[0]).items()
    RunFolder(out).check_whole()
    assert event > 100


def test_a_state_that_was_changed_is_not_used(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    path = copy / "checkpoints" / "stage-00.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(RunError, match="lost the state of its stage 'memories'"):
        api.prune(copy, *OPTIONS, out=tmp_path / "a")


def test_the_config_is_complete(pruned):
    text = (pruned[0] / "config.yaml").read_text()
    assert yaml.safe_load(text)["source"]["decoder"]["width"] > 0
