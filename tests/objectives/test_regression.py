"""Neural feature regression: a naive twin, closed forms, and the pool of networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SMALL_STUDENT
from torch.func import functional_call

from hpd.errors import RunError
from hpd.objectives import OBJECTIVES
from hpd.objectives.regression import regression_loss
from hpd.rng import Streams
from hpd.students.parameters import layout_of, unflatten
from hpd.students.ridge import centred_targets
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def make(images, streams):
    def build(**options):
        given = {"kind": "regression", "student": SMALL_STUDENT, "real_batch": 24, **options}
        return OBJECTIVES.parse(given).build(images, CPU, streams)

    return build


def naive_loss(real, synthetic, labels, wanted, classes, ridge):
    """The formula image by image, by an inverse, in float64."""
    n = len(synthetic)
    kernel = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            kernel[i, j] = (synthetic[i] * synthetic[j]).sum()
    inverse = torch.linalg.inv(kernel + ridge * kernel.trace() / n * torch.eye(n).double())
    total = 0.0
    for x, y in zip(real, wanted.tolist(), strict=True):
        prediction = torch.zeros(classes, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                target = F.one_hot(labels[j], classes).double() - 1 / classes
                prediction += (x * synthetic[i]).sum() * inverse[i, j] * target
        gap = prediction - (F.one_hot(torch.tensor(y), classes).double() - 1 / classes)
        total += float(gap.square().sum())
    return total / len(real)


def test_the_loss_is_the_formula(float64, make, rng):
    """With the network and the batch of the step, by a naive twin."""
    synthetic = torch.rand(6, 1, 8, 8, generator=rng)
    objective = make(pool=None, ridge=0.01, augment=[])
    step = Step(0, 5)
    student = objective._real.student(step)
    batch, wanted = objective._real.balanced_batch(24, step)
    assert wanted.bincount().tolist() == [8, 8, 8]
    with torch.no_grad():
        features = student.embed(batch), student.embed(objective._real.normalise(synthetic))
    want = naive_loss(*features, LABELS, wanted, 3, 0.01)
    assert objective(synthetic, LABELS, step).loss == pytest.approx(want, rel=1e-9)


def test_the_gradient_through_the_solve(rng):
    real, synthetic = (torch.randn(n, 4, generator=rng).double() for n in (5, 3))
    targets, wanted = (torch.randn(n, 2, generator=rng).double() for n in (3, 5))
    leaves = [t.requires_grad_() for t in (synthetic, targets)]

    def loss(synthetic, targets):
        return regression_loss(real, synthetic, targets, wanted, 0.1)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_linear_network_has_a_closed_form(rng):
    """Orthonormal synthetic features: P = R S' Y / (1 + ridge), and the loss of its gap."""
    synthetic, _ = torch.linalg.qr(torch.randn(6, 3, generator=rng).double())
    synthetic, ridge = synthetic.t(), 0.25
    real = torch.randn(7, 6, generator=rng).double()
    targets = centred_targets(torch.tensor([0, 1, 2]), 3)
    wanted = centred_targets(torch.tensor([0, 1, 2, 0, 1, 2, 0]), 3)
    want = (real @ synthetic.t() @ targets / (1 + ridge) - wanted).square().sum(1).mean()
    got = regression_loss(real, synthetic, targets, wanted, ridge)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    # what is predicted is right where the real images are the synthetic ones, as far as the
    # penalty lets it
    itself = regression_loss(synthetic, synthetic, targets, targets, 1e-9)
    assert float(itself) < 1e-15


def pool_of(objective):
    return objective._pool


def take(objective, synthetic, steps, stage=0):
    return [objective(synthetic, LABELS, Step(stage, i)) for i in range(steps)]


def test_networks_are_of_every_age_and_none_gets_too_old(make, synthetic):
    objective = make(pool={"networks": 3, "updates": 4})
    ages = [matched.metrics["network_steps"] for matched in take(objective, synthetic, 40)]
    assert set(ages) == {0, 1, 2, 3}
    pool = pool_of(objective)
    for which, place in enumerate(pool._places):
        assert place.age < pool._limit(which, place.made) <= 4
        # each place had more than one network
        assert place.made > 0


