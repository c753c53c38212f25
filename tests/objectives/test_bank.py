"""A bank of networks: which one a step takes, what it must be, and how `hpd experts` makes it."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, SMALL_TRAINING

import hpd
from hpd.artifacts import RunFolder
from hpd.errors import ConfigError, RunError
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.students.experts.trajectories import ExpertFolder
from hpd.students.parameters import flatten
from hpd.typing import MatchesByClass, Step

PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "cutmix": 0.0}
THREE = {"kind": "digits", "classes": ["0", "1", "8"]}


def settings(folder, bank=(), **options):
    # as the experts of the fixture were, in the place of what a bank has by itself
    training = {"count": 2, "training": SMALL_TRAINING | PLAIN}
    own = {"experts": str(folder), "training": training, **dict(bank)}
    return OBJECTIVES.parse(
        {"kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4, "bank": own, **options}
    )


def build(folder, images, bank=(), **options):
    return settings(folder, bank, **options).build(images, CPU, Streams(0))


@pytest.mark.parametrize(
    ("ages", "expected"),
    [({}, {0, 1, 2, 3}), ({"first_epoch": 1}, {1, 2, 3}), ({"last_epoch": 1}, {0, 1}),
     ({"first_epoch": 2, "last_epoch": 2}, {2}), ({"last_epoch": 0}, {0})],
)  # fmt: skip
def test_steps_take_every_network_at_every_age(experts_folder, images, ages, expected):
    folder = ExpertFolder.open(experts_folder)
    rows = {(e, k): folder.parameters(e, k) for e in range(2) for k in range(4)}
    bank = build(experts_folder, images, ages)._network
    taken = []
    for index in range(60):
        student = bank.at(torch.zeros(0), torch.zeros(0), Step(0, index))
        assert not student.training
        taken.append(next(k for k, row in rows.items() if torch.equal(row, flatten(student))))
    # twins: of fresh weights all seeds differ, so each row is of one network and age
    assert {age for _, age in taken} == expected
    assert {expert for expert, _ in taken} == {0, 1}
    again = bank.at(torch.zeros(0), torch.zeros(0), Step(0, 7))
    assert torch.equal(flatten(again), rows[taken[7]])


def test_nothing_but_the_network_differs_from_matching_through_a_fresh_one(
    experts_folder, images, rendered
):
    """With the weights of the bank in its place, a fresh network gives the same."""
    pictures, labels = rendered
    objective = build(experts_folder, images)
    banked = objective(pictures, labels, Step(0, 3))
    student = objective._network.at(pictures, labels, Step(0, 3))
    plain = settings(experts_folder).model_copy(update={"bank": None})
    other = plain.build(images, CPU, Streams(0))
    other._network.at = lambda images, labels, step: student
    other._real._turns[student] = 0
    expected = other(pictures, labels, Step(0, 3))
    assert banked.loss == expected.loss
    assert torch.equal(banked.image_grad, expected.image_grad)


@pytest.fixture
def rendered():
    rng = torch.Generator().manual_seed(4)
    return torch.rand(6, 1, 8, 8, generator=rng), torch.arange(3).repeat_interleave(2)


def test_there_is_nothing_to_remember_and_classes_are_matched_alone(
    experts_folder, images, rendered
):
    pictures, labels = rendered
    objective = build(experts_folder, images)
    whole = objective(pictures, labels, Step(0, 5))
    assert objective.state() == {}
    assert isinstance(objective, MatchesByClass)
    assert not objective.needs_all(Step(0, 5))
    # in the middle of a run, and a part of the classes
    fresh = build(experts_folder, images)
    fresh.load_state({})
    parts = [fresh.match(pictures[labels == c], labels[labels == c], Step(0, 5),
                         torch.ones(2, dtype=torch.bool)) for c in range(3)]  # fmt: skip
    assert torch.equal(torch.cat([part.image_grad for part in parts]), whole.image_grad)
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss, rel=1e-6)


def test_what_the_networks_were_is_told(experts_folder, images):
    told = build(experts_folder, images).provenance["networks"]
    assert told == {"count": 2, "epochs": 3, "seed": 0, "images_sha256": images.sha256}


@pytest.mark.parametrize(
    ("bank", "options", "kind", "message"),
    [
        ({"first_epoch": 3, "last_epoch": 2}, {}, ConfigError, "got epochs 3 to 2, expected 0 to"),
        ({"last_epoch": 4}, {}, ConfigError, "got epochs 0 to 4, expected 0 to 3"),
        ({"training": {"count": 3, "training": SMALL_TRAINING}}, {}, RunError, "training"),
        ({}, {"student": {**SMALL_STUDENT, "width": 5}}, RunError, "another student"),
        ({}, {"cross": [{"kind": "resnet18", "width": 4}]}, ConfigError, "cross does nothing"),
        ({}, {"network": {"steps": 2}}, ConfigError, "network does nothing beside a bank"),
    ],
)
def test_what_does_not_fit_is_refused(experts_folder, images, bank, options, kind, message):
    with pytest.raises(kind, match=message):
        build(experts_folder, images, bank, **options)


def test_too_few_or_none_say_how_to_make_them(experts_folder, images, tmp_path):
    with pytest.raises(RunError, match="hpd experts CONFIG"):
        build(tmp_path / "none", images)
    training = settings(experts_folder).bank.training.training
    with pytest.raises(RunError, match="3"):
        build(experts_folder, images, {"training": {"count": 3, "training": training}})


def test_experts_makes_the_bank_that_a_run_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {
        "data": THREE,
        "source": {"kind": "pixel", "steps": 2},
        "objective": {
            "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
            "bank": {"training": {"count": 2, "training": {"epochs": 1, "lr": 0.1}}},
        },
        "selection": "last",
    }  # fmt: skip
    with pytest.raises(RunError, match="hpd experts CONFIG"):
        hpd.distill(config, out="early")
    folder = hpd.train_experts(config)
    assert folder.path.parts[:2] == ("runs", "networks")
    run = hpd.distill(config, out="run")
    manifest = RunFolder(run.folder).read_manifest()
    assert manifest["networks"]["count"] == 2
    with pytest.raises(ConfigError, match="trajectory, or gradient with a bank"):
        hpd.train_experts(config, "objective.bank=null")


def test_what_is_not_said_of_the_training_is_that_of_a_bank():
    given = {"kind": "gradient", "bank": {"training": {"count": 3, "training": {"epochs": 2}}}}
    training = OBJECTIVES.parse(given).bank.training
    assert training.count == 3
    own = training.training
    assert (own.epochs, own.momentum, own.weight_decay, own.cutmix) == (2, 0.9, 5e-4, 0.5)
    assert own.schedule == "constant"
