"""Students in a stack, together or alone, come to what autograd would have come to."""

from __future__ import annotations

import pytest
import torch

from hpd.rng import Streams
from hpd.students import STUDENTS, Lesson, TrainingSettings, train_students
from hpd.students.stacked import together
from hpd.students.stacked.stack import StudentStack, stackable
from hpd.students.stacked.together import groups, stacked
from hpd.students.training import train_plainly

# the last has sizes that are no multiple of a tile, an odd one among them
SHAPES = [(1, 16, 16), (3, 8, 8), (1, 28, 28), (2, 12, 20)]
WAYS = {
    "plain": {},
    "augmented": {"augment": ["color", "crop", "cutout", "flip", "scale", "rotate"]},
    "mixed": {"cutmix": 0.5, "augment": ["crop"]},
    "mixup": {"mixup": 0.8, "augment": ["crop"]},
    "averaged": {"ema": 0.6, "warmup": 0.5, "schedule": "cosine"},
}


def lessons(shape=(1, 16, 16), *, count=3, images=7, soft=False, student=None, teacher=None):
    rng = torch.Generator().manual_seed(5)
    settings = STUDENTS.parse(student or {"kind": "convnet", "width": 4, "depth": 2})
    made = []
    for i in range(count):
        labels = torch.arange(images) % 3
        if soft:
            labels = torch.rand(images, 3, generator=rng).softmax(dim=1)
        made.append(
            Lesson(
                settings.build(shape, 3, torch.Generator().manual_seed(i)),
                torch.randn(images, *shape, generator=rng),
                labels,
                Streams(i),
                teacher,
            )
        )
    return made


def weights(made):
    return [dict(lesson.student.named_parameters()) for lesson in made]


def assert_same(ours, theirs, tolerance):
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        for name in mine:
            assert (mine[name] - other[name]).abs().max() <= tolerance, name


def check_same_lessons(ours, theirs, settings):
    """Train students together, and others like them one after another."""
    train_students(ours, settings)
    for lesson in theirs:
        train_plainly(lesson, settings)
    assert_same(ours, theirs, 1e-9)


@pytest.fixture
def small(monkeypatch):
    """Stacks pay however small the students are."""
    monkeypatch.setattr(together, "_LEAST", 1)


