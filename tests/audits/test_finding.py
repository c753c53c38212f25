"""What a set means is found out and said; what cannot be told is asked about, by its option."""

from __future__ import annotations

import itertools
from dataclasses import replace

import foreign_sets as fs
import numpy as np
import pytest
import torch

import hpd
from hpd.audits import finding as finding_module
from hpd.audits.labels import on_simplex, read_labels
from hpd.audits.orders import alphabetical_order, assigned, found_right, luck_of, order_of_names
from hpd.audits.scoring import FindSettings, Probe, lead_of
from hpd.audits.spaces import KNOWN, Views, are_whole_bytes, spectral_gap, spectrum_of
from hpd.data import Normalisation
from hpd.data.whitening import whitened
from hpd.errors import ConfigError, DataError, NumericError, ShapeError
from hpd.evaluation import Evaluation
from hpd.rng import Streams


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    """What is found out does not hang on what a student comes to."""
    monkeypatch.setattr("hpd.api.judging.auditing.judge", lambda *args, **kwargs: Evaluation([]))


def of(found, question):
    return next(one for one in found.found.findings if one.question == question)


# ---- values


def stored(space, images, train):
    if space == "data":
        return train.normalisation.apply(images)
    if space in KNOWN:
        return KNOWN[space].apply(images)
    return {"unit": images, "symmetric": 2 * images - 1, "bytes": 255 * images}[space]


