"""How students get their weights, train and embed."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_STUDENT

from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Lesson,
    TrainingSettings,
    accuracy,
    train_student,
)
from hpd.students.base import initialise
from hpd.students.training import train_plainly


def test_a_layer_without_known_weights_is_named(rng):
    with pytest.raises(TypeError, match="Bilinear"):
        initialise(torch.nn.Bilinear(2, 2, 2, device="meta").to_empty(device="cpu"), rng)


def test_class_activation_of_a_pooled_head_is_cam(rng):
    """With one position left, Grad-CAM is relu(w_c . f), scaled to 1."""
    student = STUDENTS.parse(SMALL_STUDENT | {"depth": 3}).build((1, 8, 8), 3, rng)
    features = student.features(torch.randn(5, 1, 8, 8, generator=rng))
    labels = torch.tensor([0, 1, 2, 0, 1])
    spoken = (student.head.weight[labels] * features[:, :, 0, 0]).sum(dim=1).relu()
    want = (spoken > 0).float()
    torch.testing.assert_close(student.class_activation(features, labels)[:, 0, 0], want)


def test_training_learns_and_is_repeatable(images, rng):
    def trained(seed, **options):
        student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, Streams(1).generator())
        settings = TrainingSettings(epochs=30, batch_size=12, lr=0.05, **options)
        train_student(student, images.normalised(), images.labels, settings, Streams(seed))
        return student

    first, again, other = trained(0), trained(0), trained(1)
    assert accuracy(first, images.normalised(), images.labels) > 0.9
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )
    augmented = trained(0, augment=["crop", "cutout", "flip"], schedule="cosine")
    assert accuracy(augmented, images.normalised(), images.labels) > 0.8
    other_way = trained(0, algorithm="adamw", mixup=0.4)
    assert accuracy(other_way, images.normalised(), images.labels) > 0.8


def test_the_algorithms_are_those_of_torch(rng):
    student = STUDENTS.parse(SMALL_STUDENT).build((1, 8, 8), 3, rng)
    given = {"lr": 0.03, "weight_decay": 0.2}
    sgd = TrainingSettings(momentum=0.7, **given).optimizer(student)
    adamw = TrainingSettings(algorithm="adamw", **given).optimizer(student)
    assert (type(sgd), type(adamw)) == (torch.optim.SGD, torch.optim.AdamW)
    assert [o.defaults["lr"] for o in (sgd, adamw)] == [0.03, 0.03]
    assert [o.defaults["weight_decay"] for o in (sgd, adamw)] == [0.2, 0.2]
    assert (sgd.defaults["momentum"], adamw.defaults["betas"]) == (0.7, (0.9, 0.999))


def test_rates_follow_the_schedules():
    step = TrainingSettings(lr=1.0)
    assert [step.rate(share) for share in (0, 0.5, 0.51, 0.9)] == [1.0, 1.0, 0.1, 0.1]
    thrice = TrainingSettings(lr=1.0, drops=[0.25, 0.5], drop_factor=0.5)
    assert [thrice.rate(share) for share in (0, 0.3, 0.6)] == [1.0, 0.5, 0.25]
    cosine = TrainingSettings(lr=1.0, schedule="cosine")
    assert cosine.rate(0) == 1.0
    assert cosine.rate(0.5) == pytest.approx(0.5)
    assert 0 < cosine.rate(0.9) < 0.1


@pytest.mark.parametrize("size", [None, 1, 7, 64, 256])
@pytest.mark.parametrize("count", [1, 9, 64, 65, 100, 101, 129, 770])
def test_batches_differ_by_an_image_at_most_and_hold_every_image_once(count, size):
    pace = TrainingSettings(epochs=2, batch_size=size).pace(count)
    for epoch in range(2):
        steps, batches = zip(*pace.split(torch.arange(count).flip(0), epoch), strict=True)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= (size or (100 if count <= 100 else 64))
        assert torch.equal(torch.cat(batches), torch.arange(count).flip(0))
        assert list(steps) == [epoch * pace.batches + i for i in range(pace.batches)]


def test_a_length_is_epochs_or_steps_and_the_default_at_least_1000_steps():
    assert TrainingSettings().pace(10).steps == 1000
    assert TrainingSettings().pace(770).steps == 300 * 13
    assert TrainingSettings(epochs=5).pace(10).steps == 5
    assert TrainingSettings(epochs=5, min_steps=40).pace(10).steps == 40
    exactly = TrainingSettings(steps=30).pace(770)
    assert (exactly.steps, exactly.epochs) == (30, 3)
    assert [len(exactly.split(torch.arange(770), epoch)) for epoch in range(3)] == [13, 13, 4]
    for bad in ({"steps": 3, "epochs": 3}, {"steps": 3, "min_steps": 3}, {"drops": [1.0]}):
        with pytest.raises(ConfigError):
            TrainingSettings.read(bad)


def test_every_step_of_a_training_is_taken_and_no_more(images, rng, monkeypatch):
    student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, rng)
    shares = []
    rate = TrainingSettings.rate
    monkeypatch.setattr(
        TrainingSettings, "rate", lambda self, share: shares.append(share) or rate(self, share)
    )
    settings = TrainingSettings(steps=7, batch_size=4)
    lesson = Lesson(student, images.normalised()[:10], images.labels[:10], Streams(0))
    train_plainly(lesson, settings)
    assert shares == pytest.approx([step / 7 for step in range(7)])


def test_a_teacher_is_asked_of_each_augmented_and_mixed_batch(images, rng):
    """Online labels: with a teacher that answers by the pixels alone the labels mean nothing."""
    seen = []

    def teacher(x):
        seen.append(x.clone())
        return x.flatten(1)[:, :3] * 5

    def trained(labels):
        student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, Streams(1).generator())
        settings = TrainingSettings(
            steps=4, batch_size=6, augment=["flip"], cutmix=0.5, temperature=2.0
        )
        train_plainly(Lesson(student, images.normalised(), labels, Streams(3), teacher), settings)
        return student

    first = trained(images.labels)
    asked_of = torch.cat(seen)
    known = images.normalised()
    assert not all(any(torch.equal(x, y) for y in known) for x in asked_of)
    other = trained(images.labels.flip(0))
    for a, b in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
