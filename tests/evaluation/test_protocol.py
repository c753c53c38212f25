"""The evaluation: which rows there are, and that they are fair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT

from hpd.artifacts import DistilledSet
from hpd.data import Dataset
from hpd.errors import ConfigError
from hpd.evaluation import EvaluationSettings, compare, evaluate_sets, of_random_real, of_set
from hpd.evaluation.contenders import contenders
from hpd.evaluation.ledger import Ledger
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
    # what fills no whole number of images is compared with the next one
    for floats, per_class in ((191, 1), (193, 2)):
        other = evaluate(dataset, replace(six, stored_floats=floats), full_training=None, seeds=1)
        rows = {row.name: row.images_per_class for row in other.rows}
        assert rows.get("random_real_floats", rows["random_real"]) == per_class


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


def test_coresets_stand_beside_random_images_and_subsets_beside_the_set(dataset, images):
    two_each = as_set(images, torch.tensor([0, 1, 12, 13, 24, 25]))
    evaluation = evaluate(
        dataset, two_each, baselines=["random_real", "herding", "k_centre"], counts=[1], seeds=1
    )
    rows = {row.name: row for row in evaluation.rows}
    assert rows["distilled_1"].images_per_class == 1
    assert rows["distilled_1"].stored_floats == 3 * 64
    for name in ("herding", "k_centre"):
        assert (rows[name].images_per_class, rows[name].stored_floats) == (2, 6 * 64)
        assert (rows[f"{name}_floats"].images_per_class) == 1
    with pytest.raises(ConfigError, match="counts"):
        evaluate(dataset, two_each, counts=[3])


def test_coresets_are_those_of_a_trained_network(dataset, images):
    """The choice is the selection's own, on the features of a teacher, class by class."""
    calls = []

    def embed(x):
        calls.append(len(x))
        return x.flatten(1)

    one_each = as_set(images, torch.tensor([0, 12, 24]))
    found = contenders(
        one_each, one_each, dataset, settings(baselines=["herding"]), Streams(0), embed
    )
    herded = next(c for c in found if c.name == "herding")
    chosen, labels = herded.draw(0)
    assert calls == [12, 12, 12]
    assert labels.tolist() == [0, 1, 2]
    for c in range(3):
        own = images.normalised(images.by_class[c])
        gaps = (own - own.mean(dim=0)).flatten(1).norm(dim=1)
        assert torch.equal(chosen[c], own[int(gaps.argmin())])


def test_soft_labels_come_from_a_teacher_for_every_small_set(dataset, images):
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    options = {"training": {"epochs": 40, "lr": 0.05, "temperature": 2.0}, "seeds": 1}
    hard = evaluate(dataset, one_each, **options)
    soft = evaluate(dataset, one_each, labels="soft", **options)
    labels = {row.name: row.labels for row in soft.rows}
    assert labels == {
        "distilled": "soft", "initial": "soft", "random_real": "soft", "full": "hard",
    }  # fmt: skip
    # three probabilities for each of three images
    assert soft.row("distilled").stored_floats == hard.row("distilled").stored_floats + 9
    assert soft.row("full") == hard.row("full")
    # equal images get equal labels
    assert soft.row("distilled").accuracies == soft.row("initial").accuracies


def test_rates_by_network_and_the_mean_over_the_others(dataset, images):
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    vit = {"kind": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_width": 8}
    evaluation = evaluate(
        dataset, one_each, students=[SMALL_STUDENT, vit], rate_factors={"vit": 0.5},
        full_training=None, seeds=1, training={"epochs": 2, "lr": 0.25},
    )  # fmt: skip
    assert evaluation.row("distilled", "convnet").lr == 0.25
    assert evaluation.row("distilled", "vit").lr == 0.125
    assert evaluation.across_architectures == {
        name: evaluation.row(name, "vit").accuracy_mean
        for name in ("distilled", "initial", "random_real")
    }
    assert evaluate(dataset, one_each, full_training=None).across_architectures == {}


def test_students_of_a_group_are_those_of_another(dataset, images):
    """Two students now and three later come to what five come to, as a resumed evaluation needs."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    ledger = Ledger()
    contender = [of_set("distilled", one_each, settings().training)]

    def rows(seeds):
        return compare(
            contender, dataset, settings(seeds=seeds), device=CPU, streams=Streams(0), ledger=ledger
        ).rows

    rows(2)
    later = rows(5)
    ledger = Ledger()
    assert rows(5) == later