@pytest.mark.parametrize("space", ["unit", "symmetric", "bytes", "data", "cifar10", "imagenet"])
def test_bytes_give_their_range_away(space, colour, known_colour, tmp_path, audited):
    """Of constants a percent apart, only one makes whole bytes of all values."""
    values = stored(space, known_colour.images, colour.train)
    found = audited(fs.write_pair(tmp_path, values, known_colour.labels), colour)
    told = of(found, "values")
    assert (told.answer, told.by) == (space, "values")
    torch.testing.assert_close(found.distilled.images, known_colour.images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("space", ["unit", "symmetric", "bytes", "data"])
def test_optimised_values_give_their_range_away(space, grey, known, tmp_path, audited):
    """By how like real pictures they look, as no classifier sees a scale."""
    wanted = fs.optimised(known)
    values = stored(space, wanted.images, grey.train)
    np.savez(tmp_path / "set.npz", images=values.numpy(), labels=known.labels.numpy())
    found = audited(tmp_path / "set.npz", grey)
    told = of(found, "values")
    assert told.answer == space
    # what the next one loses, or why there is none
    assert (told.next is not None and told.error is not None) or "ruled out" in told.says
    torch.testing.assert_close(found.distilled.images, wanted.images, rtol=0, atol=1e-4)


def test_constants_that_are_too_close_are_asked_about(colour, known_colour, tmp_path, audited):
    """Nothing but a convention tells them apart, and plain arrays have none."""
    values = stored("imagenet", fs.optimised(known_colour).images, colour.train)
    path = tmp_path / "set.npz"
    np.savez(path, images=values.numpy(), labels=known_colour.labels.numpy())
    with pytest.raises(DataError, match=r"too close to call.*Say it by --range or --zca"):
        audited(path, colour)
    found = audited(path, colour, range="imagenet")
    assert of(found, "values").by == "option"
    written = "0.485,0.456,0.406/0.229,0.224,0.225"
    again = audited(path, colour, range=written)
    assert torch.equal(again.distilled.images, found.distilled.images)
    # where the layout has one it decides, and the finding says so
    pair = audited(fs.write_pair(tmp_path, values, known_colour.labels), colour)
    assert of(pair, "values").by == "convention"
    assert "too close to call by the score" in of(pair, "values").says


def test_a_range_that_is_wrong_is_told(grey, known, tmp_path, audited, caplog):
    values = stored("symmetric", known.images, grey.train)
    found = audited(fs.write_pair(tmp_path, values, known.labels), grey, range="unit")
    assert any("far outside of [0, 1]" in line for line in found.found.warnings)
    assert any("by symmetric all values are whole" in line for line in found.found.warnings)
    assert "far outside" in caplog.text


def test_a_file_that_says_something_wrong_is_told(grey, known, tmp_path, audited):
    folder = hpd.export(known, "ddranking", tmp_path / "out", options={"constants": "own"})
    torch.save(2 * known.images - 1, folder / "images.pt")
    found = audited(folder, grey)
    assert of(found, "values").by == "file"
    assert any("symmetric" in line for line in found.found.warnings)


def test_noise_fits_in_no_reading(colour, known_colour, tmp_path, audited):
    values = torch.randn(known_colour.images.shape, generator=torch.Generator().manual_seed(0))
    path = fs.write_mtt(tmp_path, values, known_colour.labels)
    with pytest.raises(DataError, match=r"no reading of the set fits.*guessing.*--range"):
        audited(path, colour)
    # who knows better may say so, and is told what is known
    found = audited(path, colour, range="data", channels="rgb")
    assert any("next to nothing" in line for line in found.found.warnings)


def test_noise_of_many_classes_fits_in_no_reading(tmp_path, audited):
    """Where a random order of the classes would do as well."""
    digits = hpd.load_dataset("digits")
    rng = torch.Generator().manual_seed(0)
    for seed in range(3):
        values = torch.randn(30, 1, 16, 16, generator=rng.manual_seed(seed))
        fs.write_mtt(tmp_path, values, torch.arange(10).repeat(3))
        with pytest.raises(DataError, match="no reading of the set fits"):
            audited(tmp_path, digits)


def test_values_of_no_kind_are_refused(grey, known, tmp_path, audited):
    np.savez(tmp_path / "set.npz", images=1e6 * known.images.numpy(), labels=known.labels.numpy())
    with pytest.raises(DataError, match=r"of no kind that is known.*--range"):
        audited(tmp_path / "set.npz", grey)


# ---- channels


@pytest.mark.parametrize("write", [fs.write_npz, fs.write_pair])
def test_blue_before_red_is_found_out(write, colour, known_colour, tmp_path, audited):
    found = audited(write(tmp_path, known_colour.images.flip(1), known_colour.labels), colour)
    told = of(found, "channels")
    assert (told.answer, told.by) == ("bgr", "score") and told.loses > 3 * told.error
    torch.testing.assert_close(found.distilled.images, known_colour.images, rtol=0, atol=1e-5)
    assert found.about()["readings"][0]["channels"] == "bgr"


def test_pictures_are_what_they_are(colour, known_colour, tmp_path, audited):
    names = colour.train.classes
    fs.write_pictures(tmp_path, known_colour.images, known_colour.labels, lambda c: names[c])
    found = audited(tmp_path, colour)
    assert "channels" not in {one.question for one in found.found.findings}


# ---- classes


def test_labels_in_alphabetical_order(grey, known, tmp_path, audited):
    """Of a folder whose classes somebody counted by their sorted names."""
    place = torch.empty(4, dtype=torch.int64)
    place[alphabetical_order(grey.train.classes)] = torch.arange(4)
    found = audited(fs.write_npz(tmp_path, known.images, place[known.labels]), grey)
    assert of(found, "order").answer == "alphabetical" and of(found, "order").by == "score"
    assert found.distilled.labels.tolist() == known.labels.tolist()


def test_labels_in_an_order_that_nobody_knows(grey, known, tmp_path, audited):
    """The names of the classes in the finding can be given back as the option."""
    order = torch.tensor([2, 0, 3, 1])
    path = fs.write_npz(tmp_path, known.images, order.argsort()[known.labels])
    found = audited(path, grey)
    told = of(found, "order")
    assert (told.answer, told.by) == ("found", "score")
    assert found.distilled.labels.tolist() == known.labels.tolist()
    names = ",".join(grey.train.classes[i] for i in order.tolist())
    assert names in told.says
    for written in (names, "2,0,3,1"):
        again = audited(path, grey, class_order=written)
        assert again.distilled.labels.tolist() == known.labels.tolist()
        assert of(again, "order").by == "option"
    with pytest.raises(ConfigError, match="does not name each of them once"):
        audited(path, grey, class_order="2,0,3")


def test_soft_labels_follow_the_order(grey, known, tmp_path, audited):
    order = torch.tensor([2, 0, 3, 1])
    rng = torch.Generator().manual_seed(1)
    soft = torch.softmax(4 * torch.nn.functional.one_hot(known.labels, 4) + torch.randn(
        16, 4, generator=rng), dim=1)  # fmt: skip
    np.savez(tmp_path / "set.npz", images=(known.images * 255).round().byte().numpy(),
             labels=soft[:, order].numpy())  # fmt: skip
    found = audited(tmp_path / "set.npz", grey)
    assert of(found, "labels").answer == "probabilities"
    torch.testing.assert_close(found.distilled.soft_labels, soft)
    assert len(found.evaluations) == 2


def test_two_classes_that_changed_places_are_asked_about(tmp_path, audited):
    """Most of the set goes well: it could be weak, or wrong."""
    grey = hpd.load_dataset("digits")
    known = fs.distilled(grey, per_class=6)
    order = torch.tensor([1, 0, *range(2, 10)])
    path = fs.write_npz(tmp_path, known.images, order[known.labels])
    with pytest.raises(DataError, match=r"go better with other classes.*--class-order"):
        audited(path, grey)
    found = audited(path, grey, class_order="found")
    assert found.distilled.labels.tolist() == known.labels.tolist()
    kept = audited(path, grey, class_order="data")
    assert any("lose" in line and "another order" in line for line in kept.found.warnings)


def test_folders_under_wrong_names_are_told(grey, known, tmp_path, audited):
    names = ("zero", "one", "four", "seven")
    fs.write_pictures(tmp_path, known.images, known.labels, lambda label: names[label])
    found = audited(tmp_path, grey)
    assert of(found, "order").answer == "names"
    (warning,) = found.found.warnings
    assert "as told by names lose" in warning


def test_other_classes_than_those_of_the_data(grey, known, tmp_path, audited):
    fs.write_pictures(tmp_path / "a", known.images, known.labels, lambda label: f"cat{'x' * label}")
    with pytest.raises(DataError, match="has classes that the data have not"):
        audited(tmp_path / "a", grey)
    with pytest.raises(DataError, match=r"not of the classes of the data.*data\.classes"):
        audited(fs.write_npz(tmp_path, known.images, known.labels + 2), grey)


def test_images_of_another_shape(grey, known, tmp_path, audited):
    large = known.images.repeat(1, 1, 2, 2)
    with pytest.raises(ShapeError, match="not of the shape of the data"):
        audited(fs.write_npz(tmp_path, large, known.labels), grey)
    fs.write_pictures(tmp_path / "a", large, known.labels, lambda label: grey.train.classes[label])
    with pytest.raises(DataError, match=r"of another size than the data.*data\.resolution"):
        audited(tmp_path / "a", grey)


# ---- labels


HARD = torch.tensor([2, 0, 1])
LEARNT = torch.tensor([[0.8, -0.3, -0.4], [-0.2, 0.7, -0.5]])


def test_labels_of_every_kind():
    one_hot = torch.nn.functional.one_hot(HARD, 3)
    for given in (HARD, HARD[:, None], HARD.to(torch.uint8), HARD.double(), one_hot,
                  one_hot.float()):  # fmt: skip
        read = read_labels(given, 3, "x")
        assert read.classes.tolist() == [2, 0, 1]
        assert read.probabilities is None and read.meaning == "hard"
    fixed = read_labels(one_hot - 1 / 3, 3, "x")
    assert fixed.meaning == "centred" and fixed.probabilities is None
    learnt = read_labels(LEARNT, 3, "x")
    assert learnt.meaning == "centred" and learnt.probabilities is not None
    torch.testing.assert_close(learnt.probabilities.sum(1), torch.ones(2))
    logits = read_labels(4 * LEARNT, 3, "x")
    assert logits.meaning == "logits"
    torch.testing.assert_close(logits.probabilities, (4 * LEARNT).softmax(1))
    soft = read_labels(LEARNT.softmax(1), 3, "x")
    assert soft.meaning == "probabilities"
    torch.testing.assert_close(soft.probabilities, LEARNT.softmax(1))


def test_labels_that_may_be_two_things_are_asked_about():
    between = torch.tensor([[1.9, -0.2, 0.4], [0.1, 2.0, -0.3]])
    with pytest.raises(DataError, match=r"may be logits or targets.*--labels"):
        read_labels(between, 3, "x")
    for meaning in ("logits", "centred", "hard"):
        read = read_labels(between, 3, "x", meaning)
        assert (read.meaning, read.by) == (meaning, "option")
        assert read.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (torch.tensor([0, 3]), DataError), (torch.tensor([-1, 0]), DataError),
        (torch.tensor([0.5, 1.0]), DataError), (torch.rand(2, 4), DataError),
        (torch.tensor([[float("nan"), 0, 0]]), NumericError),
    ],
)  # fmt: skip
def test_labels_of_no_kind(labels, error):
    with pytest.raises(error):
        read_labels(labels, 3, "x")


