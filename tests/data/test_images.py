"""Images in memory: subsets, batches, normalisation."""

from __future__ import annotations

import hashlib

import pytest
import torch

from hpd.data import DATASETS, Dataset, Normalisation
from hpd.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return DATASETS.parse("digits").build()


def test_digits_are_split_once_and_for_all(digits):
    """The bundled generator must never have seen a test image: the split may not move."""
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    digest = hashlib.sha256(digits.test.images.numpy().tobytes()).hexdigest()
    assert digest == "f9a5aefd1c3911db787c88f1452d573ef1da0e00c538cb14f6c33c54c7be2c3c"
    assert digits.train.images.shape[1:] == (1, 16, 16)
    counts = torch.bincount(digits.test.labels)
    assert int(counts.min()) >= 48


def test_no_test_image_is_a_training_image(digits):
    train = {image.numpy().tobytes() for image in digits.train.images}
    assert not any(image.numpy().tobytes() in train for image in digits.test.images)


def test_a_subset_is_relabelled_without_mixing_classes():
    """Replacing labels one by one can overwrite a label set a moment before."""
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 2, 2)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    data = Dataset.of((images, labels), (images, labels), ["a", "b", "c"], ["c", "a"])
    assert data.train.classes == ("c", "a")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    by_index = Dataset.of((images, labels), (images, labels), ["a", "b", "c"], [2, 0])
    assert torch.equal(by_index.train.labels, data.train.labels)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (["a", "d"], "unknown class 'd'"),
        ([0, 3], "unknown class 3"),
        (["a", 0], "two or more different"),
        (["a"], "two or more different"),
    ],
)
def test_wrong_subsets_are_named(subset, message):
    part = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2])
    with pytest.raises(DataError, match=message):
        Dataset.of(part, part, ["a", "b", "c"], subset)


def test_a_class_without_images_is_named():
    part = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(DataError, match="training part has no image of class 'c'"):
        Dataset.of(part, part, ["a", "b", "c"])


def test_normalisation_is_measured_and_undone(images):
    x = images.normalised()
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.normalisation.undo(x), images.unit())
    constant = Normalisation.of(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8))
    assert constant == Normalisation((0.2,), (1.0,))


def test_batches_are_of_the_class_and_without_repetition(images, rng):
    drawn = images.draw(1, 5, rng)
    assert len(set(drawn.tolist())) == 5
    assert (images.labels[drawn] == 1).all()
    assert sorted(images.draw(2, 99, rng).tolist()) == images.by_class[2].tolist()
    chosen = images.draw_per_class(2, rng)
    assert images.labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match="class 'a' has too few images: got 12"):
        images.draw_per_class(13, rng)
