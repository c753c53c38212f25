"""The evaluation: which rows there are, and that they are fair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd.artifacts import DistilledSet
from hpd.data import Dataset
from hpd.evaluation import EvaluationSettings, compare, evaluate_sets, of_random_real, of_set
from hpd.rng import Streams


@pytest.fixture
def dataset(images):
    return Dataset(images, images)


def as_set(images, indices):
    return DistilledSet(
        images.unit(indices), images.labels[indices], images.classes, images.normalisation, 192
    )


def settings(**options):
    training = {"epochs": 40, "lr": 0.05}
    return EvaluationSettings.read(
        {"students": [SMALL_STUDENT], "seeds": 2, "training": training, "full_training": training}
        | options
    )


def evaluate(dataset, distilled, initial=None, **options):
    return evaluate_sets(
        distilled,
        initial or distilled,
        dataset,
        settings(**options),
        device=CPU,
        streams=Streams(0),
    )


def test_every_row_is_there_and_counted(dataset, images):
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    heard = []
    evaluation = evaluate_sets(
        one_each, one_each, dataset, settings(), device=CPU, streams=Streams(0),
        report=lambda *call: heard.append(call),
    )  # fmt: skip
    rows = {row.name: row for row in evaluation.rows}
    assert list(rows) == ["distilled", "initial", "random_real", "full"]
    assert [rows[n].stored_floats for n in rows] == [192, 192, 192, 36 * 64]
    assert [rows[n].images_per_class for n in rows] == [1, 1, 1, 12]
    assert all(row.seeds == [0, 1] for row in rows.values())
    assert rows["full"].accuracy_mean > 90
    assert heard[0] == ("distilled", 1, 8)
    assert heard[-1] == ("full", 8, 8)


def test_equal_sets_get_equal_accuracy(dataset, images):
    """Rows differ by their data alone: the students start alike and see the same order."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    evaluation = evaluate(dataset, one_each, full_training=None)
    distilled, initial = evaluation.row("distilled"), evaluation.row("initial")
    assert distilled.accuracy_mean == initial.accuracy_mean
    assert distilled.accuracy_std == initial.accuracy_std
    assert evaluate(dataset, one_each, full_training=None) == evaluation


def test_a_set_without_information_stays_near_chance(dataset, images):
    blank = DistilledSet(
        torch.full((3, 1, 8, 8), 0.5), torch.arange(3), images.classes, images.normalisation, 192
    )
    evaluation = evaluate(dataset, blank, full_training=None, seeds=5)
    assert (
        evaluation.row("distilled").accuracy_mean < 60 < evaluation.row("random_real").accuracy_mean
    )


def test_several_networks_give_several_rows(dataset, images):
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    wide = SMALL_STUDENT | {"width": 6}
    evaluation = evaluate(dataset, one_each, students=[SMALL_STUDENT, wide], full_training=None)
    assert len(evaluation.rows) == 6


def test_a_set_is_compared_at_as_many_images_and_at_as_many_floats(dataset, images):
    """Sources that give more images than they store floats for have both baselines."""
    six = as_set(images, torch.tensor([0, 1, 12, 13, 24, 25]))  # 192 floats: of three images
    evaluation = evaluate(dataset, six, full_training=None, seeds=1)
    rows = {row.name: (row.images_per_class, row.stored_floats) for row in evaluation.rows}
    assert rows == {
        "distilled": (2, 192), "initial": (2, 192),
        "random_real": (2, 384), "random_real_floats": (1, 192),
    }  # fmt: skip
    less = replace(six, stored_floats=191)  # of no whole image a class
    names = [row.name for row in evaluate(dataset, less, full_training=None, seeds=1).rows]
    assert "random_real_floats" not in names


def test_there_are_no_more_random_real_images_than_real_images(dataset, images):
    many = as_set(images, torch.arange(36).repeat(2))
    evaluation = evaluate(dataset, many, full_training=None, seeds=1)
    assert evaluation.row("distilled").images_per_class == 24
    assert evaluation.row("random_real").images_per_class == 12


def test_a_set_alone_gets_the_row_that_it_gets_in_company(dataset, images):
    """So that a table can be made row by row."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    table, s = evaluate(dataset, one_each, full_training=None), settings(full_training=None)
    for contender in (
        of_set("initial", one_each, s.training),
        of_random_real("random_real", 1, images, s.training, Streams(0)),
    ):
        alone = compare([contender], dataset, s, device=CPU, streams=Streams(0))
        assert alone.rows == [table.row(contender.name)]
