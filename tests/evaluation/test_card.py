"""The card: settings, and measurements whose results are known."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hpd.data import Dataset, Normalisation
from hpd.data.kinds.digits import DigitsSettings
from hpd.errors import ConfigError
from hpd.evaluation.card.corruptions import CORRUPTIONS
from hpd.evaluation.card.measuring import Card, CardSettings, Spread, losses, measure_card, resized
from hpd.rng import Streams
from hpd.students import STUDENTS, Student, TrainingSettings, accuracy, train_student

CPU = torch.device("cpu")


class Bright(Student):
    """Tells dark from bright: the logits are 0 and the sharpened mean of the pixels less 0.5."""

    def __init__(self, normalisation, sharpness=50.0):
        super().__init__()
        # made on meta, a layer draws nothing from the global generator
        self.head = nn.Linear(1, 2, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [sharpness]]))
            self.head.bias.copy_(torch.tensor([0.0, -0.5 * sharpness]))
        self._normalisation = normalisation

    def features(self, x):
        return self._normalisation.undo(x)

    def pool(self, features):
        return features.mean(dim=(1, 2, 3))[:, None]


def grey(values, labels):
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    return pixels.contiguous(), torch.tensor(labels)


@pytest.fixture
def dark_and_bright():
    """Half of the images are 10/255 from the border of the classes, half are 100/255 from it."""
    near, far = [118, 137] * 20, [28, 227] * 20
    part = grey([*near, *far], [0, 1] * 40)
    return Dataset.of(part, part, ("dark", "bright"))


def card_of(data, students, resized_students=(), **options):
    settings = CardSettings.read(options)
    return measure_card(
        "distilled", "bright", students, list(resized_students),
        data=data, settings=settings, streams=Streams(0), device=CPU,
    )  # fmt: skip


def test_numbers_are_what_they_must_be(dark_and_bright):
    """An attack of 15/255 takes the near half; a factor of 1.7 makes 118 bright, and 28 not."""
    data = dark_and_bright
    students = [Bright(data.train.normalisation) for _ in range(2)]
    card = card_of(
        data, students, students, corruptions=["brightness", "contrast"], epsilon=15 / 255, steps=5
    )
    assert (card.name, card.network, card.students) == ("distilled", "bright", 2)
    assert card.clean == Spread(100.0, 0.0)
    assert card.attack == "PGD-5, L-inf 15/255"
    assert card.attacked == Spread(50.0, 0.0)
    # 118 is bright from 1.3 on, 28 never is
    assert card.corruptions["brightness"] == [Spread(75.0, 0.0)] * 3
    # images of one value have no contrast to lose
    assert card.corruptions["contrast"] == [Spread(100.0, 0.0)] * 3
    assert card.corrupted == Spread(87.5, 0.0)
    assert (card.resolution, card.resized) == (12, Spread(100.0, 0.0))
    assert abs(card.membership.mean) < 25


def test_means_and_deviations_are_over_students(dark_and_bright):
    data = dark_and_bright
    students = [Bright(data.train.normalisation, sign) for sign in (50.0, -50.0)]
    card = card_of(data, students, corruptions=["contrast"])
    assert card.clean == Spread(50.0, round(5000**0.5, 4))
    assert card.corrupted == card.clean
    assert card.resized is None
    alone = card_of(data, students[:1], corruptions=["contrast"])
    assert alone.clean == Spread(100.0, 0.0)


def test_sets_are_judged_alike(dark_and_bright, streams):
    """Neither the name nor the other students change what is measured."""
    data = dark_and_bright
    student = STUDENTS.parse({"kind": "convnet", "width": 4, "depth": 1, "norm": "batch"}).build(
        (1, 8, 8), 2, streams.generator("weights")
    )
    student.train()
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    options = {"images": 30, "steps": 2, "membership_images": 20}
    first = card_of(data, [student], **options)
    again = card_of(data, [student], **options)
    both = card_of(data, [student, student], **options)
    assert first == again
    assert both.clean.mean == first.clean.mean
    assert both.corruptions == first.corruptions
    assert both.attacked == first.attacked
    assert both.membership == first.membership
    # what comes in goes out as it was
    assert all(layer.training for layer in student.modules())
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


def test_all_of_the_test_images_are_used_if_one_says_so(dark_and_bright):
    data = dark_and_bright
    student = Bright(data.train.normalisation)
    some, every = (
        card_of(data, [student], images=count, corruptions=["brightness"]) for count in (7, None)
    )
    assert every.corrupted.mean == 75.0
    assert some.corrupted.mean in [pytest.approx(100 * i / 7, abs=1e-3) for i in range(8)]


def test_overfitting_shows_as_membership(streams):
    """Students that know their training images by heart give them away."""
    rng = torch.Generator().manual_seed(3)
    parts = [torch.randint(0, 256, (60, 1, 8, 8), generator=rng).byte() for _ in range(2)]
    labels = torch.arange(60) % 3
    data = Dataset.of(*((part, labels) for part in parts), ("a", "b", "c"))
    student = STUDENTS.parse({"kind": "convnet", "width": 32, "depth": 1}).build(
        (1, 8, 8), 3, streams.generator("weights")
    )
    fresh = card_of(data, [student], corruptions=["gamma"], steps=1)
    training = TrainingSettings(epochs=60, lr=0.05, batch_size=20)
    train_student(student, data.train.normalised(), labels, training, streams)
    trained = card_of(data, [student], corruptions=["gamma"], steps=1)
    assert trained.membership.mean > 60
    assert abs(fresh.membership.mean) < 40


def test_real_students_of_digits(streams):
    """All kinds on real images: nothing helps, an attack hurts, accuracies are those of others."""
    data = DigitsSettings().build()
    chosen = data.train.draw_per_class(10, streams.generator("chosen"))
    x, y = data.train.normalised(chosen), data.train.labels[chosen]
    settings, training = CardSettings(), TrainingSettings(epochs=30)
    kind, side = STUDENTS.parse({"kind": "convnet", "width": 8}), 24
    assert settings.side_for(data.train.image_shape) == side
    students = [
        train_student(
            kind.build((1, size, size), 10, streams.generator(size)),
            resized(x, size), y, training, streams.fork(size),
        )
        for size in (16, side)
    ]  # fmt: skip
    options = {"membership_images": 300, "epsilon": 8 / 255}
    card = card_of(data, students[:1], students[1:], **options)
    test = data.test.normalised()
    assert card.clean.mean == pytest.approx(100 * accuracy(students[0], test, data.test.labels))
    assert card.resized.mean == pytest.approx(
        100 * accuracy(students[1], resized(test, side), data.test.labels)
    )
    assert list(card.corruptions) == list(CORRUPTIONS)
    assert card.corrupted.mean < card.clean.mean - 1
    assert card.attacked.mean < card.clean.mean - 1
    assert -15 < card.membership.mean < 25
    assert Card.of_json(json.loads(json.dumps(card.as_json()))) == card


def test_float64_is_computed_in(dark_and_bright, float64):
    student = Bright(dark_and_bright.train.normalisation)
    card = card_of(dark_and_bright, [student], [student], epsilon=15 / 255)
    assert card.attacked == Spread(50.0, 0.0)


def test_few_images_have_a_card():
    """One test image a class, and more to tell apart asked for than there are."""
    part = grey([0, 255], [0, 1])
    data = Dataset.of(part, part, ("dark", "bright"))
    card = card_of(data, [Bright(data.train.normalisation)], corruptions=["gamma"])
    assert card.clean.mean == 100.0


def test_resized_images():
    images = torch.linspace(0, 1, 16).expand(2, 3, 8, 16)
    large = resized(images, 12)
    assert large.shape == (2, 3, 12, 24)
    # a ramp stays one but at its ends
    steps = large[0, 0, 0].diff()[3:-3]
    assert torch.allclose(steps, steps.mean().expand_as(steps), atol=1e-5)
    # shrunk without aliasing: a chequered pattern is grey
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    small = resized(board[None, None].float(), 4)
    assert torch.allclose(small, torch.full_like(small, 0.5), atol=0.05)
    # normalisation and resizing may change places
    normalisation = Normalisation((0.3,), (0.2,))
    noise = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    there, back = (
        resized(normalisation.apply(noise), 12), normalisation.apply(resized(noise, 12))
    )  # fmt: skip
    assert torch.allclose(there, back, atol=1e-5)


@torch.no_grad()
def test_losses_are_those_of_each_image(images):
    student = Bright(images.normalisation)
    x, y = images.normalised(), images.labels.clamp(max=1)
    expected = [
        float(nn.functional.cross_entropy(student(x[i : i + 1]), y[i : i + 1])) for i in range(36)
    ]
    assert losses(student, x, y).tolist() == pytest.approx(expected, abs=1e-5)


def test_settings_say_what_is_wrong():
    with pytest.raises(ConfigError, match="Did you mean 'gaussian_blur'"):
        CardSettings.read({"corruptions": ["gausian_blur"]})
    for wrong in ({"corruptions": []}, {"epsilon": 0.0}, {"images": 0}, {"steps": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} in card is not valid"):
            CardSettings.read(wrong)
    assert CardSettings.read({"resolution": 20}).side_for((3, 64, 64)) == 20
    assert CardSettings.read({"epsilon": 0.5 / 255}).attack == "PGD-10, L-inf 0.5/255"


@pytest.mark.parametrize("damage", ["clean", "corruptions", "name", "resized"])
def test_damaged_cards_are_refused(damage, dark_and_bright):
    student = Bright(dark_and_bright.train.normalisation)
    values = card_of(dark_and_bright, [student], corruptions=["gamma"]).as_json()
    with pytest.raises(KeyError):
        Card.of_json({key: value for key, value in values.items() if key != damage})
    if damage != "name":
        with pytest.raises((TypeError, ValueError)):
            Card.of_json({**values, damage: "nothing"})