@pytest.mark.parametrize("most", [0, 10**9], ids=["alone", "together"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_equals_one_after_another(shape, way, most, float64, small, monkeypatch):
    """Two batches an epoch, of 4 and of 3; every student draws for itself."""
    monkeypatch.setattr(together, "_MOST_TOGETHER", most)
    settings = TrainingSettings(epochs=3, batch_size=4, lr=0.1, **WAYS[way])
    ours, theirs = lessons(shape), lessons(shape)
    assert all(stacked(group, settings) for group in groups(ours, settings))
    assert len(groups(ours, settings)) == (1 if most else 3)
    check_same_lessons(ours, theirs, settings)
    # and they did learn, each for itself
    assert (weights(ours)[0]["head.weight"] - weights(ours)[1]["head.weight"]).abs().max() > 0.01


def test_the_last_epoch_ends_with_the_last_step(float64, small):
    settings = TrainingSettings(steps=5, batch_size=4, lr=0.1, ema=0.6, schedule="cosine")
    check_same_lessons(lessons(), lessons(), settings)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_labels_asked_of_a_teacher_together(temperature, float64, small):
    def teacher(x):
        return 3 * x.flatten(1)[:, :3]

    settings = TrainingSettings(epochs=3, lr=0.1, temperature=temperature, cutmix=0.5)
    settings = settings.model_copy(update={"augment": ["crop"]})
    check_same_lessons(lessons(teacher=teacher), lessons(teacher=teacher), settings)
    plain = lessons()
    train_students(plain, settings)
    taught = lessons(teacher=teacher)
    train_students(taught, settings)
    assert (weights(plain)[0]["head.weight"] - weights(taught)[0]["head.weight"]).abs().max() > 0.01


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_together(temperature, float64, small):
    settings = TrainingSettings(epochs=3, lr=0.1, temperature=temperature, cutmix=0.3)
    ours, theirs = lessons(soft=True), lessons(soft=True)
    check_same_lessons(ours, theirs, settings)


def test_soft_labels_are_met_as_hinton_writes(float64):
    """One step moves the weights along the gradient of T^2 KL(teacher at T || student at T)."""
    lesson, other = lessons(soft=True, count=1), lessons(soft=True, count=1)
    settings = TrainingSettings(
        epochs=1, lr=0.3, momentum=0.0, weight_decay=0.0, temperature=3.0, schedule="constant"
    )
    train_plainly(lesson[0], settings)
    student, images, labels = other[0].student, other[0].images, other[0].labels
    loss = 0.0
    for logits, q in zip(student(images), labels, strict=True):
        softened = (q.log() / 3).exp() / (q.log() / 3).exp().sum()
        answer = (logits / 3).exp() / (logits / 3).exp().sum()
        loss = loss + 9 * (softened * (softened / answer).log()).sum() / len(images)
    loss.backward()
    for name, value in student.named_parameters():
        moved = dict(lesson[0].student.named_parameters())[name]
        assert (moved - (value - 0.3 * value.grad)).abs().max() < 1e-10


@pytest.mark.parametrize(
    "student",
    [
        {"kind": "convnet", "width": 4, "depth": 2, "norm": "batch"},
        {"kind": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_width": 8},
    ],
    ids=lambda options: options["kind"],
)
def test_others_learn_one_after_another(student, small):
    ours, theirs = (lessons(student=student, count=2) for _ in range(2))
    settings = TrainingSettings(epochs=1)
    assert not stacked(ours, settings)
    train_students(ours, settings)
    for lesson in theirs:
        train_plainly(lesson, settings)
    assert_same(ours, theirs, 0)


@pytest.mark.parametrize(
    ("images", "count", "sizes"), [(10, 5, [5]), (256, 2, [1, 1]), (10, 1, [1])], ids=str
)
def test_large_batches_are_taken_one_by_one(images, count, sizes):
    wide = {"kind": "convnet", "width": 128}
    made = lessons((3, 32, 32), count=count, images=images, student=wide)
    settings = TrainingSettings(epochs=1)
    assert [len(group) for group in groups(made, settings)] == sizes
    assert all(stacked(group, settings) for group in groups(made, settings))


def test_a_small_student_alone_learns_by_autograd():
    narrow = {"kind": "convnet", "width": 64}
    settings = TrainingSettings(epochs=1)
    assert not stacked(lessons(count=1, images=10, student=narrow), settings)
    assert stacked(lessons(count=3, images=10, student=narrow), settings)


def test_only_steps_of_sgd_are_taken_in_a_stack(small):
    assert stacked(lessons(), TrainingSettings(epochs=1))
    assert not stacked(lessons(), TrainingSettings(epochs=1, algorithm="adamw"))


def test_a_stack_gives_back_what_it_took(float64):
    made = lessons()
    before = [{name: value.clone() for name, value in own.items()} for own in weights(made)]
    stack = StudentStack([lesson.student for lesson in made])
    with torch.no_grad():
        for lesson in made:
            for value in lesson.student.parameters():
                value.zero_()
    stack.write_back()
    for own, old in zip(weights(made), before, strict=True):
        assert all(torch.equal(own[name], old[name]) for name in own)


def test_every_convnet_with_instance_norm_can_be_stacked_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    can = {kind for kind in STUDENTS if stackable(STUDENTS.parse(kind).build((3, 32, 32), 10, rng))}
    assert can == {"convnet"}
    for norm in ("group", "layer", "none", "batch"):
        assert not stackable(
            STUDENTS.parse({"kind": "convnet", "norm": norm}).build((3, 32, 32), 10, rng)
        )


def test_labels_become_probabilities_batch_by_batch(monkeypatch):
    """Never those of a whole set at once: a table of all images and classes may be large."""
    lengths, real = [], together.F.one_hot

    def listen(labels, classes):
        lengths.append(len(labels))
        return real(labels, classes)

    monkeypatch.setattr(together.F, "one_hot", listen)
    settings = TrainingSettings(epochs=2, batch_size=5)
    monkeypatch.setattr(together, "_LEAST", 0)
    train_students(lessons(count=2, images=15), settings)
    assert lengths == [5] * 3 * 2 * 2
