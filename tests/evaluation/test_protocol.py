"""The evaluation: which rows there are, and that they are fair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, tiny_generator
from small_sets import as_set

from generators import Prior, StoredGenerator
from hpd.artifacts import DistilledSet
from hpd.artifacts.ledger import Ledger
from hpd.data import Dataset
from hpd.errors import ConfigError
from hpd.evaluation import (
    EvaluationSettings,
    compare,
    evaluate_sets,
    of_random_real,
    of_set,
    whole_sets,
)
from hpd.evaluation.card.measuring import Card
from hpd.evaluation.contenders import Materials, contenders
from hpd.rng import Streams
from hpd.storage import Amount
from hpd.students import STUDENTS


@pytest.fixture
def dataset(images):
    return Dataset(images, images)


def settings(**options):
    training = {"epochs": 40, "lr": 0.05}
    return EvaluationSettings.read(
        {"students": [SMALL_STUDENT], "seeds": 2, "training": training, "full_training": training}
        | {"scores": False}
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
    assert list(rows) == ["distilled", "initial", "random_real", "random_real_bits", "full"]
    assert [rows[n].storage.images.floats for n in rows] == [192, 192, 192, 768, 36 * 64]
    # numbers of 32 bits, and real images of 8
    assert [rows[n].storage.images.bits for n in rows] == [6144, 6144, 1536, 6144, 36 * 512]
    assert [rows[n].images_per_class for n in rows] == [1, 1, 1, 4, 12]
    assert all(row.seeds == [0, 1] for row in rows.values())
    assert rows["full"].accuracy_mean > 90
    # before the first step it was the same: nobody learns that twice
    assert heard[0] == ("distilled", 1, 8)
    assert heard[-1] == ("full", 8, 8)


def test_equal_sets_get_equal_accuracy(dataset, images, monkeypatch):
    """Rows differ by their data alone: the students start alike and see the same order."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    once = evaluate(dataset, one_each, full_training=None)
    # as if nobody saw that they are equal
    monkeypatch.setattr("hpd.evaluation.contenders._alike", lambda one, other: False)
    evaluation = evaluate(dataset, one_each, full_training=None)
    assert once == evaluation
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
    assert len(evaluation.rows) == 8
    assert {row.network for row in evaluation.rows} == {"convnet width 4", "convnet width 6"}
    first, second = (evaluation.row("distilled", f"convnet width {w}") for w in (4, 6))
    assert first is not second
    with pytest.raises(ConfigError, match="expected convnet width 4 or convnet width 6"):
        evaluation.row("distilled", "convnet")


