"""Trajectory matching against its naive twin, and the three ways to differentiate it."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, SMALL_TRAINING
from peak_memory import peak_bytes
from reference import trajectory_distance
from torch.autograd import gradcheck

from hpd.augment import Augmentation
from hpd.errors import ConfigError, DataError, NumericError, RunError
from hpd.objectives import OBJECTIVES
from hpd.objectives.trajectory import Span, trajectory_loss
from hpd.objectives.unrolling import METHODS, Batch, UnrolledStudent
from hpd.students import STUDENTS
from hpd.students.parameters import flatten, layout_of, unflatten
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


class Scene:
    """A student on its way, and where an expert went."""

    def __init__(self, rng, size=8, **options):
        self.settings = STUDENTS.parse(SMALL_STUDENT | options)
        self.student = self.settings.build((1, size, size), 3, rng)
        self.unrolled = UnrolledStudent(lambda: self.settings.make((1, size, size), 3))
        self.images = torch.randn(6, 1, size, size, generator=rng)
        self.start = flatten(self.student)
        others = [
            Batch(torch.randn(6, 1, size, size, generator=rng), LABELS, torch.arange(6), None)
        ]
        target = METHODS["unrolled"](self.unrolled, self.start, others * 20, torch.tensor(0.1))
        self.span = Span(self.start, target.detach())

    def match(self, method, steps, lr, *, images=None, chosen=None, augment=None):
        """Return the loss, and its gradients by images and learning rate."""
        images = (self.images if images is None else images).clone().requires_grad_()
        lr = torch.tensor(lr, dtype=images.dtype, requires_grad=True)
        chosen = chosen or [torch.arange(6)] * steps
        batches = [Batch(images, LABELS, c, augment) for c in chosen]
        end = METHODS[method](self.unrolled, self.start, batches, lr)
        loss = trajectory_loss(end, self.span)
        return loss.detach(), *torch.autograd.grad(loss, (images, lr))


@pytest.fixture
def scene(float64, rng):
    return Scene(rng)


@pytest.mark.parametrize("method", ["unrolled", "checkpointed"])
def test_exact_methods_equal_the_twin(method, scene):
    augment = Augmentation("scale", torch.tensor([[0.1, 0.9, 0.0]], dtype=torch.float64))
    chosen = [torch.tensor(c) for c in ([0, 2, 4], [1, 3, 5], [5, 0, 2])]
    got = scene.match(method, 3, 0.1, chosen=chosen, augment=augment)
    images = scene.images.clone().requires_grad_()
    lr = torch.tensor(0.1, requires_grad=True)
    layout = layout_of(scene.student)
    start, target = (unflatten(v, layout) for v in (scene.span.start, scene.span.target))
    batches = [(augment(images[c]), LABELS[c]) for c in chosen]
    loss = trajectory_distance(scene.student, start, target, batches, lr)
    want = (loss.detach(), *torch.autograd.grad(loss, (images, lr)))
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_exact_gradient_at_one_step(method, scene):
    got, want = scene.match(method, 1, 0.1), scene.match("unrolled", 1, 0.1)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("lr", "error", "cosine"), [(0.01, 0.09, 0.996), (0.1, 0.68, 0.85)])
def test_constant_memory_is_as_far_off_at_twenty_steps_as_it_should_be(
    float64, rng, lr, error, cosine
):
    """It is an approximation, and no better one than it is: the Hessians are left out."""
    scene = Scene(rng, size=16, width=16)
    loss, exact, _ = scene.match("unrolled", 20, lr)
    same, approximate, _ = scene.match("constant_memory", 20, lr)
    torch.testing.assert_close(loss, same, rtol=1e-12, atol=0)
    got = float((approximate - exact).norm() / exact.norm())
    assert error / 2 < got < error * 2
    likeness = float((approximate * exact).sum() / approximate.norm() / exact.norm())
    assert likeness == pytest.approx(cosine, abs=0.01 if lr == 0.01 else 0.15)


@pytest.mark.parametrize("method", ["unrolled", "checkpointed"])
def test_gradcheck(method, float64, rng):
    scene = Scene(rng, size=4, width=2, norm="group")

    def loss(images, lr):
        batches = [Batch(images, LABELS, torch.arange(6), None)] * 2
        return trajectory_loss(
            METHODS[method](scene.unrolled, scene.start, batches, lr), scene.span
        )

    lr = torch.tensor(0.1, requires_grad=True)
    assert gradcheck(loss, (scene.images.clone().requires_grad_(), lr), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_order_within_a_batch_changes_nothing(method, scene):
    straight = scene.match(method, 2, 0.1)
    turned = scene.match(method, 2, 0.1, chosen=[torch.tensor([5, 3, 1, 0, 2, 4])] * 2)
    for one, other in zip(straight, turned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_closed_forms():
    span = Span(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0]))
    assert float(trajectory_loss(span.target, span)) == 0
    assert float(trajectory_loss(span.start, span)) == 1
    assert float(trajectory_loss(torch.tensor([6.0, 8.0]), span)) == 1


def test_memory_by_method_and_steps(rng):
    """Constant memory is constant; checkpointing halves the unrolled one, and more."""
    scene = Scene(rng, size=16, width=16)

    def peak(method, steps):
        return peak_bytes(lambda: scene.match(method, steps, 0.01))

    assert peak("constant_memory", 20) <= 1.01 * peak("constant_memory", 2)
    assert peak("unrolled", 20) > 4 * peak("unrolled", 2)
    assert peak("checkpointed", 20) < 0.5 * peak("unrolled", 20)


@pytest.fixture
def build(images, streams, objective_options):
    def make(train=images, **options):
        given = {"kind": "trajectory", **objective_options["trajectory"], **options}
        return OBJECTIVES.parse(given).build(train, CPU, streams)

    return make


def test_batches_use_every_image_before_any_a_second_time(build, rng):
    objective = build(synthetic_batch=2, student_steps=7)
    synthetic = torch.rand(6, 1, 8, 8, generator=rng)
    chosen = [b.chosen.tolist() for b in objective._batches(synthetic, LABELS, Step(0, 0))]
    assert [len(c) for c in chosen] == [2] * 7
    rounds = [[i for c in part for i in c] for part in (chosen[:3], chosen[3:6])]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(6))
    assert chosen[:3] != chosen[3:6]


def test_the_student_rate_is_learnt(build, rng):
    """A step along the gradient of its logarithm; and none where it is not asked for."""
    synthetic = torch.rand(6, 1, 8, 8, generator=rng)
    fixed, learning = build(student_lr_rate=0), build(student_lr_rate=0.1)
    rates = []
    for objective in (fixed, learning):
        first = objective(synthetic, LABELS, Step(0, 0))
        second = objective(synthetic, LABELS, Step(0, 0))
        assert first.metrics["student_lr"] == pytest.approx(0.1)
        rates.append(second.metrics["student_lr"])
        assert objective.provenance["student_lr"] != rates[-1] or objective is fixed
        if objective is learning:
            assert second.loss < first.loss
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] != pytest.approx(0.1, rel=1e-6)


def test_the_logarithm_moves_alike_wherever_it_starts(build, float64, rng):
    """By the rate times ``d loss / d log lr``, from central differences."""
    synthetic, rate, h = torch.rand(6, 1, 8, 8, generator=rng), 0.01, 1e-5

    def loss(lr):
        return build(student_lr=lr)(synthetic, LABELS, Step(0, 0)).loss

    for start in (0.05, 0.2):
        objective = build(student_lr=start, student_lr_rate=rate)
        objective(synthetic, LABELS, Step(0, 0))
        ahead, behind = loss(start * math.exp(h)), loss(start * math.exp(-h))
        slope = (ahead - behind) / (2 * h)
        moved = math.log(objective.provenance["student_lr"] / start)
        assert moved == pytest.approx(-rate * slope, rel=1e-3)


def test_a_rate_that_is_out_of_bounds_stops_the_run(build, rng):
    objective = build(student_lr_rate=1e9)
    with pytest.raises(NumericError, match="student_lr_rate"):
        for i in range(20):
            objective(torch.rand(6, 1, 8, 8, generator=rng), LABELS, Step(0, i))


def test_the_rate_is_found_on_the_first_images(build, images):
    """It is the best of many, on the way from initialisation, and no score finds it for the run."""
    real = images.unit()[::2]
    labels = images.labels[::2]
    objective = build(student_lr=None, student_lr_rate=0, augment=[], max_start_epoch=1)
    kept = objective.state()
    objective(real, labels, Step(-1, 0))
    objective.load_state(kept)
    assert objective.provenance["student_lr"] is None
    objective(real, labels, Step(0, 0))
    found = objective.provenance["student_lr"]

    def loss(lr):
        fixed = build(student_lr=lr, student_lr_rate=0, augment=[], max_start_epoch=1)
        return sum(fixed(real, labels, Step(0, i)).loss for i in range(6))

    assert loss(found) < min(loss(found / 2), loss(found * 2))
    # the images of the first step decide, and a restored one finds nothing anew
    again = build(student_lr=None, student_lr_rate=0)
    again.load_state(objective.state())
    again(1 - real, labels, Step(0, 1))
    assert again.provenance["student_lr"] == found


def test_a_way_that_is_too_short_is_said(build, images, caplog):
    build(student_lr=None, student_steps=1)(images.unit()[:6], LABELS, Step(0, 0))
    caplog.clear()
    objective = build(student_lr=None)
    objective._warn_of_reach(torch.tensor(1e-5))
    assert "a student's way of 3 steps at 1e-05 is short" in caplog.text


def test_starts_come_later_as_the_run_goes_on(build, rng):
    """And a score is of all of them, whenever it is asked for."""
    synthetic = torch.rand(6, 1, 8, 8, generator=rng)
    objective = build(difficulty=3, max_start_epoch=2)
    seen = []
    original = objective._piece

    def piece(expert, epoch, like):
        seen.append(epoch)
        return original(expert, epoch, like)

    objective._inside._piece = piece
    objective(synthetic, LABELS, Step(0, 0))
    state = objective.state()
    for index in range(1, 3):
        objective(synthetic, LABELS, Step(0, index))
    assert seen == [0, 0, 0]
    for index in range(3, 40):
        objective(synthetic, LABELS, Step(index % 2, index))
    assert set(seen[3:]) == {0, 1}
    objective.load_state(state)
    seen.clear()
    for draw in range(20):
        objective(synthetic, LABELS, Step(-1 - draw, 0))
        objective.load_state(state)
    assert set(seen) == {0, 1}


def test_what_is_wrong_is_named_before_the_run_starts(build, images, tmp_path):
    with pytest.raises(RunError, match="hpd experts"):
        build(experts=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="too short"):
        build(max_start_epoch=3, expert_epochs=2)
    with pytest.raises((ConfigError, RunError), match="student"):
        build(student=SMALL_STUDENT | {"norm": "group"})
    with pytest.raises(RunError, match="too few"):
        build(expert_training={"count": 3, "training": SMALL_TRAINING})
    with pytest.raises(RunError, match=r"training.*lr=0.2.*lr=0.3"):
        build(expert_training={"count": 2, "training": SMALL_TRAINING | {"lr": 0.3}})
    with pytest.raises(NumericError, match="first step"):
        build(student_lr=1e30)
    pixels = images.images.clone()
    pixels[7] = 9
    with pytest.raises(DataError, match="image 7 of class 'a'"):
        build(train=images.with_images(pixels))
