"""Double-end pruning: the margins, both ends, and the beta that held-out images choose."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from reference import mean_margins

from hpd.artifacts import DistilledSet
from hpd.data import ImageSet, Normalisation
from hpd.errors import RunError
from hpd.evaluation.pruning import (
    PruningSettings,
    area_under_margin,
    double_end,
    margins_of,
    prune_set,
)
from hpd.rng import Streams
from hpd.students import STUDENTS, Taught, TrainingSettings, train_epoch

TRAINING = {"epochs": 20, "lr": 0.1, "batch_size": 6}
STUDENT = STUDENTS.parse(SMALL_STUDENT | {"norm": "none"})


def settings(**options):
    return PruningSettings.read({"student": STUDENT, "training": TRAINING, **options})


def as_set(images, pixels, labels):
    return DistilledSet(pixels, labels, images.classes, images.normalisation, len(pixels) * 64)


def noisy_patterns(strength):
    """Three classes of 12 images of 8 px: rows, columns and a chessboard under noise."""
    rng = torch.Generator().manual_seed(3)
    rows = (torch.arange(8) % 4 < 2).float()[:, None].expand(8, 8)
    patterns = torch.stack([rows, rows.t(), (rows + rows.t()) % 2])
    labels = torch.arange(3).repeat_interleave(12)
    noise = torch.rand(36, 8, 8, generator=rng)
    pixels = ((strength * patterns[labels] + (1 - strength) * noise)[:, None] * 255).byte()
    return ImageSet(pixels, labels, ("a", "b", "c"), Normalisation.of(pixels))


@pytest.fixture(scope="module")
def images():
    return noisy_patterns(0.4)


@pytest.fixture
def mislabelled(images):
    """Eight images of each class, the last two of which are of the class after it."""
    chosen = [int(images.by_class[(c + (i > 5)) % 3][i]) for c in range(3) for i in range(8)]
    labels = torch.arange(3).repeat_interleave(8)
    return as_set(images, images.unit(torch.tensor(chosen)), labels)


def prune(images, distilled, per_class=6, heard=lambda *report: None, **options):
    return prune_set(
        distilled, per_class, images, settings(**options), device=CPU, streams=Streams(0),
        report=heard,
    )  # fmt: skip


def test_the_margin_is_to_the_largest_other_logit(rng):
    logits = torch.randn(20, 4, generator=rng)
    labels = torch.randint(4, (20,), generator=rng)
    want = mean_margins(logits[None], labels)
    torch.testing.assert_close(margins_of(logits, labels), torch.tensor(want))


def test_the_area_is_the_mean_over_epochs(images):
    """The same training, with the logits of each epoch kept and averaged by the definition."""
    training = TrainingSettings.read({"epochs": 3, "lr": 0.1, "batch_size": 12})
    pixels, labels, streams = images.normalised(), images.labels, Streams(4)

    def student():
        return STUDENT.build((1, 8, 8), 3, Streams(1).generator("weights"))

    got = area_under_margin(student(), pixels, labels, training, streams)
    twin, logits = student(), []
    optimizer = training.optimizer(twin)
    for epoch in range(3):
        rng = streams.generator("epoch", epoch)
        train_epoch(twin, optimizer, Taught(pixels, labels), training, rng, epoch)
        with torch.no_grad():
            logits.append(twin.eval()(pixels))
    want = torch.tensor(mean_margins(torch.stack(logits), labels))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_each_class_loses_its_ends_and_no_more():
    scores = torch.tensor([3.0, 1.0, 2.0, 0.0, 10.0, 30.0, 20.0, 40.0])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert double_end(scores, labels, 0, 0).tolist() == list(range(8))
    assert double_end(scores, labels, 1, 0).tolist() == [0, 1, 2, 5, 6, 7]
    assert double_end(scores, labels, 0, 1).tolist() == [1, 2, 3, 4, 5, 6]
    assert double_end(scores, labels, 2, 1).tolist() == [2, 5]
    order = torch.tensor([7, 2, 5, 0, 3, 6, 1, 4])
    turned = double_end(scores[order], labels[order], 2, 1)
    assert sorted(order[turned].tolist()) == [2, 5]


def test_images_of_another_class_are_dropped(images, mislabelled):
    """They have the lowest margins; held-out images tell that this end is the one to drop."""
    pruning = prune(images, mislabelled, betas=[0.0, 1.0])
    assert pruning.kept.tolist() == [i for i in range(24) if i % 8 < 6]
    assert (pruning.best.hardest, pruning.best.easiest) == (2, 0)
    easiest, hardest = pruning.trials
    assert hardest.accuracy > easiest.accuracy + 10


def test_copies_are_the_easiest():
    """Of four copies of one image of noise and three others, mostly copies are dropped."""
    images = noisy_patterns(0.0)
    chosen = [int(images.by_class[c][i]) for c in range(3) for i in (0, 0, 0, 0, 1, 2, 3)]
    labels = torch.arange(3).repeat_interleave(7)
    distilled = as_set(images, images.unit(torch.tensor(chosen)), labels)
    training = {"epochs": 40, "lr": 0.1, "batch_size": 7}
    pruning = prune(images, distilled, per_class=4, betas=[0.0], training=training)
    dropped = set(range(21)) - set(pruning.kept.tolist())
    assert sum(i % 7 < 4 for i in dropped) >= 7  # of nine; chance would give five
    by_class = pruning.margins.view(3, 7)
    assert bool((by_class[:, 0] > by_class[:, 4:].mean(dim=1)).all())


def test_betas_that_drop_the_same_are_tried_once(images, mislabelled):
    heard = []
    pruning = prune(
        images, mislabelled, per_class=7, betas=[1.0, 0.5, 0.0, 0.25],
        heard=lambda *report: heard.append(report),
    )  # fmt: skip
    assert [(t.beta, t.hardest, t.easiest) for t in pruning.trials] == [(0.0, 0, 1), (1.0, 1, 0)]
    assert heard[0] == ("margins", 0, 3)
    assert heard[-1] == ("done", 3, 3)
    told = json.loads(json.dumps(pruning.as_json()))
    assert (told["kept"], told["dropped"], len(told["trials"])) == (21, 3, 2)


def test_where_nothing_is_to_choose_no_student_is_trained(images, mislabelled):
    pruning = prune(images, mislabelled, betas=[0.5])
    assert pruning.best.accuracy is None
    assert len(pruning.kept) == 18
    assert prune(images, mislabelled, per_class=8).kept.tolist() == list(range(24))


def test_the_same_seed_prunes_the_same(images, mislabelled):
    first, again = (prune(images, mislabelled, betas=[0.0, 1.0]) for _ in range(2))
    assert torch.equal(first.margins, again.margins)
    assert first.trials == again.trials


def test_what_cannot_be_pruned_is_refused(images, mislabelled):
    for per_class in (0, 9):
        with pytest.raises(RunError, match=rf"got {per_class} images a class, expected 1 to 8"):
            prune(images, mislabelled, per_class=per_class)
    uneven = as_set(images, mislabelled.images[1:], mislabelled.labels[1:])
    with pytest.raises(RunError, match=r"different sizes.*got \[7, 8, 8\]"):
        prune(images, uneven)