def test_the_nearest_probabilities():
    """By a search through a fine grid of them."""
    steps = torch.linspace(0, 1, 101)
    grid = torch.tensor([(a, b, 1 - a - b) for a in steps.tolist() for b in steps.tolist()
                         if a + b <= 1 + 1e-9])  # fmt: skip
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    best = grid[torch.cdist(values, grid).argmin(dim=1)]
    got = on_simplex(values)
    assert (got - best).abs().max() < 0.015
    torch.testing.assert_close(got.sum(1), torch.ones(20))


# ---- what tells


def test_names_in_other_letters_and_the_order_of_sorted_names():
    classes = ("T-shirt/top", "ankle boot", "Bag")
    names = ("ankle_boot", "bag", "t_shirt_top")
    assert order_of_names(names, classes, "x").tolist() == [1, 2, 0]
    # sorted: Bag, T-shirt/top, ankle boot
    assert alphabetical_order(classes).tolist() == [2, 0, 1]


def test_an_assignment_is_the_best_of_all():
    """Against every order, on counts that are clear."""
    rng = torch.Generator().manual_seed(0)
    for seed in range(5):
        order = torch.randperm(4, generator=rng.manual_seed(seed))
        labels = torch.randint(4, (400,), generator=rng)
        predicted = order.argsort()[labels]
        wrong = torch.rand(400, generator=rng) < 0.4
        predicted[wrong] = torch.randint(4, (int(wrong.sum()),), generator=rng)
        shares = {
            own: float((torch.tensor(own)[predicted] == labels).double().mean())
            for own in itertools.permutations(range(4))
        }
        assert tuple(assigned(predicted, labels, 4).tolist()) == max(shares, key=shares.get)
        assert abs(float(found_right(predicted, labels, 4).double().mean())
                   - max(shares.values())) < 0.03  # fmt: skip


