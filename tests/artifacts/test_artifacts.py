"""The distilled set, its pictures, exports and folders."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from hpd.artifacts import EXPORTS, DistilledSet, RunFolder, export
from hpd.artifacts.pictures import folder_names, grid, png_bytes
from hpd.data import Normalisation
from hpd.errors import ConfigError, RunError
from hpd.files import write_bytes


@pytest.fixture
def distilled(rng):
    return DistilledSet(
        images=torch.rand(6, 3, 8, 8, generator=rng) * 1.2 - 0.1,
        labels=torch.arange(3).repeat_interleave(2),
        classes=("T-shirt/top", "Bag", "Coat"),
        normalisation=Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
        stored_floats=1152,
    )


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


def test_image_folders_keep_the_labels(distilled, tmp_path):
    export(distilled, "imagefolder", tmp_path / "out")
    read = ImageFolder(str(tmp_path / "out"))
    assert [label for _, label in read.samples] == distilled.labels.tolist()
    got = torch.stack([torch.from_numpy(np.array(image)) for image, _ in read])
    assert torch.equal(got.permute(0, 3, 1, 2), distilled.uint8())


def test_npz_holds_everything(distilled, tmp_path):
    export(distilled, "npz", tmp_path)
    with np.load(tmp_path / "distilled.npz", allow_pickle=False) as read:
        assert np.array_equal(read["images"], distilled.images.numpy())
        assert read["labels"].tolist() == distilled.labels.tolist()
        assert read["classes"].tolist() == list(distilled.classes)
        assert np.allclose(read["mean"], distilled.normalisation.mean)


def test_safetensors_are_what_the_loader_reads(distilled, tmp_path):
    export(distilled, "safetensors", tmp_path / "out")
    assert torch.equal(DistilledSet.load(tmp_path / "out").images, distilled.images)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_whole_or_not_there(distilled, tmp_path, name, monkeypatch):
    def fail(self):
        raise OSError("disk full")

    broken = DistilledSet(**vars(distilled))
    monkeypatch.setitem(EXPORTS, name, lambda distilled, folder: fail(broken))
    with pytest.raises(OSError, match="disk full"):
        export(broken, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_mixes_with_nothing(distilled, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="already holds other files"):
        export(distilled, "npz", tmp_path)
    with pytest.raises(RunError, match="is a file"):
        export(distilled, "npz", tmp_path / "thesis.tex")
    with pytest.raises(ConfigError, match=r"Did you mean 'imagefolder'\?"):
        export(distilled, "imagefoldr", tmp_path / "out")


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
        RunFolder(tmp_path / "run").read("config.yaml")
    with pytest.raises(RunError, match="is not a run folder"):
        RunFolder(tmp_path).read("config.yaml")


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
