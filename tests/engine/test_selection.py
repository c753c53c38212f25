"""Selectors: the class-relevant distance against its naive twin, and what it is blind to."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from reference import class_relevant_distance

from hpd.engine import SELECTORS
from hpd.engine.selection import ClassRelevantDistance
from hpd.students import STUDENTS


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


def test_every_feature_and_position_counts(float64, images, rng):
    student = STUDENTS.parse(SMALL_STUDENT).build(images.image_shape, 3, rng)
    score = ClassRelevantDistance([student], images, CPU, weighted=False)
    synthetic, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])
    base = score(synthetic, labels)
    for row, column in ((0, 0), (7, 7), (3, 4)):
        changed = synthetic.clone()
        changed[:, :, row, column] += 0.5
        assert score(changed, labels) != base


@pytest.mark.parametrize("kind", list(SELECTORS))
def test_conformance(kind, images, streams, rng):
    """A score is a repeatable number, lower for the real images than for noise, or None."""
    options = {"student": SMALL_STUDENT} if kind == "class_relevant" else {}
    build = SELECTORS.parse({"kind": kind, **options}).build
    selector, again = build(images, CPU, streams), build(images, CPU, streams)
    noise = torch.rand(3, 1, 8, 8, generator=rng)
    real = images.unit(torch.tensor([0, 12, 24]))
    labels = torch.tensor([0, 1, 2])
    score = selector(noise, labels)
    assert score == again(noise, labels)
    assert score is None or score > selector(real, labels) >= 0


@pytest.mark.parametrize("extractor", ["trained", "random"])
def test_several_extractors_are_averaged(extractor, images, streams, rng):
    options = {"kind": "class_relevant", "student": SMALL_STUDENT, "extractor": extractor}
    noise, labels = torch.rand(3, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2])

    def score(networks, path=streams):
        built = SELECTORS.parse({**options, "networks": networks}).build(images, CPU, path)
        return built(noise, labels)

    assert score(3) != score(1)
