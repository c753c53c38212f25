"""The distilled set, its pictures and folders."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hpd.artifacts import DistilledSet, RunFolder, pictures
from hpd.artifacts.pictures import folder_names, grid, png_bytes
from hpd.data import Normalisation
from hpd.disk.files import write_bytes
from hpd.errors import RunError


def test_a_set_survives_disk_to_the_bit(distilled, tmp_path):
    distilled.save(tmp_path / "a.safetensors")
    again = DistilledSet.load(tmp_path / "a.safetensors")
    assert torch.equal(again.images, distilled.images)
    assert torch.equal(again.labels, distilled.labels)
    assert (again.classes, again.normalisation) == (distilled.classes, distilled.normalisation)
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_loader_normalises(distilled):
    image, label = distilled.tensor_dataset()[5]
    assert int(label) == 2
    want = (distilled.images[5, 1] - 0.2) / 0.6
    torch.testing.assert_close(image[1], want)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_set_is_refused(tmp_path, content):
    path = tmp_path / "distilled.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    "classes",
    [("a", "b"), ("b", "a"), ("a/b", "a:b"), ("..", "."), tuple("0123456789a"), ("é", "ü")],
)
def test_folder_names_are_safe_different_and_in_order(classes, tmp_path):
    names = folder_names(classes)
    assert sorted(set(names)) == names
    for name in names:
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        (tmp_path / name).mkdir()


def test_the_grid_shows_every_image(distilled):
    picture = Image.open(io.BytesIO(png_bytes(grid(distilled, columns=2))))
    drawn = np.array(picture)
    for image in distilled.uint8():
        colour = image[:, 4, 4].numpy()
        assert (drawn == colour).all(axis=2).sum() >= 50


def test_a_run_folder_is_not_taken_twice(tmp_path):
    RunFolder.create(tmp_path / "run", "seed: 0\n")
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "seed: 1\n")
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 0\n"
    with pytest.raises(RunError, match="is not finished"):
        RunFolder(tmp_path / "run").read_manifest()
    with pytest.raises(RunError, match="is not a run folder"):
        RunFolder(tmp_path).read_config()


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"before")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_of_very_many_images_the_first_of_each_class_are_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "_MOST_PICTURES", 6)
    shape = torch.linspace(0, 1, 12).reshape(12, 1, 1, 1).expand(12, 1, 4, 4).contiguous()
    labels = torch.arange(3).repeat(4)
    whole = DistilledSet(shape, labels, ("a", "b", "c"), Normalisation((0.0,), (1.0,)), 12)
    some = pictures.worth_looking_at(whole)
    assert some.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(some.images, shape[[0, 3, 1, 4, 2, 5]])
    monkeypatch.setattr(pictures, "_MOST_PICTURES", 12)
    assert pictures.worth_looking_at(whole) is whole
