"""Soft labels that are stored in a distilled set, and students that learn from them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SMALL_STUDENT, SMALL_TEACHER
from kills import attempt
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import SMALL_EVALUATION, check_refused, contents

import hpd
from hpd.artifacts import DistilledSet, Provenance, RunFolder
from hpd.cli import main
from hpd.codecs import LabelCodes
from hpd.storage import Amount
from hpd.students.teachers import read_teacher

DATA = {"kind": "digits", "classes": ["0", "1", "8"]}
CONFIG = {
    "data": DATA,
    "device": "cpu",
    "source": {"kind": "pixel", "steps": 1, "images_per_class": 2},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": "last",
    "evaluation": SMALL_EVALUATION | {"seeds": 1},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers") / "digits"
    options = [f"student={SMALL_TEACHER['student']}", "training={epochs: 2, batch_size: 64}"]
    hpd.squeeze(DATA, *options, out=out)
    return str(out)


@pytest.fixture
def run(tmp_path):
    return hpd.distill(CONFIG, out=tmp_path / "run")


def test_labels_are_the_teachers_and_the_images_stay(run, teacher):
    result = CliRunner().invoke(main, ["relabel", str(run.folder), "--teacher", teacher])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("6 images relabelled, 18 floats more; the teacher agrees with")
    folder = RunFolder(run.folder)
    folder.check_whole()
    after, known = DistilledSet.load(run.folder), read_teacher(teacher)
    assert torch.equal(after.images, run.distilled.images)
    assert torch.equal(after.labels, run.distilled.labels)
    with torch.no_grad():
        want = known.network(known.normalise(after.images)).softmax(dim=1)
    torch.testing.assert_close(after.soft_labels, want)
    torch.testing.assert_close(after.soft_labels.sum(dim=1), torch.ones(6))
    with safe_open(run.folder / "distilled.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["images", "labels", "soft_labels"]
    manifest = folder.read_manifest()
    assert manifest["storage"]["images"]["floats"] == 6 * 256
    assert manifest["storage"]["labels"] == {"floats": 18, "bits": 18 * 32}
    assert manifest["soft_labels"]["floats"] == 18
    assert manifest["soft_labels"]["teacher"]["weights_sha256"] == known.record.weights
    # once more changes nothing, and counts nothing twice
    before = folder.read_manifest(), (run.folder / "distilled.safetensors").read_bytes()
    hpd.relabel(run.folder, teacher)
    assert (folder.read_manifest(), (run.folder / "distilled.safetensors").read_bytes()) == before
    assert torch.equal(hpd.distill(CONFIG, out=run.folder, resume=True).distilled.images,
                       run.distilled.images)  # fmt: skip


def test_labels_in_few_bits_are_what_comes_back_from_them(run, teacher):
    whole = hpd.relabel(run.folder, teacher).distilled.soft_labels
    options = ["relabel", str(run.folder), "--teacher", teacher, "--bits", "4"]
    assert CliRunner().invoke(main, options).exit_code == 0
    after = DistilledSet.load(run.folder)
    codes = LabelCodes.of(whole, 4)
    expected, bits = codes.probabilities, codes.size
    assert torch.equal(after.soft_labels, expected)
    assert after.storage.labels == Amount(18, bits)
    manifest = RunFolder(run.folder).read_manifest()
    assert manifest["storage"]["labels"] == {"floats": 18, "bits": bits}
    assert manifest["soft_labels"]["bits"] == bits == 18 * 4 + 64
    # as large on disk as it says, and the labels come back from there
    name = manifest["soft_labels"]["codes"]
    kept = load_file(run.folder / name)
    assert 8 * sum(value.numel() * value.element_size() for value in kept.values()) == bits
    RunFolder(run.folder).check_whole(name)
    back = LabelCodes(kept, manifest["soft_labels"]["bits_each"], tuple(whole.shape))
    assert torch.equal(back.probabilities, after.soft_labels)
    assert hpd.relabel(run.folder, teacher).distilled.storage.labels == Amount(18, 18 * 32)
    assert not list(run.folder.glob("label-codes-*"))
    with pytest.raises(hpd.HpdError, match="got 5, expected 2, 4, 8, 16 or 32"):
        hpd.relabel(run.folder, teacher, bits=5)


def seen(folder):
    """What readers make of a run: all of its files as they were written, and what it tells."""
    run = RunFolder(folder)
    run.check_whole()
    facts = run.read_manifest()
    assert {**facts, "sha256": None} == {**Provenance.read(folder).manifest, "sha256": None}
    soft = DistilledSet.load(folder).soft_labels
    return facts, None if soft is None else soft.tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("bits", [32, 4])
def test_a_kill_anywhere_leaves_the_old_result_or_the_new_one(run, teacher, tmp_path, bits):
    """In few bits in the place of other few bits; else in the place of none."""
    if bits == 4:
        hpd.relabel(run.folder, teacher, bits=2)
    old, whole = seen(run.folder), tmp_path / "whole"
    shutil.copytree(run.folder, whole)
    relabelled = hpd.relabel(whole, teacher, bits=bits).distilled
    new, about = seen(whole), RunFolder(whole).read_manifest()["soft_labels"]
    codes = load_file(whole / about["codes"]) if bits == 4 else None
    about = {name: value for name, value in about.items() if name != "codes"}

    def relabel(path):
        RunFolder(path).write_soft_labels(relabelled, about, codes)

    found, killed = [], True
    while killed:
        path = Path(shutil.copytree(run.folder, tmp_path / f"killed-{len(found)}"))
        killed = attempt(path, event=len(found) + 1, work=relabel)
        found.append(seen(path))
        hpd.relabel(path, teacher, bits=bits)
        assert contents(path) == contents(whole)
    assert old != new
    # first the old one, then the new one, and nothing else
    assert found == [old] * found.count(old) + [new] * found.count(new)
    assert found.count(old) > 4
    assert found.count(new) > 2


def test_students_learn_from_them(run, teacher):
    with pytest.raises(hpd.HpdError, match="no soft labels"):
        hpd.evaluate(run, "labels=stored")
    run = hpd.relabel(run.folder, teacher)
    protocol = ("protocol=dwa", "training.epochs=2", "full_training=null")
    stored = hpd.evaluate(run.folder, *protocol, "labels=stored")
    rows = {row.name: (row.labels, row.storage.labels.floats) for row in stored.rows}
    assert rows == {
        "distilled": ("stored", 18), "initial": ("hard", 0), "random_real": ("hard", 0),
        "random_real_bits": ("hard", 0),
    }  # fmt: skip
    assert {row.storage.images.floats for row in stored.rows[:3]} == {6 * 256}
    # the same teacher for all sets: equal labels for the distilled one
    given = f"teacher={teacher}"
    every = hpd.evaluate(run.folder, *protocol, "labels=stored", given)
    assert [row.labels for row in every.rows][:3] == ["stored", "soft", "soft"]
    assert {row.storage.labels.floats for row in every.rows[:3]} == {18}
    fresh = hpd.evaluate(run.folder, *protocol, given)
    assert [row.accuracies for row in fresh.rows] == [row.accuracies for row in every.rows]
    assert every.row("distilled").accuracies == stored.row("distilled").accuracies


def test_labels_of_another_teacher_teach_something_else(run, teacher):
    """What is stored is what is learnt: the same images with turned labels."""
    run = hpd.relabel(run, teacher)
    soft = run.distilled.soft_labels
    turned = replace(run, distilled=replace(run.distilled, soft_labels=soft.roll(1, 1)))
    options = ("labels=stored", "training={epochs: 60, lr: 0.1}", "baselines=[]")
    straight, other = (
        hpd.evaluate(replace(r, folder=None), *options).row("distilled").accuracy_mean
        for r in (run, turned)
    )
    assert straight > 60
    assert other < straight - 30


def test_arrays_and_tensors_carry_them_on(run, teacher, tmp_path):
    relabelled = hpd.relabel(run, teacher)
    for name in ("npz", "safetensors"):
        result = CliRunner().invoke(
            main, ["export", str(run.folder), "--format", name, "--out", str(tmp_path / name)]
        )
        assert result.exit_code == 0, result.output
    soft = relabelled.distilled.soft_labels
    assert np.array_equal(np.load(tmp_path / "npz" / "distilled.npz")["soft_labels"], soft)
    loaded = DistilledSet.load(tmp_path / "safetensors" / "distilled.safetensors")
    assert torch.equal(loaded.soft_labels, soft)


def test_some_of_the_images_keep_their_labels(run, teacher):
    whole = hpd.relabel(run, teacher).distilled
    part = whole.only(torch.tensor([4, 1]), 100)
    assert torch.equal(part.soft_labels, whole.soft_labels[[4, 1]])
    assert (part.label_floats, part.stored_floats, len(part)) == (6, 100, 2)
    assert run.distilled.only(torch.tensor([0]), 1).soft_labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--teacher", "nowhere"], "holds no teacher"),
        (["nowhere", "--teacher", "small"], "is not a run folder"),
        (["run", "--teacher", "small"], "the teacher is of other images"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, message, run, teacher_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").symlink_to(teacher_folder)
    before = {p: p.read_bytes() for p in run.folder.iterdir() if p.is_file()}
    result = CliRunner().invoke(main, ["relabel", *arguments])
    check_refused(result, message)
    assert {p: p.read_bytes() for p in run.folder.iterdir() if p.is_file()} == before


def with_teacher(teacher, **more):
    return {**CONFIG, "relabel": {"teacher": teacher, **more}}


def test_a_run_may_end_with_a_teachers_labels(teacher, tmp_path):
    run = hpd.distill(with_teacher(teacher, bits=4), out=tmp_path / "run")
    by_hand = hpd.relabel(hpd.distill(CONFIG, out=tmp_path / "plain"), teacher, bits=4)
    assert torch.equal(run.distilled.soft_labels, by_hand.distilled.soft_labels)
    assert run.distilled.storage == by_hand.distilled.storage
    loaded = hpd.load_run(tmp_path / "run")
    assert torch.equal(loaded.distilled.soft_labels, run.distilled.soft_labels)
    kept = RunFolder(tmp_path / "run")
    kept.check_whole()
    assert kept.read_manifest()["soft_labels"]["bits_each"] == 4
    in_memory = hpd.distill(with_teacher(teacher, bits=4))
    assert torch.equal(in_memory.distilled.soft_labels, run.distilled.soft_labels)
    # a finished run is returned as it is; one that lost its labels gets them
    before = contents(tmp_path / "run")
    hpd.distill(with_teacher(teacher, bits=4), out=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_a_run_that_was_killed_before_its_labels_gets_them(teacher, tmp_path, monkeypatch):
    def die(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hpd.api.judging.judges.store_labels", die)
        with pytest.raises(KeyboardInterrupt):
            hpd.distill(with_teacher(teacher), out=tmp_path / "run")
    assert hpd.load_run(tmp_path / "run").distilled.soft_labels is None
    again = hpd.distill(with_teacher(teacher), out=tmp_path / "run", resume=True)
    assert again.distilled.soft_labels is not None
    assert hpd.load_run(tmp_path / "run").distilled.soft_labels is not None


def test_a_teacher_that_does_not_fit_is_found_before_the_first_step(teacher, tmp_path):
    wrong = with_teacher(teacher) | {"data": "digits"}
    for config, message in (
        (with_teacher(str(tmp_path)), "holds no teacher"),
        (wrong, "the teacher is of other images"),
        (
            with_teacher(teacher) | {"source": {"kind": "pixel", "steps": 1, "learnt_labels": {}}},
            "labels that are learnt are not a teacher's",
        ),
    ):
        with pytest.raises(hpd.HpdError, match=message):
            hpd.distill(config, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
