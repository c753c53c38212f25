"""Every format, read back by the library it is for."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

import hpd
from hpd.api import export
from hpd.artifacts import EXPORTS, DistilledSet, Provenance
from hpd.cli import main
from hpd.data import Normalisation
from hpd.errors import ConfigError, RunError, ShapeError
from hpd.rng import Streams
from hpd.students import STUDENTS, TrainingSettings, accuracy, train_student

MANIFEST = {
    "classes": ["a", "b"],
    "seed": 7,
    "generator": {"name": "digits16", "licence": "MIT", "sha256": "00ff"},
    "versions": {"hpd": "0.1.0"},
}
KNOWN = Provenance(MANIFEST, "cifar10")


def about(folder):
    return json.loads((folder / "about.json").read_text())


def read_image_folder(folder):
    read = ImageFolder(str(folder))
    images = [np.array(image) for image, _ in read]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, read.targets


def read_npz(folder):
    with np.load(folder / "distilled.npz", allow_pickle=False) as file:
        return torch.from_numpy(file["images"]), file["labels"].tolist()


def read_safetensors(folder):
    read = load_file(folder / "distilled.safetensors")
    return read["images"], read["labels"].tolist()


def read_hugging_face(folder):
    datasets = pytest.importorskip("datasets", reason="needs hpd[exports]")
    rows = datasets.load_dataset(
        str(folder), split="train", cache_dir=str(folder.parent / f"{folder.name}-cache")
    )
    return torch.stack([pil_to_tensor(row["image"]) for row in rows]) / 255, rows["label"][:]


def read_web_dataset(folder):
    webdataset = pytest.importorskip("webdataset", reason="needs hpd[exports]")
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = webdataset.WebDataset(shards, shardshuffle=False).decode("torchrgb")
    rows = sorted(read.to_tuple("__key__", "png", "cls"))
    return torch.stack([row[1] for row in rows]), [row[2] for row in rows]


def read_dd_ranking(folder):
    images = torch.load(folder / "images.pt", weights_only=True)
    labels = torch.load(folder / "labels.pt", weights_only=True)
    said = about(folder)
    return Normalisation(tuple(said["mean"]), tuple(said["std"])).undo(images), labels.tolist()


READERS = {
    "imagefolder": read_image_folder,
    "npz": read_npz,
    "safetensors": read_safetensors,
    "huggingface": read_hugging_face,
    "webdataset": read_web_dataset,
    "ddranking": read_dd_ranking,
}
EXACT = {"npz", "safetensors", "ddranking"}


@pytest.fixture(params=list(EXPORTS))
def name(request):
    if request.param == "huggingface":
        pytest.importorskip("datasets", reason="needs hpd[exports]")
    return request.param


def test_its_library_reads_the_set_back(name, distilled, tmp_path):
    images, labels = READERS[name](export(distilled, name, tmp_path / "out"))
    assert list(labels) == distilled.labels.tolist()
    if name in EXACT:
        torch.testing.assert_close(images, distilled.images)
    else:
        torch.testing.assert_close(images, distilled.uint8() / 255)
        error = (images - distilled.images.clamp(0, 1)).abs().max()
        assert error <= 0.5 / 255 + 1e-6


@pytest.fixture(scope="module")
def real():
    return hpd.load_dataset("digits", classes=["0", "1", "7"])


def test_a_student_learns_the_same_from_it(name, real, tmp_path):
    """Images of 8 bits a value lose nothing in any format: the same accuracy, to the digit."""
    chosen = real.train.draw_per_class(3, Streams(0).generator("chosen"))
    original = DistilledSet(
        real.train.unit(chosen), real.train.labels[chosen], real.train.classes,
        real.train.normalisation, 9 * 256,
    )  # fmt: skip
    images, labels = READERS[name](export(original, name, tmp_path / "out"))
    normalised = real.train.normalisation.apply(images)

    def accuracy_after(images, labels):
        rng = Streams(0).generator("weights")
        student = STUDENTS.parse(SMALL_STUDENT).build((1, 16, 16), 3, rng)
        train_student(student, images, labels, TrainingSettings(epochs=25, lr=0.1), Streams(0))
        return accuracy(student, real.test.normalised(), real.test.labels)

    want = accuracy_after(original.normalised(), original.labels)
    assert want > 0.7
    if images.shape[1] == 3:
        normalised = normalised[:, :1]
    assert accuracy_after(normalised, torch.as_tensor(labels)) == want


def test_equal_sets_give_equal_bytes(name, distilled, tmp_path, monkeypatch):
    def content(folder):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    first = content(export(distilled, name, tmp_path / "a", provenance=KNOWN_OWN))
    monkeypatch.setattr("time.time", lambda: 2e9)
    second = content(export(distilled, name, tmp_path / "b", provenance=KNOWN_OWN))
    assert first == second
    other = replace(distilled, images=distilled.images.flip(0))
    assert content(export(other, name, tmp_path / "c", provenance=KNOWN_OWN)) != first


KNOWN_OWN = Provenance(MANIFEST, "digits")


def test_it_says_what_the_set_is_and_where_it_came_from(name, distilled, tmp_path):
    said = about(export(distilled, name, tmp_path / "out", provenance=KNOWN_OWN))
    assert said["classes"] == list(distilled.classes)
    assert (said["mean"], said["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert said["storage"]["images"] == {"floats": 1152, "bits": 36864}
    assert said["provenance"]["data"] == "digits"
    assert said["provenance"]["generator"]["licence"] == "MIT"


def test_an_export_is_whole_or_not_there(name, distilled, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="disk full"):
        export(distilled, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_mixes_with_nothing(name, distilled, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="already holds other files"):
        export(distilled, name, tmp_path)
    with pytest.raises(RunError, match="is a file"):
        export(distilled, name, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_formats_and_options_are_one_line(distilled, tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'imagefolder'\?"):
        export(distilled, "imagefoldr", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"Did you mean 'shard_images'\?"):
        export(distilled, "webdataset", tmp_path / "out", options={"shard_image": 3})
    distilled.save(tmp_path / "set.safetensors")
    run = str(tmp_path / "set.safetensors")
    for extra in (["folder=1"], ["nonsense"], ["kind=npz"]):
        arguments = ["export", run, "--format", "npz", "--out", str(tmp_path / "out"), *extra]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_one_line(distilled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'hpd\[exports\]'"):
        export(distilled, "huggingface", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_format():
    shown = CliRunner().invoke(main, ["export", "--help"]).output
    assert all(name in shown for name in EXPORTS)
    assert all(name in (export.__doc__ or "") for name in EXPORTS)


def test_image_folders_have_metadata_that_datasets_reads(distilled, tmp_path):
    folder = export(distilled, "imagefolder", tmp_path / "out")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == distilled.labels.tolist()
    for line, image in zip(lines, distilled.uint8(), strict=True):
        assert line["class_name"] == distilled.classes[line["label"]]
        assert (line["mean"], line["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
        drawn = np.array(Image.open(folder / line["file_name"]))
        assert np.array_equal(drawn, image.permute(1, 2, 0).numpy())
    datasets = pytest.importorskip("datasets", reason="needs hpd[exports]")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 6
    assert {row["class_name"] for row in rows} == set(distilled.classes)


def test_names_in_the_card_are_text_and_nothing_else(distilled, tmp_path):
    """Class names are foreign: in YAML, Markdown and HTML they stay names."""
    pytest.importorskip("datasets", reason="needs hpd[exports]")
    hostile = ("`<script>alert(1)</script>`", "---\nlicense: mit\n---", "[x](http://x.y)")
    folder = export(
        replace(distilled, classes=hostile), "huggingface", tmp_path / "out", provenance=KNOWN
    )
    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    assert "---\n" not in body
    outside = re.sub(r"`[^`\n]*`", "", body)
    assert "<script>" not in outside
    assert "http" not in outside
    assert "MIT" in body
    assert "cifar10" in body


def test_the_code_in_the_card_runs(distilled, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs hpd[exports]")
    folder = export(distilled, "huggingface", tmp_path / "out")
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[0]
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, split: load(path, split=split, cache_dir=tmp_path)
    )
    names = {}
    exec(code.replace("PATH OR NAME OF THIS DATA SET", str(folder)), names)
    rounded = distilled.normalisation.apply(distilled.uint8() / 255)
    torch.testing.assert_close(names["images"], rounded)
    assert torch.equal(names["labels"], distilled.labels)


def test_hugging_face_names_the_classes(distilled, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs hpd[exports]")
    folder = export(distilled, "huggingface", tmp_path / "out")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert tuple(rows.features["label"].names) == distilled.classes


def test_shards_are_bounded_and_shuffled(distilled, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs hpd[exports]")

    def labels(folder, **options):
        export(distilled, "webdataset", folder, options={"shard_images": 4, **options})
        shards = [str(path) for path in sorted(folder.glob("*.tar"))]
        assert len(shards) == about(folder)["shards"] == 2
        rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
        assert all(row["json"]["class_name"] == distilled.classes[row["cls"]] for row in rows)
        return [row["cls"] for row in rows]

    assert labels(tmp_path / "ordered", shuffle_seed=None) == distilled.labels.tolist()
    shuffled = labels(tmp_path / "shuffled")
    assert shuffled != sorted(shuffled) == distilled.labels.tolist()
    assert labels(tmp_path / "other", shuffle_seed=1) != shuffled


def test_dd_ranking_gets_images_as_its_test_images_are(distilled, tmp_path):
    """Ordered by class, normalised with its constants for the data; see its `get_dataset`."""
    order = torch.tensor([0, 4, 2, 1, 5, 3])
    mixed = replace(distilled, images=distilled.images[order], labels=distilled.labels[order])
    folder = export(mixed, "ddranking", tmp_path / "out", provenance=KNOWN)
    images = torch.load(folder / "images.pt", weights_only=True)
    labels = torch.load(folder / "labels.pt", weights_only=True)
    # its hard-label score makes these labels by itself
    ipc, classes = 2, 3
    implied = torch.tensor(np.array([np.ones(ipc) * c for c in range(classes)])).long().view(-1)
    assert torch.equal(labels, implied)
    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    std = torch.tensor([0.2023, 0.1994, 0.2010])[:, None, None]
    by_class = torch.cat([mixed.images[mixed.labels == c] for c in range(classes)])
    torch.testing.assert_close(images, (by_class - mean) / std)
    assert about(folder)["constants"] == "cifar10"
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    # no larger than what is in it
    assert (folder / "images.pt").stat().st_size < images.nbytes + 4096


def test_dd_ranking_refuses_what_it_would_read_wrongly(distilled, tmp_path):
    uneven = replace(distilled, images=distilled.images[:5], labels=distilled.labels[:5])
    with pytest.raises(ConfigError, match=r"got 1 to 2"):
        export(uneven, "ddranking", tmp_path / "out")
    grey = replace(
        distilled, images=distilled.images[:, :1], normalisation=Normalisation((0.1,), (0.5,))
    )
    with pytest.raises(ShapeError, match="constants=own"):
        export(grey, "ddranking", tmp_path / "out", provenance=KNOWN)
    export(grey, "ddranking", tmp_path / "out", provenance=KNOWN, options={"constants": "own"})
    assert about(tmp_path / "out")["constants"] == "own"


def test_a_path_brings_its_provenance(distilled, tmp_path):
    distilled.save(tmp_path / "distilled.safetensors")
    assert about(export(tmp_path, "npz", tmp_path / "a"))["provenance"] == {}
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    with pytest.raises(RunError, match=r"cannot read manifest\.json and config\.yaml"):
        export(tmp_path, "npz", tmp_path / "b")
    (tmp_path / "config.yaml").write_text("data: {kind: svhn, root: /home/somebody}\n")
    said = about(export(tmp_path, "npz", tmp_path / "b"))
    assert said["provenance"]["data"] == "svhn"
    assert said["provenance"]["seed"] == 7
    assert "somebody" not in (tmp_path / "b" / "about.json").read_text()


def test_grey_images_stay_grey(distilled, tmp_path):
    grey = replace(
        distilled, images=distilled.images[:, :1], normalisation=Normalisation((0.1,), (0.5,))
    )
    folder = export(grey, "webdataset", tmp_path / "out", options={"shuffle_seed": None})
    import tarfile

    with tarfile.open(folder / "distilled-000000.tar") as shard:
        first = shard.extractfile("00000000.png").read()
        assert {(m.mtime, m.uid, m.uname) for m in shard.getmembers()} == {(0, 0, "")}
    assert np.array_equal(np.array(Image.open(io.BytesIO(first))), grey.uint8()[0, 0].numpy())