def test_training_is_a_step_of_adam_on_the_synthetic_images(make, synthetic):
    objective = make(augment=[], pool={"networks": 1, "updates": 1000, "lr": 0.01})
    pool, real = pool_of(objective), objective._real
    take(objective, synthetic, 1)
    # the network before it, trained by hand
    student = real.build(real.streams.generator("pool", 0, 0))
    adam = torch.optim.Adam(student.parameters(), lr=0.01)
    x = real.normalise(synthetic)
    for index in range(1, 4):
        student.train()
        adam.zero_grad()
        F.cross_entropy(student(x), LABELS).backward()
        adam.step()
        got = unflatten(pool._places[0].weights, layout_of(student))
        for name, value in student.named_parameters():
            torch.testing.assert_close(got[name], value.detach(), rtol=1e-4, atol=1e-6)
        objective(synthetic, LABELS, Step(0, index))


def test_what_is_trained_knows_the_synthetic_images(make, synthetic):
    objective = make(augment=[], pool={"networks": 1, "updates": 1000, "lr": 0.01})
    x, losses = objective._real.normalise(synthetic), []
    for matched_at in (1, 60):
        take(fresh := make(augment=[], pool={"networks": 1, "updates": 10**6, "lr": 0.01}),
             synthetic, matched_at)  # fmt: skip
        shell = pool_of(fresh)._student(0, pool_of(fresh)._places[0].weights).eval()
        named = dict(shell.named_parameters())
        losses.append(float(F.cross_entropy(functional_call(shell, named, (x,)), LABELS)))
    assert losses[1] < 0.5 * losses[0]


def test_a_score_leaves_the_pool_alone_and_is_the_same_before_and_after(make, synthetic):
    objective = make(pool={"networks": 2, "updates": 3})
    first = objective(synthetic, LABELS, Step(-1, 0)).loss
    assert objective.state() == {}
    take(objective, synthetic, 5)
    kept = objective.state()
    assert objective(synthetic, LABELS, Step(-1, 0)).loss == first
    assert all(torch.equal(value, kept[name]) for name, value in objective.state().items())


def test_a_pool_goes_through_stages_and_does_not_begin_in_the_middle(make, synthetic):
    objective = make(pool={"networks": 2, "updates": 3})
    take(objective, synthetic, 3)
    made = sum(place.made for place in pool_of(objective)._places)
    take(objective, synthetic, 3, stage=1)
    assert sum(place.made for place in pool_of(objective)._places) >= made
    with pytest.raises(RunError, match="step 5 of stage 1 needs the networks of the one before"):
        objective(synthetic, LABELS, Step(1, 5))
    with pytest.raises(RunError, match="step 2 of stage 0"):
        make(pool={})(synthetic, LABELS, Step(0, 2))


def test_large_sets_train_networks_in_parts(make, synthetic):
    objective = make(pool={"networks": 1, "batch": 4})
    seen = []
    pool = pool_of(objective)
    original = pool._gradient
    pool._gradient = lambda which, weights, x, y, seed: (
        seen.append(len(x)), original(which, weights, x, y, seed)
    )[1]  # fmt: skip
    take(objective, synthetic, 2)
    assert seen == [4, 4]


@pytest.mark.parametrize(
    "student",
    [SMALL_STUDENT | {"norm": "batch"}, {"kind": "vit", "width": 8, "depth": 1, "patch": 4}],
    ids=["statistics", "dropout"],
)
def test_students_with_statistics_and_dropout(student, images, synthetic):
    """Draws of dropout are the run's, and statistics those of real images: resumed to the bit."""
    given = {"kind": "regression", "student": student, "real_batch": 24,
             "pool": {"networks": 2, "updates": 3}}  # fmt: skip

    def build():
        return OBJECTIVES.parse(given).build(images, CPU, Streams(3))

    whole = build()
    wanted = take(whole, synthetic, 4)
    first, second = build(), build()
    take(first, synthetic, 2)
    second.load_state(first.state())
    for index in (2, 3):
        got = second(synthetic, LABELS, Step(0, index))
        assert got.loss == wanted[index].loss
        assert torch.equal(got.image_grad, wanted[index].image_grad)
