"""A step that takes ten classes costs the same whether these are all, or ten of a thousand.

Operations are counted, and bytes of tensors that are alive at a time, which are the same on every
machine: what grows with the classes may be weights of a student's head, and nothing else.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import CPU, ROOT, SMALL_STUDENT
from torch.utils._python_dispatch import TorchDispatchMode

from hpd.data import Dataset, ImageSet, Normalisation
from hpd.engine.rendered import Drawn, SomeClasses
from hpd.engine.selection.class_relevant import class_relevant_features, class_relevant_means
from hpd.engine.teachers import squeeze
from hpd.objectives import ADD_ONS, OBJECTIVES, matching, mutual_information
from hpd.objectives.classes import of_classes
from hpd.objectives.recovery import blocks_of
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.students import STUDENTS
from hpd.students.teachers import SqueezeSettings
from hpd.typing import Step

sys.path.insert(0, str(ROOT / "tools"))

from peak_memory import peak_bytes

MANY, FEW = 1000, 10
BATCH_NORM = SMALL_STUDENT | {"norm": "batch"}
SMALL = {"student": SMALL_STUDENT, "real_batch": 4}


def images_of(classes: int, each: int = 4) -> ImageSet:
    """Random images of 8 px."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (classes * each, 1, 8, 8), generator=rng).byte()
    labels = torch.arange(classes).repeat(each)
    names = tuple(f"c{i}" for i in range(classes))
    return ImageSet(pixels, labels, names, Normalisation.of(pixels))


