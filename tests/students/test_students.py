"""How students get their weights, train and embed."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_STUDENT

from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    TrainingSettings,
    accuracy,
    class_means,
    train_student,
)
from hpd.students.base import initialise


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
    given = {"lr": 0.03, "weight_decay": 0.2, "momentum": 0.7}
    sgd = TrainingSettings(**given).optimizer(student)
    adamw = TrainingSettings(algorithm="adamw", **given).optimizer(student)
    assert (type(sgd), type(adamw)) == (torch.optim.SGD, torch.optim.AdamW)
    assert [o.defaults["lr"] for o in (sgd, adamw)] == [0.03, 0.03]
    assert [o.defaults["weight_decay"] for o in (sgd, adamw)] == [0.2, 0.2]
    assert (sgd.defaults["momentum"], adamw.defaults["betas"]) == (0.7, (0.9, 0.999))


def test_rates_follow_the_schedules():
    step = TrainingSettings(epochs=10, lr=1.0)
    assert [step.rate(e) for e in (0, 5, 6, 9)] == [1.0, 1.0, 0.1, 0.1]
    cosine = TrainingSettings(epochs=10, lr=1.0, schedule="cosine")
    assert cosine.rate(0) == 1.0
    assert cosine.rate(5) == pytest.approx(0.5)
    assert 0 < cosine.rate(9) < 0.1


def test_means_of_no_rows_are_zero():
    means = class_means(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 3)
    assert torch.equal(means, torch.zeros(3, 2))
