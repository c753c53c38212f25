"""Shards of WebDataset and data sets of Hugging Face: what they mean, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile

import numpy as np
import pytest
from layouts import hugging_face, png

import hpd
from hpd.api import export
from hpd.artifacts import DistilledSet
from hpd.data import DATASETS
from hpd.errors import DataError
from hpd.rng import Streams


def image(value):
    return np.full((3, 4, 5), value, np.uint8)


def write_tar(path, files, **options):
    """Writes (name, content) as a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as shard:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def samples(start=0, count=4, ending="cls", content=lambda label: str(label).encode()):
    for i in range(start, start + count):
        yield f"{i:04}.png", png(image(10 * i))
        yield f"{i:04}.{ending}", content(i % 2)


def listed(root, **options):
    return DATASETS.parse({"kind": "webdataset", "root": str(root), **options}).listing()


def error(root, **options):
    with pytest.raises(DataError) as caught:
        listed(root, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 600
    return str(caught.value)


def values(part):
    return [np.asarray(entry.open())[0, 0, 0] for entry in part.entries]


@pytest.mark.parametrize("names", ["{}-000.tar", "{}/000.tar", "flowers-{}-000.tar"])
def test_shards_go_to_parts_by_their_names_or_folders(tmp_path, names):
    write_tar(tmp_path / names.format("train"), samples())
    write_tar(tmp_path / names.format("val"), samples(4))
    found = listed(tmp_path)
    assert found.classes == ("0", "1") and found.notes == ()
    assert values(found.train) == [0, 20, 10, 30] and found.train.labels == [0, 0, 1, 1]
    assert values(found.test) == [40, 60, 50, 70]


def test_shards_without_parts_are_split_by_class(tmp_path):
    write_tar(tmp_path / "a-0.tar", samples(0, 10))
    write_tar(tmp_path / "a-1.tar", samples(10, 10))
    found = listed(tmp_path, test_fraction=0.3)
    assert (len(found.train), len(found.test)) == (14, 6)


def test_one_shard_or_a_pattern_is_enough(tmp_path):
    for number in (8, 9, 10):
        write_tar(tmp_path / f"a-{number:03}.tar", samples(0, 4))
    for name, count in (("a-008.tar", 4), ("a-{009..010}.tar", 8)):
        found = listed(tmp_path / name)
        assert len(found.train) + len(found.test) == count
    text = error(tmp_path / "a-{008..012}.tar")
    assert f"no such data file: {tmp_path / 'a-011.tar'}: got 2 of 5 are missing" in text
    assert "cannot read the pattern" in error(tmp_path / "a-{x..y}.tar")


@pytest.mark.parametrize("key", ["label", "cls", "class"])
def test_labels_may_be_in_json(tmp_path, key):
    content = lambda label: json.dumps({key: label, "more": [1]}).encode()  # noqa: E731
    write_tar(tmp_path / "a.tar", samples(ending="json", content=content))
    assert listed(tmp_path).classes == ("0", "1")


@pytest.mark.parametrize("name", ["classnames.txt", "classes.txt"])
def test_names_of_classes_lie_beside_the_shards(tmp_path, name):
    write_tar(tmp_path / "a.tar", samples())
    (tmp_path / name).write_text("cat\ndog\n")
    assert listed(tmp_path).classes == ("cat", "dog")
    (tmp_path / name).write_text("cat\n")
    assert "a label without a name: got 1" in error(tmp_path)


def test_labels_that_are_names_are_the_classes(tmp_path):
    write_tar(tmp_path / "a.tar", samples(content=lambda c: (b"dog", b"cat")[c]))
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog")
    assert {value // 10 % 2 for value in values(found.train)[:1]} == {1}


@pytest.mark.parametrize("name", ["webdataset", "huggingface"])
def test_what_an_export_writes_is_read_back(name, tmp_path):
    real = hpd.load_dataset("digits", classes=["3", "8"]).train
    rows = real.draw_per_class(3, Streams(0).generator("rows"))
    distilled = DistilledSet(
        real.unit(rows), real.labels[rows], real.classes, real.normalisation, 6 * 256
    )
    settings = DATASETS.parse(str(export(distilled, name, tmp_path / "out")))
    found = settings.model_copy(update={"channels": 1}).listing()
    assert found.classes == ("3", "8")
    read = [
        (np.asarray(entry.open().convert("L")).tobytes(), label)
        for part in (found.train, found.test)
        for entry, label in zip(part.entries, part.labels, strict=True)
    ]
    pixels = real.pixels(rows)[:, 0].numpy()
    labels = real.labels[rows].tolist()
    assert sorted(read) == sorted(zip((p.tobytes() for p in pixels), labels, strict=True))


def test_a_compressed_shard_is_refused(tmp_path):
    write_tar(tmp_path / "plain.tar", samples())
    packed = gzip.compress((tmp_path / "plain.tar").read_bytes())
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar.gz").write_bytes(packed)
    assert "compressed shard" in error(tmp_path / "set")
    (tmp_path / "set" / "a.tar.gz").rename(tmp_path / "set" / "a.tar")
    assert "decompress it" in error(tmp_path / "set")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_shard_are_refused(tmp_path, kind):
    write_tar(tmp_path / "a.tar", samples())
    with tarfile.open(tmp_path / "a.tar", "a") as shard:
        member = tarfile.TarInfo("0009.png")
        member.type, member.linkname = kind, "/etc/passwd"
        shard.addfile(member)
    assert "no plain file: got '0009.png'" in error(tmp_path)


def test_a_shard_that_ends_early_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", samples())
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: 512 * 9])
    assert f"broken or compressed shard: {tmp_path / 'a.tar'}" in error(tmp_path)