class Operations(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Taken:
    """What a step took."""

    operations: int
    bytes: int
    head_bytes: int


def take(options, classes: int) -> Taken:
    """Take steps of an objective with images of pixels: ten classes of so many."""
    train = images_of(classes)
    objective = OBJECTIVES.parse(options).build_whole(train, CPU, Streams(0))
    pixels = {"kind": "pixel", "images_per_class": 2}
    source = SOURCES.parse(pixels).build(train, CPU, Streams(1))
    source.enter(0)
    some = SomeClasses(None, torch.arange(classes), Streams(2))

    def step(index: int = 0) -> None:
        drawn = Drawn.of(source, Step(0, index), some)
        assert len(drawn.labels.unique()) == FEW
        images, pull = source.render(drawn.indices)
        pull(objective(images, drawn.labels, Step(0, index)).image_grad)

    step()
    with Operations() as counted:
        step(1)
    with torch.device("meta"):
        features = STUDENTS.parse(SMALL_STUDENT).make(train.image_shape, FEW).head.in_features
    return Taken(counted.count, peak_bytes(lambda: step(2)), 4 * classes * (features + 1))


KINDS = {
    "distribution": {"kind": "distribution", **SMALL},
    "halves": {"kind": "distribution", **SMALL, "halves": True},
    "batch norm": {"kind": "distribution", **SMALL, "student": BATCH_NORM},
    "gradient": {"kind": "gradient", **SMALL, "network": {"steps": 1}},
    "regression": {"kind": "regression", **SMALL, "real_batch": 40, "pool": None},
    **{
        name: {
            "kind": "distribution", **SMALL,
            "add_ons": [{"kind": name, "student": SMALL_STUDENT, "real_batch": 4}],
        }
        for name in ADD_ONS
    },
}  # fmt: skip
# what takes all classes at each step, and says so
WHOLE = {"trajectory", "recovery"}


def test_every_objective_is_here():
    assert {options["kind"] for options in KINDS.values()} | WHOLE == set(OBJECTIVES)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_of_some_classes_costs_what_these_classes_cost(name):
    few, many = take(KINDS[name], FEW), take(KINDS[name], MANY)
    # that classes are drawn takes a few operations more
    assert many.operations <= few.operations + 40
    # gradients of a head by ten classes, twice, and what they are made of; of pixels one for each
    pixels = 2 * 4 * 64 * MANY
    assert many.bytes <= few.bytes + 12 * many.head_bytes + 2 * pixels


def seen_by_norms(train: ImageSet) -> list[int]:
    """How many images go through a fresh student with batch norm, and how many at a time."""
    counts = []
    kind = STUDENTS.parse(BATCH_NORM)
    settings = matching.MatchingSettings(student=kind, real_batch=4)
    real = matching.RealSide(train, settings, CPU, Streams(0))
    student = real.build(torch.Generator().manual_seed(0))
    student.register_forward_pre_hook(lambda module, given: counts.append(len(given[0])))
    real.ready(student, Step(0, 0))
    return counts


def test_norms_see_as_many_images_of_many_classes_as_of_ten():
    assert seen_by_norms(images_of(10, each=20)) == [160]
    assert seen_by_norms(images_of(100, each=20)) == [1600]
    assert seen_by_norms(images_of(101)) == [160]
    assert seen_by_norms(images_of(MANY)) == [160]


def test_norms_see_large_images_part_by_part_and_learn_about_the_same(monkeypatch):
    train, found = images_of(10, each=20), []
    for pixels in (1 << 22, 41 * 64):
        monkeypatch.setattr(matching, "_CALIBRATION_PIXELS", pixels)
        settings = matching.MatchingSettings(student=STUDENTS.parse(BATCH_NORM))
        real = matching.RealSide(train, settings, CPU, Streams(0))
        student = real.student(Step(0, 0))
        found.append({k: v for k, v in student.named_buffers() if "running" in k})
    assert seen_by_norms(train) == [40] * 4
    whole, parted = found
    for name, value in whole.items():
        torch.testing.assert_close(parted[name], value, rtol=0.1, atol=0.03)
    assert any(not torch.equal(whole[name], parted[name]) for name in whole)


def test_a_joint_batch_has_the_classes_of_a_step_and_others_to_make_them_ten():
    train = images_of(MANY)
    host = OBJECTIVES.parse(KINDS["distribution"])
    options = ADD_ONS.parse({"kind": "mutual_information", **SMALL})
    add_on = options.build(host, train, CPU, Streams(0))._inside
    _, classes = add_on._joint_batch(torch.tensor([7, 7, 3]), Step(0, 0))
    assert len(classes.unique()) == mutual_information._LEAST_CLASSES
    assert {3, 7} <= set(classes.tolist())
    own = torch.arange(30) * 5
    _, classes = add_on._joint_batch(own, Step(0, 0))
    assert torch.equal(classes.unique(), own)
    # one class alone has nothing to be told from
    matched = add_on(torch.rand(1, 1, 8, 8, generator=torch.Generator()), own[:1], Step(0, 1))
    assert bool(matched.image_grad.any())


@pytest.mark.parametrize("per_class", [1, 2, None])
def test_blocks_are_of_so_many_classes_at_most(per_class):
    labels = torch.arange(250).repeat_interleave(3)[
        torch.randperm(750, generator=torch.Generator())
    ]
    blocks = blocks_of(labels, per_class, 100)
    assert torch.equal(torch.cat(blocks).sort().values, torch.arange(750))
    sizes = [len(labels[own].unique()) for own in blocks]
    rounds = 1 if per_class is None else math.ceil(3 / per_class)
    assert sizes == [100, 100, 50] * rounds
    for number, own in enumerate(blocks):
        assert set((labels[own] // 100).tolist()) == {number % 3}
        each = 3 if per_class is None else min(per_class, 3 - number // 3 * per_class)
        assert set(labels[own].bincount().tolist()) <= {0, each}


def test_a_teacher_is_asked_about_a_hundred_classes_at_a_time(tmp_path):
    train = images_of(250)
    training = {"epochs": 1, "lr": 0.1, "batch_size": 100}
    squeeze(
        tmp_path / "teacher", SqueezeSettings.read({"student": BATCH_NORM, "training": training}),
        Dataset(train, train), device=CPU, seed=0,
    )  # fmt: skip
    options = {"kind": "recovery", "teacher": str(tmp_path / "teacher"), "roll": 0}
    settings = OBJECTIVES.parse(options)
    assert settings.takes_all(None)
    assert not settings.takes_all(20)
    objective = settings.build(train, CPU, Streams(0))
    labels = torch.arange(250)
    images = torch.rand(250, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = []
    network = objective._inside._teacher.network
    network.register_forward_pre_hook(lambda module, given: counts.append(len(given[0])))
    matched = objective(images, labels, Step(0, 0))
    assert counts == [100, 100, 50]
    # and each block is by itself
    alone = objective(images[:100], labels[:100], Step(0, 0))
    assert torch.equal(matched.image_grad[:100], alone.image_grad)


def test_means_of_features_of_many_classes_are_those_of_each(rng):
    train = images_of(150, each=3)
    student = STUDENTS.parse(SMALL_STUDENT).build(train.image_shape, 150, rng)
    means = class_relevant_means(student, train.normalised(), train.labels, 150)
    for label in (0, 71, 149):
        own = train.by_class[label]
        rows = class_relevant_features(student, train.normalised(own), train.labels[own])
        torch.testing.assert_close(means[label], rows.mean(dim=0))


def test_classes_are_found_by_one_sort():
    labels = torch.arange(MANY).repeat_interleave(3)
    with Operations() as counted:
        (whole,) = of_classes(labels, at_once=None)
    assert whole.labels == tuple(range(MANY))
    assert whole.where == slice(0, 3 * MANY)
    assert counted.count < 100