def test_what_luck_comes_to(grey):
    """A set of noise answers class by class, so four of them are often right in some order."""
    labels = torch.arange(4).repeat_interleave(50)
    clear = labels.clone()
    clear[::5] = 0
    assert luck_of([clear], labels, 4, 0.84) == pytest.approx(1 / 24)
    half = torch.tensor([0, 1, 3, 2])[labels]
    # two classes in their places, two not: 7 of 24 orders come to as much
    assert luck_of([half], labels, 4, 0.5) == pytest.approx(7 / 24)
    assert luck_of([half, half.flip(0)], labels, 4, 0.5) > 7 / 24
    ten = torch.arange(10).repeat_interleave(20)
    assert luck_of([ten], ten, 10, 1.0) == 0


def test_an_assignment_of_noise_gains_nothing():
    """Found on one half and tried on the other, luck is no gain."""
    rng = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(40):
        predicted, labels = (torch.randint(10, (400,), generator=rng) for _ in range(2))
        shares.append(float(found_right(predicted, labels, 10).double().mean()))
    assert abs(sum(shares) / 40 - 0.1) < 0.01


def test_a_lead_has_the_error_of_pairs():
    rng = torch.Generator().manual_seed(0)
    leads = []
    for _ in range(300):
        common = torch.rand(200, generator=rng)
        one, other = common < 0.5, common + 0.05 * torch.randn(200, generator=rng) < 0.45
        leads.append(lead_of(one, other))
    points = torch.tensor([lead.points for lead in leads])
    assert abs(float(points.std()) - sum(lead.error for lead in leads) / 300) < 0.3