def test_a_picture_without_a_label_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", [*samples(), ("0009.jpg", b"x")])
    assert "1 pictures of" in error(tmp_path) and "'0009'" in error(tmp_path)


def test_two_pictures_of_one_key_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [*samples(), ("0001.mask.png", b"x")])
    assert "two pictures of one key: got '0001.png' and '0001.mask.png'" in error(tmp_path)


def test_other_members_and_hidden_ones_are_passed_over(tmp_path):
    more = [("0000.txt", b"a cat"), ("._0000.png", b"x"), ("notes.png.bak", b"x")]
    write_tar(tmp_path / "a.tar", [*more, *samples()])
    assert len(listed(tmp_path).train) == 2


def test_shards_of_a_part_beside_others_are_refused(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples())
    write_tar(tmp_path / "more-0.tar", samples())
    assert "some shards" in error(tmp_path)


def test_a_shard_that_changed_has_other_stamps(tmp_path):
    write_tar(tmp_path / "a.tar", samples())
    before = {entry.stamp for entry in listed(tmp_path).train.entries}
    assert len(before) == 2
    write_tar(tmp_path / "a.tar", samples(count=6))
    assert not before & {entry.stamp for entry in listed(tmp_path).train.entries}


def test_a_folder_of_shards_is_found_by_its_path(tmp_path):
    write_tar(tmp_path / "one" / "a.tar", samples())
    write_tar(tmp_path / "two" / "train" / "a.tar", samples())
    for name in ("one", "two", "one/a.tar", "one/{0..1}.tar"):
        assert DATASETS.kind_of(DATASETS.parse(str(tmp_path / name))) == "webdataset"


# Hugging Face


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def of_hub(root, **options):
    return DATASETS.parse({"kind": "hugging_face", "root": str(root), **options}).listing()


def some(count=4, start=0):
    return hugging_face(
        np.stack([image(10 * (start + i)) for i in range(count)]), np.arange(count) % 2
    )


def test_one_saved_split_is_split_by_class(tmp_path):
    some(10).save_to_disk(tmp_path / "saved")
    found = of_hub(tmp_path / "saved")
    assert found.classes == ("class0", "class1")
    assert (len(found.train), len(found.test)) == (8, 2)
    assert DATASETS.kind_of(DATASETS.parse(str(tmp_path / "saved"))) == "hugging_face"


@pytest.mark.parametrize("folder", ["", "data/"])
def test_parquet_files_go_to_parts_by_their_names(tmp_path, folder):
    (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
    for part, start in (("train", 0), ("validation", 4)):
        some(4, start).to_parquet(tmp_path / "set" / f"{folder}{part}-00000-of-00001.parquet")
    found = of_hub(tmp_path / "set")
    assert values(found.train) == [0, 20, 10, 30] and values(found.test) == [40, 60, 50, 70]
    assert found.classes == ("class0", "class1")
    assert DATASETS.kind_of(DATASETS.parse(str(tmp_path / "set"))) == "hugging_face"


def test_one_parquet_file_is_split_by_class(tmp_path):
    some(10).to_parquet(tmp_path / "a.parquet")
    found = DATASETS.parse(str(tmp_path / "a.parquet")).listing()
    assert (len(found.train), len(found.test)) == (8, 2)


def test_a_test_split_without_labels_is_passed_over_for_another(tmp_path):
    import datasets

    unlabelled = some().remove_columns("label").add_column("label", [-1] * 4)
    unlabelled = unlabelled.cast_column("label", datasets.ClassLabel(names=["class0", "class1"]))
    sets = {"train": some(), "test": unlabelled, "validation": some(4, 4)}
    datasets.DatasetDict(sets).save_to_disk(tmp_path / "saved")
    found = of_hub(tmp_path / "saved")
    assert values(found.test) == [40, 60, 50, 70]
    assert any("'test' is passed over: it has no labels" in note for note in found.notes)


def test_columns_of_a_data_set_are_said_by_hand(tmp_path):
    two = some().add_column("fine", [3, 5, 3, 5])
    two.save_to_disk(tmp_path / "saved")
    assert of_hub(tmp_path / "saved", label_column="fine").classes == ("3", "5")
    with pytest.raises(DataError, match=r"no column 'fin': got 'img', 'label', 'fine'"):
        of_hub(tmp_path / "saved", label_column="fin")


def test_columns_that_are_missing_are_named(tmp_path):
    some().remove_columns("img").save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"no column of images: got 'label'.*data\.image_column"):
        of_hub(tmp_path / "saved")


def test_labels_of_text_are_the_names_of_classes(tmp_path):
    text = some().remove_columns("label").add_column("label", ["dog", "cat", "dog", "cat"])
    text.save_to_disk(tmp_path / "saved")
    assert of_hub(tmp_path / "saved").classes == ("cat", "dog")


def test_a_broken_data_set_is_named(tmp_path):
    some().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read the data set .*saved"):
        of_hub(tmp_path / "saved")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cannot read the data set .*a\.parquet"):
        of_hub(tmp_path / "a.parquet")


def test_a_hub_out_of_reach_says_what_to_fetch(monkeypatch):
    import datasets

    asked = {}

    def refuse(name, **options):
        asked[name] = options
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"ConnectionError: no network.*Parquet files of uoft/cif"):
        of_hub("uoft/cifar10")
    assert not asked["uoft/cifar10"].get("trust_remote_code")


def test_a_missing_library_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'hpd\[hugging-face\]'"):
        of_hub(tmp_path)


def test_a_broken_parquet_file_is_said_once_and_without_bars(tmp_path, capfd):
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError):
        of_hub(tmp_path)
    assert capfd.readouterr() == ("", "")
