"""The network of gradient matching, against its loops written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SMALL_STUDENT

from hpd.errors import RunError
from hpd.objectives.gradient import GradientSettings
from hpd.objectives.matching import RealSide
from hpd.objectives.network import Network, NetworkSettings
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def network(images, streams):
    def make(**options):
        student = options.pop("student", SMALL_STUDENT)
        settings = GradientSettings.read({"student": student, "network": options})
        return Network(RealSide(images, settings, CPU, streams), settings.network)

    return make


def weights(student):
    return [p.detach().clone() for p in student.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_loops_follow_the_images_per_class():
    settings = NetworkSettings()
    loops = [(settings.steps_for(n), settings.epochs_for(n)) for n in (1, 10, 20, 50)]
    assert [steps for steps, _ in loops] == [1, 10, 20, 50]
    assert [epochs for _, epochs in loops[1:]] == [50, 25, 10]
    real = NetworkSettings(train_on="real")
    assert (real.steps_for(10), real.epochs_for(10)) == (100, 1)
    given = NetworkSettings(steps=3, epochs=4)
    assert (given.steps_for(10), given.epochs_for(10)) == (3, 4)


def test_a_network_trains_between_its_steps_and_not_before_or_after(network, images, synthetic):
    """Two epochs of full-batch gradient descent, written out, between two steps of each network."""
    course = network(steps=2, epochs=2, lr=0.3)
    first = course.at(synthetic, LABELS, Step(0, 0))
    twin = copy.deepcopy(first)
    later = 1 - synthetic
    second = course.at(later, LABELS, Step(0, 1))
    for _ in range(2):
        twin.zero_grad()
        F.cross_entropy(twin(images.normalisation.apply(later)), LABELS).backward()
        with torch.no_grad():
            for p in twin.parameters():
                p -= 0.3 * p.grad
    for got, want in zip(second.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    third = course.at(synthetic, LABELS, Step(0, 2))
    fresh = network(steps=2).at(synthetic, LABELS, Step(0, 2))
    assert same(weights(third), weights(fresh))


def test_a_new_stage_starts_with_a_fresh_network(network, synthetic):
    course = network(steps=5, epochs=1)
    first = weights(course.at(synthetic, LABELS, Step(0, 0)))
    course.at(synthetic, LABELS, Step(0, 1))
    second = weights(course.at(synthetic, LABELS, Step(1, 0)))
    assert not same(first, second)
    assert same(second, weights(network(steps=5).at(synthetic, LABELS, Step(1, 0))))


def test_a_network_on_real_images_does_not_see_the_synthetic_ones(network, synthetic):
    def trained(images, **options):
        course = network(train_on="real", steps=2, real_images=24, batch_size=8, **options)
        start = weights(course.at(images, LABELS, Step(0, 0)))
        return start, weights(course.at(images, LABELS, Step(0, 1)))

    start, end = trained(synthetic)
    assert not same(start, end)
    assert same(end, trained(1 - synthetic)[1])
    assert not same(end, trained(synthetic, cutmix=1.0)[1])
    assert not same(end, trained(synthetic, momentum=0.9)[1])


def test_a_network_in_the_middle_needs_the_steps_before(network, synthetic):
    with pytest.raises(RunError, match="step before"):
        network(steps=2).at(synthetic, LABELS, Step(0, 1))
    course = network(steps=4, epochs=1)
    course.at(synthetic, LABELS, Step(0, 0))
    with pytest.raises(RunError, match="step before"):
        course.at(synthetic, LABELS, Step(0, 2))


def test_batch_norms_take_their_statistics_from_real_images(network, images, synthetic):
    """In eval mode, so that no image's gradient depends on the others of its batch."""
    student = network(student=SMALL_STUDENT | {"norm": "batch"}).at(synthetic, LABELS, Step(0, 0))
    assert not student.training
    first = student.blocks[0](images.normalised())
    norm = student.blocks[1]
    # all 36 images are drawn: 12 of each class, fewer than would be taken
    torch.testing.assert_close(norm.running_mean, first.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, first.var(dim=(0, 2, 3)))