def test_a_set_is_compared_at_as_many_images_and_at_as_many_floats(dataset, images):
    """Sources that give more images than they store floats for have both baselines."""
    six = as_set(images, torch.tensor([0, 1, 12, 13, 24, 25]))  # 192 floats: of three images
    evaluation = evaluate(dataset, six, full_training=None, seeds=1)
    rows = {
        row.name: (row.images_per_class, row.storage.images.floats, row.storage.images.bits)
        for row in evaluation.rows
    }
    assert rows == {
        "distilled": (2, 192, 6144), "initial": (2, 192, 6144),
        "random_real": (2, 384, 3072), "random_real_floats": (1, 192, 1536),
        "random_real_bits": (4, 768, 6144),
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
    # and no score where there are not as many of them
    scored = evaluate(dataset, many, seeds=1, scores=True).row("distilled")
    assert (scored.ior, scored.lrs, scored.ars) == (None, None, None)
    assert scored.hlr is not None


def test_a_set_alone_gets_the_row_that_it_gets_in_company(dataset, images):
    """So that a table can be made row by row."""
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    table, s = evaluate(dataset, one_each, full_training=None), settings(full_training=None)
    for contender in (
        of_set("initial", one_each, s.training),
        of_random_real("random_real", 1, images, s.training, Streams(0)),
    ):
        alone = compare([contender], dataset, s, device=CPU, streams=Streams(0))
        bare = dict.fromkeys(("hlr", "ior", "lrs", "ars"))
        (row,) = alone.rows
        # but for the scores, which are of the company
        assert replace(row, **bare) == replace(table.row(contender.name), **bare)


def test_coresets_stand_beside_random_images_and_subsets_beside_the_set(dataset, images):
    two_each = as_set(images, torch.tensor([0, 1, 12, 13, 24, 25]))
    evaluation = evaluate(
        dataset, two_each, baselines=["random_real", "herding", "k_centre"], counts=[1], seeds=1
    )
    rows = {row.name: row for row in evaluation.rows}
    assert rows["distilled_1"].images_per_class == 1
    assert rows["distilled_1"].storage.images.floats == 3 * 64
    for name in ("herding", "k_centre"):
        assert (rows[name].images_per_class, rows[name].storage.images.floats) == (2, 6 * 64)
        assert rows[f"{name}_floats"].images_per_class == 1
        assert rows[f"{name}_bits"].images_per_class == 4
    with pytest.raises(ConfigError, match="counts"):
        evaluate(dataset, two_each, counts=[3])


def test_coresets_are_those_of_a_trained_network(dataset, images):
    """The choice is the selection's own, on the features of a teacher, class by class."""
    calls = []

    def embed(x):
        calls.append(len(x))
        return torch.cat([part.flatten(1) for part in x.split(5)])

    one_each = as_set(images, torch.tensor([0, 12, 24]))
    given = Materials(one_each, one_each, dataset, None, embed, Streams(0))
    found = contenders(given, settings(baselines=["herding"]))
    herded = next(c for c in found if c.name == "herding")
    chosen, labels = herded.draw(0)
    # for as many images, and for as many bits
    assert calls == [12] * 6
    assert labels.tolist() == [0, 1, 2]
    for c in range(3):
        own = images.normalised(images.by_class[c])
        gaps = (own - own.mean(dim=0)).flatten(1).norm(dim=1)
        assert torch.equal(chosen[c], own[int(gaps.argmin())])


def test_soft_labels_come_from_a_teacher_for_every_small_set(dataset, images):
    one_each = as_set(images, torch.tensor([0, 12, 24]))
    training = {"epochs": 40, "lr": 0.05}
    hard = evaluate(dataset, one_each, training=training, seeds=1)
    training["temperature"] = 2.0
    soft = evaluate(dataset, one_each, labels="soft", training=training, seeds=1)
    labels = {row.name: row.labels for row in soft.rows}
    assert labels == {
        "distilled": "soft", "initial": "soft", "random_real": "soft", "random_real_bits": "soft",
        "full": "hard",
    }  # fmt: skip
    # three probabilities for each of three images, apart from what the images take
    assert soft.row("distilled").storage.labels == Amount(9, 288)
    assert soft.row("distilled").storage.images == hard.row("distilled").storage.images
    assert hard.row("distilled").storage.labels == Amount()
    # labels are paid for: 6144 bits buy 3 images of 512 bits and 96 for their labels
    assert soft.row("random_real_bits").images_per_class == 4
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
        for name in ("distilled", "initial", "random_real", "random_real_bits")
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


@pytest.fixture
def two_each(images):
    return as_set(images, torch.tensor([0, 1, 12, 13, 24, 25]))


def test_scores_are_the_closed_forms_of_accuracies_in_the_table(dataset, two_each):
    evaluation = evaluate(dataset, two_each, scores=True, counts=[1])
    measured = [*evaluation.rows, *evaluation.references]

    def accuracy(name, count, augmented=False):
        return next(
            row.accuracy_mean
            for row in measured
            if (row.name, row.images_per_class, bool(row.augment)) == (name, count, augmented)
        )

    full = accuracy("full", 12)
    for name, count, random in (
        ("distilled", 2, "random_real"),
        ("distilled_1", 1, "random_real_floats"),
    ):
        row = evaluation.row(name)
        assert row.hlr == pytest.approx(full - row.accuracy_mean, abs=1e-3)
        assert row.ior == pytest.approx(row.accuracy_mean - accuracy(random, count), abs=1e-3)
        alpha = (row.ior - row.hlr) / 200
        scale = math.e - 1 / math.e
        assert row.lrs == pytest.approx(100 * (math.exp(alpha) - 1 / math.e) / scale, abs=1e-3)
        other = accuracy(name, count, True) - accuracy(random, count, True)
        beta = (row.ior + other) / 200
        assert row.ars == pytest.approx(100 * (math.exp(beta) - 1 / math.e) / scale, abs=1e-3)
    assert evaluation.row("random_real").ior == 0
    assert evaluation.row("full").hlr is None


def test_scores_are_left_out_where_nothing_was_measured_for_them(dataset, two_each):
    alone = evaluate(dataset, two_each, full_training=None, baselines=[]).row("distilled")
    assert (alone.hlr, alone.ior, alone.lrs, alone.ars) == (None, None, None, None)
    # what the table has anyhow is used
    plain = evaluate(dataset, two_each).row("distilled")
    assert None not in (plain.hlr, plain.ior, plain.lrs)
    assert plain.ars is None
    # and what it lacks is trained on
    scored = evaluate(dataset, two_each, scores=True, baselines=[])
    assert None not in (scored.row("distilled").ior, scored.row("distilled").ars)
    assert {row.name for row in scored.references} >= {"random_real_2"}


def test_sets_with_soft_labels_are_scored_with_hard_ones_too(dataset, two_each):
    evaluation = evaluate(dataset, two_each, scores=True, labels="soft")
    hard = evaluate(dataset, two_each, scores=True)
    row = evaluation.row("distilled")
    assert row.labels == "soft"
    assert row.hlr == hard.row("distilled").hlr
    random = evaluation.row("random_real")
    assert random.labels == "soft"
    assert row.ior == pytest.approx(row.accuracy_mean - random.accuracy_mean, abs=1e-3)


def test_online_labels_stand_beside_random_images_and_cost_the_teacher(dataset, two_each):
    training = {"epochs": 20, "lr": 0.05, "augment": ["flip"], "cutmix": 0.5}
    online = evaluate(dataset, two_each, labels="online", baselines=[], training=training, seeds=1)
    rows = {row.name: row for row in online.rows}
    assert [rows[n].labels for n in ("distilled", "random_real")] == ["online", "online"]
    student = STUDENTS.parse(SMALL_STUDENT).build((1, 8, 8), 3, Streams(0).generator())
    teacher = sum(value.numel() for value in student.parameters())
    assert rows["distilled"].storage.labels == Amount.of(teacher)
    assert rows["full"].storage.labels == Amount()


def test_stored_labels_are_told_apart_from_those_of_the_others(dataset, two_each):
    soft = torch.full((6, 3), 0.1) + 0.7 * torch.nn.functional.one_hot(two_each.labels, 3)
    own = replace(two_each, soft_labels=soft)
    evaluation = evaluate(dataset, own, labels="stored", scores=True, seeds=1)
    row = evaluation.row("distilled")
    assert (row.labels, row.storage.labels) == ("stored", Amount(18, 576))
    coded = evaluate(dataset, replace(own, label_bits=72), labels="stored", seeds=1)
    assert coded.row("distilled").storage.labels == Amount(18, 72)
    assert coded.row("distilled").accuracies == row.accuracies
    # nobody labels the random images, so that nothing of the kind stands beside it
    assert (evaluation.row("random_real").labels, row.ior) == ("hard", None)
    hard = evaluate(dataset, two_each, seeds=1).row("distilled")
    assert row.hlr == pytest.approx(
        evaluation.row("full").accuracy_mean - hard.accuracy_mean, abs=1e-3
    )


def test_samples_of_the_prior_are_paid_by_their_z(dataset, two_each, images):
    prior = Prior(StoredGenerator.of(tiny_generator()), [2, 0, 1])
    given = {"device": CPU, "streams": Streams(0), "prior": prior}
    s = settings(baselines=["prior_same_count"], seeds=1)
    evaluation = evaluate_sets(two_each, two_each, dataset, s, **given)
    rows = {row.name: row for row in evaluation.rows}
    z = prior.stored.generator.spec.z_dim
    # 64 floats a class, of which each sample takes z
    assert rows["prior_samples"].images_per_class == 64 // z
    assert rows["prior_samples"].storage.images == Amount.of(3 * (64 // z) * z)
    assert rows["prior_samples"].storage.generator == Amount.of(prior.generator_floats)
    assert rows["prior_same_count"].images_per_class == 2
    assert "random_real" not in rows
    few = settings(prior_limit=3, seeds=1, full_training=None)
    row = evaluate_sets(two_each, two_each, dataset, few, **given).row("prior_samples")
    assert (row.images_per_class, row.storage.images.floats) == (3, 9 * z)
    with pytest.raises(ConfigError, match="generator"):
        evaluate_sets(two_each, two_each, dataset, s, device=CPU, streams=Streams(0))


def test_samples_of_the_prior_are_of_the_classes_of_the_data_and_of_a_seed():
    prior = Prior(StoredGenerator.of(tiny_generator()), [2, 0, 1])
    images, labels = prior.draw(3, Streams(0).generator("a"))
    again, _ = prior.draw(3, Streams(0).generator("a"))
    other, _ = prior.draw(3, Streams(0).generator("b"))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    z = torch.randn(9, prior.sample_floats, generator=Streams(0).generator("a"))
    generator = prior.stored.generator
    want = (generator(generator.map(z, torch.tensor([2, 0, 1]).repeat_interleave(3))) + 1) / 2
    assert torch.equal(images, want.detach().clamp(0, 1))


def test_known_figures_of_the_whole_set_serve_where_it_is_not_trained_on(
    dataset, two_each, monkeypatch
):
    known = {
        "train_sha256": dataset.train.sha256, "test_sha256": dataset.test.sha256,
        "student": STUDENTS.dump(STUDENTS.parse(SMALL_STUDENT)), "training": {"epochs": 3},
    }  # fmt: skip
    rows = [{**known, "accuracy": 80.0}, {**known, "accuracy": 84.0}]
    monkeypatch.setattr(whole_sets, "_rows", lambda: rows)
    evaluation = evaluate(dataset, two_each, full_training=None)
    row = evaluation.row("distilled")
    assert row.hlr == pytest.approx(82.0 - row.accuracy_mean, abs=1e-3)
    (told,) = evaluation.as_json()["whole_sets"]
    assert (told["accuracy"], told["students"]) == (82.0, 2)
    # of other data, or another student, nothing is known
    wide = SMALL_STUDENT | {"width": 6}
    other = evaluate(dataset, two_each, full_training=None, students=[wide])
    assert other.row("distilled").hlr is None
    rows[:] = [{**row, "test_sha256": "0"} for row in rows]
    assert evaluate(dataset, two_each, full_training=None).row("distilled").hlr is None


def test_an_unknown_row_is_named(dataset, two_each):
    evaluation = evaluate(dataset, two_each, full_training=None, seeds=1)
    with pytest.raises(ConfigError, match="random_real"):
        evaluation.row("random")


def test_a_card_is_of_the_set_and_of_what_stands_beside_it(dataset, two_each):
    card = {"corruptions": ["rotation"], "steps": 1, "images": 12, "membership_images": 12}
    evaluation = evaluate(dataset, two_each, card=card, training={"epochs": 4, "lr": 0.05})
    told = evaluation.as_json()["card"]
    cards = [Card.of_json(values) for values in told["sets"]]
    assert [(own.name, own.students, own.resolution) for own in cards] == [
        ("distilled", 2, 12), ("random_real", 2, 12),
    ]  # fmt: skip
    assert told["settings"]["images"] == 12
    # on the same images, and by the same students as the table
    whole = evaluate(
        dataset, two_each, card={**card, "images": None}, training={"epochs": 4, "lr": 0.05}
    )
    first = Card.of_json(whole.as_json()["card"]["sets"][0])
    assert first.clean.mean == pytest.approx(whole.row("distilled").accuracy_mean, abs=1e-3)
    assert first.resized is not None
    assert "card" not in evaluate(dataset, two_each, training={"epochs": 4}).as_json()