def test_a_probe_predicts_and_never_from_what_it_predicts(grey):
    probe = Probe(grey.train, FindSettings(rows=200, width=24), Streams(0))
    right = probe.usual(40, "plain", grey.train).double().mean()
    assert right > 0.7 and len(probe) == 200
    again = Probe(grey.train, FindSettings(rows=200, width=24), Streams(0))
    assert again.usual(40, "plain", grey.train).double().mean() == right
    assert not set(probe._rows.tolist()) & set(probe._rest.tolist())


def test_the_test_part_is_not_looked_at(grey, known, tmp_path, audited):
    """What is found out is the same whatever the test images are."""
    path = fs.write_pair(tmp_path, grey.train.normalisation.apply(known.images), known.labels)
    first = audited(path, grey)
    other = replace(grey, test=grey.test.with_images(255 - grey.test.images))
    second = audited(path, other)
    assert [f.as_json() for f in first.found.findings] == [
        f.as_json() for f in second.found.findings
    ]


def test_whole_bytes():
    pictures = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0)) / 255
    assert are_whole_bytes(pictures)
    assert are_whole_bytes(pictures * 0.2 / 0.2)
    assert not are_whole_bytes(pictures * 0.99)
    assert not are_whole_bytes(pictures * 255)


def test_spectra_of_one_shape_are_alike_and_whitened_ones_are_not(colour):
    images = colour.train.unit()
    white = whitened(colour, "pixels").train.normalisation.apply(images)
    one, other = images[::2], images[1::2]
    same = spectral_gap(spectrum_of(0.4 * one + 0.2), spectrum_of(other))
    assert same < 0.2 < 0.5 < spectral_gap(spectrum_of(white), spectrum_of(other))


def test_views_know_their_constants(colour, grey):
    assert Views(colour).own_constants() == ["cifar10", "cifar100", "imagenet"]
    assert Views(grey).own_constants() == []
    with pytest.raises(ConfigError, match=r"unknown range 'cifra10'.*Did you mean 'cifar10'"):
        Views(colour).space("cifra10")
    with pytest.raises(ConfigError, match="do not fit the images"):
        Views(grey).space("cifar10")
    space = Views(grey).space("0.5/0.25")
    assert space.normalisation == Normalisation((0.5,), (0.25,))


def test_options_that_say_two_things(grey, known, tmp_path, audited):
    path = fs.write_npz(tmp_path, known.images, known.labels)
    with pytest.raises(ConfigError, match="--range and --zca"):
        audited(path, grey, range="unit", zca="pixels")
    with pytest.raises(ConfigError, match="no order of channels"):
        audited(path, grey, channels="bgr")
    with pytest.raises(ConfigError, match="finds out whether a set is whitened"):
        hpd.audit(path, "digits", "data.zca=pixels")
    with pytest.raises(DataError, match="unknown format 'mat'"):
        audited(path, grey, layout="mat")
    with pytest.raises(DataError, match="in no layout that is known"):
        audited(path, grey, layout="mtt")
    with pytest.raises(DataError, match="no distilled set at"):
        audited(tmp_path / "gone", grey)


def test_large_sets_are_tried_by_some_of_their_images(grey, tmp_path):
    """As many of each class, whatever the order."""
    probe = Probe(grey.train, FindSettings(rows=40, images=12, width=8), Streams(0))
    classes = torch.tensor([0] * 50 + [1] * 9 + [3] * 50)
    chosen = probe.some_of(classes, torch.Generator().manual_seed(0))
    assert classes[chosen].bincount().tolist() == [4, 4, 0, 4]


def test_nothing_is_found_out_twice(grey, known, tmp_path, audited, monkeypatch):
    """A single reading is tried once, and a set of pictures has no other."""
    tried = []
    original = finding_module.tried
    monkeypatch.setattr(
        finding_module, "tried", lambda *a, **k: tried.extend(a[5]) or original(*a, **k)
    )
    audited(fs.write_npz(tmp_path, known.images, known.labels), grey)
    assert len(tried) == 1
