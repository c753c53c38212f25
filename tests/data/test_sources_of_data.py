"""Folders and torchvision's data sets, whole and broken."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS
from PIL import Image

import hpd
from hpd.data import DATASETS
from hpd.errors import ConfigError, DataError


def write_pictures(root, classes=("cat", "dog"), count=5, size=(9, 7), mode="RGB"):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            colour = 40 * c + i
            value = colour if mode in ("L", "P") else (colour,) * len(mode)
            Image.new(mode, size, value).save(root / name / f"{i}.png")


def test_a_folder_is_split_by_class_and_always_alike(tmp_path):
    write_pictures(tmp_path)
    first, again = hpd.load_dataset(tmp_path), hpd.load_dataset(str(tmp_path))
    assert first.train.classes == ("cat", "dog")
    assert (len(first.train), len(first.test)) == (8, 2)
    assert first.train.image_shape == (3, 7, 9)
    assert torch.equal(first.test.images, again.test.images)
    both = torch.cat([first.train.images, first.test.images])
    assert len({image.numpy().tobytes() for image in both}) == 10


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    write_pictures(tmp_path / "train", count=3)
    write_pictures(tmp_path / "val", count=2)
    data = hpd.load_dataset("folder", root=str(tmp_path), resolution=6, channels=1)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.train.image_shape == (1, 6, 6)
    assert data.train.images[:3, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_kind_of_picture_is_read(tmp_path, mode):
    write_pictures(tmp_path, mode=mode)
    assert hpd.load_dataset(tmp_path).train.image_shape == (3, 7, 9)


def test_a_broken_file_is_named(tmp_path):
    write_pictures(tmp_path)
    path = tmp_path / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"broken image file: .*dog/3\.png"):
        hpd.load_dataset(tmp_path)
    path.write_text("not a picture")
    with pytest.raises(DataError, match=r"dog/3\.png"):
        hpd.load_dataset(tmp_path)


def test_other_faults_of_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="no such data folder"):
        hpd.load_dataset("folder", root=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="unknown data set"):
        hpd.load_dataset("nowhere")
    write_pictures(tmp_path / "one", classes=("cat",))
    with pytest.raises(DataError, match="subfolder per class: got 1"):
        hpd.load_dataset(tmp_path / "one")
    write_pictures(tmp_path / "empty", classes=("cat", "dog"), count=0)
    with pytest.raises(DataError, match=r"no images in .*cat"):
        hpd.load_dataset(tmp_path / "empty")
    write_pictures(tmp_path / "sizes")
    Image.new("RGB", (4, 4)).save(tmp_path / "sizes" / "dog" / "9.png")
    with pytest.raises(DataError, match=r"differ in size: .*9\.png.*data\.resolution"):
        hpd.load_dataset(tmp_path / "sizes")
    assert hpd.load_dataset(tmp_path / "sizes", resolution=8).train.image_shape == (3, 8, 8)


def test_padding_surrounds_every_image_with_black(tmp_path):
    layout = LAYOUTS["fashion_mnist"]
    for name in ("train", "test"):
        layout.write(tmp_path, name, *layout.part(name))
    plain = hpd.load_dataset("fashion_mnist", root=str(tmp_path))
    padded = hpd.load_dataset("fashion_mnist", root=str(tmp_path), pad=2)
    for before, after in ((plain.train, padded.train), (plain.test, padded.test)):
        assert after.image_shape == (1, 32, 32)
        assert torch.equal(after.images[:, :, 2:-2, 2:-2], before.images)
        assert int(after.images.long().sum()) == int(before.images.long().sum())
        assert torch.equal(after.labels, before.labels)
    # what is measured on the training images counts the border, too
    share = 28**2 / 32**2
    mean = padded.train.normalisation.mean[0]
    assert mean == pytest.approx(share * plain.train.normalisation.mean[0])


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"is not in .*data\.root.*data\.download=true"):
        DATASETS.parse({"kind": "svhn", "root": str(tmp_path)}).build()


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    import torchvision.datasets

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    with pytest.raises(DataError, match=r"could not download CIFAR10: got OSError: no network"):
        DATASETS.parse({"kind": "cifar10", "root": str(tmp_path), "download": True}).build()
