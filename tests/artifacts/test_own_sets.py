"""Sets that users make of their own arrays: right, or refused before anything is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import hpd
from hpd.artifacts import DistilledSet
from hpd.artifacts.exports.base import EXPORTS
from hpd.data import Normalisation
from hpd.disk.files import write_tensors
from hpd.errors import HpdError, NumericError, RunError, ShapeError

PIXELS = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
UNIT = PIXELS / 255
NORMALISATION = Normalisation((0.5,), (0.25,))


def own(images=UNIT, labels=(0, 0, 1, 1), classes=("a", "b"), normalisation=NORMALISATION,
        stored_floats=256, **more):  # fmt: skip
    return DistilledSet(images, labels, classes, normalisation, stored_floats, **more)


@pytest.mark.parametrize(
    "images",
    [
        PIXELS, PIXELS.numpy(), UNIT, UNIT.numpy(), UNIT.double(), UNIT.numpy().astype(">f8"),
        UNIT.tolist(), list(UNIT), UNIT.clone().requires_grad_(),
    ],
    ids=["bytes", "bytes of numpy", "floats", "numpy", "doubles", "big-endian", "lists",
         "list of tensors", "with a graph"],
)  # fmt: skip
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1], np.array([0, 0, 1, 1], ">i2"), torch.tensor([[0], [0], [1], [1]])]
)
def test_every_way_to_give_a_set_gives_the_same_file(images, labels, tmp_path):
    given = own(images, labels).save(tmp_path / "given")
    plain = own(UNIT, torch.tensor([0, 0, 1, 1])).save(tmp_path / "plain")
    assert given == plain


@pytest.mark.parametrize("given", [PIXELS, UNIT.numpy()], ids=["bytes", "numpy"])
def test_the_picture_is_the_one_that_was_given(given, tmp_path):
    hpd.export(own(given), "imagefolder", tmp_path / "out")
    assert np.array_equal(Image.open(tmp_path / "out" / "a" / "001.png"), PIXELS[1, 0].numpy())


WRONG = {
    "0 to 255": ({"images": UNIT * 255}, "x / 255"),
    "normalised": ({"images": NORMALISATION.apply(UNIT)}, "look normalised"),
    "channels last": ({"images": UNIT.permute(0, 2, 3, 1)}, "channels are last"),
    "no images": ({"images": UNIT[:0]}, "There are none"),
    "fewer labels": ({"labels": [0, 1]}, "got 2 labels, expected 4"),
    "label out of range": ({"labels": [0, 1, 2, 0]}, r"expected 0\.\.1"),
    "one-hot": ({"labels": torch.eye(4)}, "argmax"),
    "a name twice": ({"classes": ("a", "a")}, "'a' twice"),
    "names of numbers": ({"classes": (0, 1)}, "not all text"),
    "no normalisation": ({"normalisation": ((0.5,), (0.25,))}, "got tuple"),
    "of other channels": ({"normalisation": Normalisation((0.5,) * 3, (0.2,) * 3)}, "1 numbers"),
    "std of 0": ({"normalisation": Normalisation((0.5,), (0.0,))}, "std above 0"),
    "mean of NaN": ({"normalisation": Normalisation((float("nan"),), (1.0,))}, "the mean"),
    "floats below 0": ({"stored_floats": -1}, "stored_floats"),
    "bits below 0": ({"stored_bits": -1}, "stored_bits"),
    "half a float": ({"generator_floats": 0.5}, "generator_floats"),
    "soft labels of other classes": ({"soft_labels": torch.rand(4, 3)}, r"floats \[4, 2\]"),
    "logits": ({"soft_labels": torch.tensor([[-3.0, 3.0]] * 4)}, "softmax"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_set_that_does_not_fit_together_is_refused(kind):
    options, said = WRONG[kind]
    with pytest.raises(HpdError, match=said) as error:
        own(**options)
    assert len(str(error.value)) <= 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("optimised", [False, True])
def test_what_is_not_finite_is_refused(optimised):
    with pytest.raises(NumericError, match="256 NaN or Inf"):
        own(UNIT * torch.nan, optimised=optimised)


def test_numbers_of_the_normalisation_come_in_any_array():
    given = own(normalisation=Normalisation(np.array([0.5]), torch.tensor([1])))
    assert given.normalisation == Normalisation((0.5,), (1.0,))


def test_what_a_run_made_may_lie_anywhere_and_still_does_after_changes(tmp_path):
    made = own(UNIT * 9 - 4, optimised=True)
    made.save(tmp_path / "set")
    again = DistilledSet.load(tmp_path / "set")
    for one in (replace(again, stored_floats=0), again.only(torch.tensor([0, 2]), 128)):
        assert one.optimised
    assert torch.equal(again.images, made.images)


def test_the_way_out_for_optimised_images_is_named():
    with pytest.raises(ShapeError, match="optimised=True"):
        own(UNIT * 9 - 4)


@pytest.mark.parametrize(
    "tensors",
    [
        {"images": UNIT * torch.nan}, {"labels": torch.tensor([0, 0, 1, 7])},
        {"labels": torch.tensor([0, 1])}, {"images": UNIT[0]},
        {"soft_labels": torch.ones(4, 5)},
    ],
    ids=["NaN", "label out of range", "fewer labels", "one image", "soft labels"],
)  # fmt: skip
def test_a_file_that_holds_no_set_is_a_run_error(tensors, tmp_path):
    path = tmp_path / "set.safetensors"
    about = {"classes": ["a", "b"], "mean": [0.5], "std": [0.25], "stored_floats": 1}
    whole = {"images": UNIT, "labels": torch.tensor([0, 0, 1, 1])} | tensors
    # as earlier versions wrote it, without checksums of the tensors
    write_tensors(path, whole, about)
    with pytest.raises(RunError, match=r"cannot read .*set\.safetensors"):
        DistilledSet.load(path)


@pytest.mark.parametrize("classes", [["a", "a"], "ab", [1, 2], None])
def test_a_file_with_other_things_for_classes_is_a_run_error(classes, tmp_path):
    path = tmp_path / "set.safetensors"
    about = {"classes": classes, "mean": [0.5], "std": [0.25], "stored_floats": 1}
    write_tensors(path, {"images": UNIT, "labels": torch.tensor([0, 0, 1, 1])}, about)
    with pytest.raises(RunError, match=r"cannot read .*set\.safetensors"):
        DistilledSet.load(path)


@pytest.mark.parametrize("name", list(EXPORTS))
def test_a_set_that_was_written_to_since_is_refused_and_nothing_is_left(name, tmp_path):
    distilled = own(UNIT.clone())
    distilled.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericError):
        hpd.export(distilled, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["imagefolder", "webdataset", "huggingface"])
def test_pictures_are_grey_or_in_colour(name, tmp_path):
    if name == "huggingface":
        pytest.importorskip("datasets", reason="needs hpd[exports]")
    two = Normalisation((0.5, 0.5), (0.25, 0.25))
    distilled = own(UNIT.expand(-1, 2, -1, -1), normalisation=two)
    with pytest.raises(ShapeError, match="got 2 channels, expected 1 or 3"):
        hpd.export(distilled, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_arrays_have_any_number_of_channels(tmp_path):
    two = Normalisation((0.5, 0.5), (0.25, 0.25))
    hpd.export(own(UNIT.expand(-1, 2, -1, -1), normalisation=two), "npz", tmp_path / "out")
    with np.load(tmp_path / "out" / "distilled.npz") as file:
        assert file["images"].shape == (4, 2, 8, 8)


@pytest.mark.parametrize("path", [None, 3, "x" * 5000, "~nobody-of-this-name/set", "nowhere"])
def test_where_no_set_can_be_is_a_run_error(path):
    with pytest.raises(RunError, match="no distilled set at"):
        DistilledSet.load(path)


@pytest.mark.parametrize(
    "indices", [[0.5], [4], [-1], [], torch.tensor([True, False, False, True]), None]
)
def test_a_part_is_of_images_that_are_there(indices):
    with pytest.raises(ShapeError, match="indices"):
        own().only(indices, 64)
