"""Folders and torchvision's data sets, whole and broken."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS
from PIL import Image

import hpd
from hpd.config import load_config
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


def write_npz(path, count=8):
    import numpy as np

    images = np.arange(count * 64).reshape(count, 8, 8).astype(np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 2)
    return path


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_data_set_is_loaded_by_path_or_by_a_mapping(tmp_path, kind):
    write_pictures(tmp_path / "photos")
    path = write_npz(tmp_path / "a.npz") if kind == "npz" else tmp_path / "photos"
    options = {"kind": kind, "root": str(path), "channels": 1}
    mapped, placed = hpd.load_dataset(options), hpd.load_dataset(path, channels=1)
    assert mapped.train.image_shape[0] == 1
    assert torch.equal(mapped.train.images, placed.train.images)
    assert hpd.load_dataset({"kind": str(path)}, channels=1).test.sha256 == mapped.test.sha256


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=photos", "data.resolution=8"],
        ["data={kind: photos, resolution: 8}"],
        ["data={kind: folder, root: photos, resolution: 8}"],
    ],
)
def test_a_config_takes_a_path_for_its_data(tmp_path, monkeypatch, overrides):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos")
    settings = load_config("digits-pixel-dm", overrides).data
    assert DATASETS.dump(settings)["kind"] == "folder"
    assert (settings.root, settings.resolution) == ("photos", 8)
    assert load_config("digits-pixel-dm", [f"data={write_npz('a.npz')}"]).data.root == "a.npz"


def test_a_path_in_a_yaml_file_is_saved_as_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "a.npz")
    (tmp_path / "own.yaml").write_text("base: digits-pixel-dm\ndata: a.npz\n")
    settings = load_config("own.yaml")
    (tmp_path / "again.yaml").write_text(settings.to_yaml())
    assert load_config("again.yaml").data == settings.data == DATASETS.parse("a.npz")


def test_a_path_that_is_not_there_is_one_error_that_says_both(tmp_path):
    with pytest.raises(ConfigError, match="unknown data set 'photos': got no such file or folder"):
        load_config("digits-pixel-dm", ["data=photos"])
    with pytest.raises(ConfigError, match="unknown data set"):
        hpd.load_dataset({"kind": str(tmp_path / "a.npz")})


def test_a_teacher_is_trained_on_data_by_path(tmp_path):
    path = write_npz(tmp_path / "a.npz", count=20)
    options = ("training.epochs=1", "student={kind: convnet, norm: batch, width: 4, depth: 2}")
    teacher = hpd.squeeze(path, *options, out=tmp_path / "teacher", device="cpu")
    assert tuple(teacher.record.classes) == ("0", "1")
