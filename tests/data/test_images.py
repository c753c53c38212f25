"""Sets of images: views, subsets, batches, normalisation."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

from hpd.data import DATASETS, Dataset, ImageSet, Normalisation
from hpd.data import images as images_module
from hpd.data import normalisation as normalisation_module
from hpd.errors import DataError, ShapeError

CPU = torch.device("cpu")


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


@pytest.fixture
def view(images):
    """Some images in another order, one of them twice."""
    return images.at(torch.tensor([35, 3, 17, 3, 20, 0, 12]))


def copied(part: ImageSet) -> ImageSet:
    """The same images in a store of their own."""
    return part.with_images(part.images.clone())


def test_a_view_copies_nothing(images, view):
    assert view.rows is images.rows
    assert view.at(torch.tensor([2, 1])).rows is images.rows
    assert view.only([0, 2]).rows is images.rows
    assert (len(view), view.image_shape, view.num_classes) == (7, (1, 8, 8), 3)


def test_a_view_of_a_view_is_of_the_rows_of_the_first(images, view):
    twice = view.at(torch.tensor([6, 2, 2]))
    assert torch.equal(twice.images, images.images[[12, 17, 17]])
    assert twice.labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("indices", [slice(None), slice(1, 4), torch.tensor([4, 0, 4])])
def test_batches_of_a_view_are_those_of_its_images(images, view, indices, whole):
    part = images if whole else view
    want = part.images[indices]
    assert torch.equal(part.pixels(indices), want)
    unit = want.float() / 255
    assert torch.equal(part.unit(indices), unit)
    assert torch.equal(part.normalised(indices), part.normalisation.apply(unit))
    assert torch.equal(part.normalised(indices, CPU), part.normalised(indices))


def test_classes_of_a_view_are_relabelled_in_their_order(view):
    part = view.only([2, 0])
    assert part.classes == ("c", "a")
    assert part.labels.tolist() == [0, 1, 1, 1]
    assert torch.equal(part.images, view.images[[0, 1, 3, 5]])
    assert [own.tolist() for own in part.by_class] == [[0], [1, 2, 3]]
    assert torch.equal(part.only([1]).images, view.images[[1, 3, 5]])


@pytest.mark.parametrize("part_bytes", [1, 130, 1 << 24])
def test_a_view_has_the_hash_of_a_copy(view, part_bytes, monkeypatch):
    monkeypatch.setattr(images_module, "_READ_BYTES", part_bytes)
    digest = hashlib.sha256(b"(7, 1, 8, 8)")
    digest.update(view.images.numpy().tobytes() + view.labels.numpy().tobytes())
    assert view.sha256 == copied(view).sha256 == digest.hexdigest()


def test_a_hash_that_is_known_is_of_these_images_alone(images):
    known = replace(images, known_sha256="of the whole")
    assert known.sha256 == "of the whole"
    assert known.at(torch.arange(36)).sha256 == images.sha256
    assert known.with_images(images.images).sha256 == images.sha256
    assert known.only([1, 2]).sha256 == copied(images.only([1, 2])).sha256


def test_what_a_student_sees_stands_for_normalised_images(view):
    seen, want = view.seen_on(CPU), view.normalised()
    assert (len(seen), seen.shape, seen.dtype, seen.device) == (7, want.shape, want.dtype, CPU)
    for indices in (torch.tensor([5, 1, 1]), slice(2, 6)):
        assert torch.equal(seen[indices], want[indices])
    parts = list(zip(seen.split(3), want.split(3), strict=True))
    assert len(parts) == 3 and all(torch.equal(ours, theirs) for ours, theirs in parts)
    some = seen.at(torch.tensor([6, 0]))
    assert torch.equal(some.to(CPU)[:], want[[6, 0]])


def test_no_images_come_in_one_part_as_of_a_tensor(view):
    none = view.at(torch.tensor([], dtype=torch.int64))
    (ours,), (theirs,) = none.seen_on(CPU).split(4), none.normalised().split(4)
    assert ours.shape == theirs.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("part_bytes", [1, 200, 1 << 24])
def test_mean_and_deviation_are_those_of_float64(rng, part_bytes, monkeypatch):
    """Of a view, whatever its parts, and of a copy: equal to the bit."""
    monkeypatch.setattr(images_module, "_READ_BYTES", part_bytes)
    monkeypatch.setattr(normalisation_module, "_CHUNK_BYTES", part_bytes)
    pixels = torch.randint(256, (40, 3, 5, 4), generator=rng).to(torch.uint8)
    pixels[:, 1] //= 9
    labels, unknown = torch.arange(40) % 2, Normalisation((0.0,), (1.0,))
    part = ImageSet(pixels, labels, ("a", "b"), unknown).at(torch.randperm(40, generator=rng)[:31])
    found, unit = part.measured().normalisation, part.images.double() / 255
    torch.testing.assert_close(
        torch.tensor(found.mean, dtype=torch.float64), unit.mean(dim=(0, 2, 3)), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        torch.tensor(found.std, dtype=torch.float64),
        unit.std(dim=(0, 2, 3), correction=0), rtol=1e-12, atol=0,
    )  # fmt: skip
    assert found == Normalisation.of(part.images) == copied(part).measured().normalisation


def test_images_that_are_no_bytes_are_refused(images):
    with pytest.raises(ShapeError, match=r"bytes: got torch.float32, expected uint8"):
        images.with_images(images.unit())
