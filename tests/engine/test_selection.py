"""Selectors: the class-relevant distance against its naive twin, and what it is blind to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from reference_selection import class_relevant_distance

from hpd import distill, load_dataset, train_experts
from hpd.data import Normalisation
from hpd.engine import SELECTORS
from hpd.engine.selection import ClassRelevantDistance
from hpd.engine.selection.class_relevant import (
    class_relevant_features,
    class_relevant_means,
    distance_of_means,
)
from hpd.engine.selection.loss import LossSettings
from hpd.engine.selection.validation import ValidationSettings
from hpd.errors import DataError
from hpd.objectives import OBJECTIVES
from hpd.objectives.distribution import DistributionSettings
from hpd.rng import Streams
from hpd.sources.pixel import PixelSettings
from hpd.students import STUDENTS, Student, train_student
from hpd.students.response import Response
from hpd.typing import Step


@pytest.mark.parametrize("weighted", [True, False])
def test_class_relevant_distance_equals_its_twin(weighted, float64, images, rng):
    student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, rng)
    student.requires_grad_(False)
    synthetic = torch.rand(4, 1, 8, 8, generator=rng)
    labels = torch.tensor([0, 1, 2, 2])
    score = ClassRelevantDistance([student], images, CPU, weighted=weighted)
    want = class_relevant_distance(
        student,
        images.normalised(),
        images.labels,
        images.normalisation.apply(synthetic),
        labels,
        weighted=weighted,
    )
    assert score(synthetic, labels) == pytest.approx(want, rel=1e-10)
    assert score(images.unit(), images.labels) == pytest.approx(0, abs=1e-20)


def test_class_means_do_not_depend_on_the_batches(float64, images, rng, monkeypatch):
    """Nor on the order of the images; a class without images is zero."""
    student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 4, rng)
    student.requires_grad_(False)
    x, y = images.normalised(), images.labels
    whole = class_relevant_means(student, x, y, 4)
    assert whole.shape == (4, 4, 2, 2)
    by_hand = [class_relevant_features(student, x[y == c], y[y == c]).mean(dim=0) for c in range(3)]
    torch.testing.assert_close(whole, torch.stack([*by_hand, torch.zeros(4, 2, 2)]))
    order = torch.randperm(36, generator=rng)
    monkeypatch.setattr("hpd.engine.selection.class_relevant._BATCH", 5)
    torch.testing.assert_close(class_relevant_means(student, x[order], y[order], 4), whole)


def test_the_size_of_a_distance_does_not_depend_on_the_resolution(rng):
    real, synthetic = torch.rand(2, 3, 4, 2, 2, generator=rng, dtype=torch.float64)
    want = (real - synthetic).square().sum() / 4
    assert distance_of_means(real, synthetic) == pytest.approx(float(want))
    larger = [m.repeat_interleave(2, 2).repeat_interleave(2, 3) for m in (real, synthetic)]
    assert distance_of_means(*larger) == pytest.approx(float(want))


@pytest.mark.parametrize("weighted", [True, False])
def test_where_a_feature_is_counts(weighted, images):
    """Maps of the same mean over positions, at another place: a pooled distance sees nothing."""
    student = Shown()
    synthetic, labels = torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2])
    synthetic[:, :, 0, 0] = 1
    moved = synthetic.flip(2)
    real = images.with_images((moved * 255).to(torch.uint8), labels)
    real = replace(real, normalisation=Normalisation((0.0,), (1.0,)))
    score = ClassRelevantDistance([student], real, CPU, weighted=weighted)
    # of three classes, each is one too many at one of 64 positions and one too few at another
    assert score(synthetic, labels) == pytest.approx(3 * 2 / 64)
    assert score(moved, labels) == 0


class Shown(Student):
    """A student whose only feature map is the image, which speaks for every class alike."""

    def __init__(self):
        super().__init__()
        # as it is made, a layer draws from the global generator
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, 1, 3)
        torch.nn.init.constant_(self.head.weight, 1.0)
        torch.nn.init.zeros_(self.head.bias)

    def features(self, x):
        return x

    def pool(self, features):
        return features.mean(dim=(2, 3))


def test_every_feature_and_position_counts(float64, images, rng):
    student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, rng)
    score = ClassRelevantDistance([student], images, CPU, weighted=False)
    synthetic, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])
    base = score(synthetic, labels)
    for row, column in ((0, 0), (7, 7), (3, 4)):
        changed = synthetic.clone()
        changed[:, :, row, column] += 0.5
        assert score(changed, labels) != base


# students small enough, and trained long enough, to tell three classes of brightness apart
QUICK = {"epochs": 30, "lr": 0.05, "batch_size": 6}
OPTIONS = {
    "class_relevant": {"student": SMALL_STUDENT},
    "ridge": {"student": SMALL_STUDENT},
    "validation": {"student": SMALL_STUDENT, "training": QUICK, "held_out": 0.25},
}


@pytest.fixture
def build(images, streams, objective_options):
    """Build a selector as a run does: it sees its part of the images."""

    def build(kind, objective="distribution", train=images, path=streams, **options):
        settings = SELECTORS.parse({"kind": kind, **OPTIONS.get(kind, {}), **options})
        matching = OBJECTIVES.parse({"kind": objective, **objective_options[objective]})
        seen, held = settings.split(train)
        return settings.build(held, CPU, path, matching.build(seen, CPU, streams.fork("objective")))

    return build


@pytest.mark.parametrize("kind", list(SELECTORS))
def test_conformance(kind, build, images, rng):
    """A score is a repeatable number, lower for the real images than for noise, or None."""
    selector, again = build(kind), build(kind)
    noise = torch.rand(6, 1, 8, 8, generator=rng)
    real = images.unit(torch.tensor([0, 1, 12, 13, 24, 25]))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    kept = noise.clone()
    score = selector(noise, labels)
    assert score == again(noise, labels) == selector(noise, labels)
    assert score is None or score > selector(real, labels) >= 0
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("extractor", ["trained", "random"])
def test_several_extractors_are_averaged(extractor, build, rng):
    noise, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])

    def score(networks):
        selector = build("class_relevant", extractor=extractor, networks=networks)
        return selector(noise, labels)

    assert score(3) != score(1)


def test_a_limit_of_real_images_leaves_so_many_of_each_class(images, monkeypatch):
    heard = []
    original = ClassRelevantDistance.__init__

    def listen(self, students, train, device, *, weighted):
        heard.append(train)
        original(self, students, train, device, weighted=weighted)

    monkeypatch.setattr(ClassRelevantDistance, "__init__", listen)
    for most in (5, 12, None):
        options = {"kind": "class_relevant", "student": SMALL_STUDENT, "images_per_class": most}
        SELECTORS.parse(options).build(images, CPU, Streams(0), None)
    assert [len(train) for train in heard] == [15, 36, 36]
    assert torch.equal(heard[0].labels, torch.arange(3).repeat_interleave(5))
    assert torch.equal(heard[1].images, images.images)
    assert heard[0].normalisation == images.normalisation


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("draws", [1, 3])
def test_the_loss_is_the_objectives_own_and_leaves_it_as_it_was(
    objective, draws, images, streams, objective_options, rng
):
    """A run that is scored by its loss takes the steps of one that is not."""
    settings = {"kind": objective, **objective_options[objective]}
    if objective == "gradient":
        settings["network"] = {"steps": 4, "epochs": 1}
    noise, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])

    def make():
        return OBJECTIVES.parse(settings).build(images, CPU, streams)

    alone, scored = make(), make()
    score = LossSettings(draws=draws).build(images, CPU, streams, scored)
    scores = []
    for i in range(4):
        want, _ = alone(noise, labels, Step(0, i)), scores.append(score(noise, labels))
        got = scored(noise, labels, Step(0, i))
        assert (got.loss, torch.equal(got.image_grad, want.image_grad)) == (want.loss, True)
    by_hand = [make()(noise, labels, Step(-1 - draw, 0)).loss for draw in range(draws)]
    assert scores[0] == pytest.approx(sum(by_hand) / draws, rel=1e-9)
    if objective != "trajectory":  # the rate that it learns on the way is in its loss
        assert scores == [scores[0]] * 4


def test_held_out_images_are_nowhere_else(images):
    settings = ValidationSettings(held_out=0.25)
    seen, held = settings.split(images)
    assert (len(seen), len(held)) == (27, 9)
    assert held.labels.bincount().tolist() == [3, 3, 3]
    everything = {image.numpy().tobytes() for image in images.images}
    parts = [{image.numpy().tobytes() for image in part.images} for part in (seen, held)]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert seen.normalisation == held.normalisation == images.normalisation


def test_a_small_class_gives_one_image_and_keeps_one(images):
    few = images.only([0, 1])
    some = torch.tensor([0, 1, *range(12, 24)])
    few = few.at(some)
    seen, held = ValidationSettings(held_out=0.1).split(few)
    assert held.labels.bincount().tolist() == [1, 1]
    assert seen.labels.bincount().tolist() == [1, 11]
    single = few.at(torch.arange(1, len(few)))
    with pytest.raises(DataError, match="class 'a' has too few images to hold any out: got 1"):
        ValidationSettings().split(single)


def test_the_validation_error_is_that_of_a_student_trained_by_hand(images, streams, rng):
    settings = SELECTORS.parse({"kind": "validation", **OPTIONS["validation"], "students": 2})
    _, held = settings.split(images)
    noise, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])
    wrong = 0
    for i in range(2):
        own = streams.fork("student", i)
        student = settings.student.build(images.image_shape, 3, own.generator("weights"))
        normalised = images.normalisation.apply(noise)
        train_student(student, normalised, labels, settings.training, own)
        with torch.no_grad():
            wrong += int((student(held.normalised()).argmax(dim=1) != held.labels).sum())
    score = settings.build(held, CPU, streams, None)(noise, labels)
    assert score == pytest.approx(wrong / 2 / len(held))


def test_a_run_that_validates_sees_no_held_out_image(monkeypatch):
    """Neither source nor objective, in a whole run."""
    seen = []
    for settings in (PixelSettings, DistributionSettings):
        original = settings.build

        def build(self, train, *rest, original=original):
            seen.append(len(train))
            return original(self, train, *rest)

        monkeypatch.setattr(settings, "build", build)
    small = {"student": SMALL_STUDENT, "training": {"epochs": 1}}
    distill(
        {
            "data": "digits",
            "source": {"kind": "pixel", "steps": 2},
            "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
            "selection": {"kind": "validation", "every": 1, **small},
        }
    )
    whole = load_dataset("digits").train
    assert seen == [len(ValidationSettings().split(whole)[0])] * 2
    assert seen[0] < len(whole)


def test_experts_are_trained_without_the_held_out_images(monkeypatch, tmp_path):
    seen = []

    def train(wanted, train, **rest):
        seen.append(len(train))
        raise KeyboardInterrupt

    monkeypatch.setattr("hpd.engine.experts.train_experts", train)
    config = {"data": "digits", "source": "pixel", "objective": "trajectory"}
    for selection in ("last", "validation"):
        with pytest.raises(KeyboardInterrupt):
            train_experts(config | {"selection": selection}, out=tmp_path)
    whole = load_dataset("digits").train
    assert seen == [len(whole), len(ValidationSettings().split(whole)[0])]


def test_the_real_side_of_a_score_is_computed_once(
    images, streams, objective_options, rng, monkeypatch
):
    settings = {"kind": "distribution", **objective_options["distribution"]}
    objective = OBJECTIVES.parse(settings).build(images, CPU, streams)
    embedded, embed = [], Response.embed
    monkeypatch.setattr(
        Response, "embed", lambda self, *given: embedded.append(1) or embed(self, *given)
    )
    noise, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])
    score = LossSettings(draws=2).build(images, CPU, streams, objective)
    scores = {score(noise, labels) for _ in range(4)}
    assert (len(scores), len(embedded)) == (1, 2 * 3)
    objective(noise, labels, Step(0, 0))
    objective(noise, labels, Step(0, 0))
    assert len(embedded) == 2 * 3 + 2 * 3
