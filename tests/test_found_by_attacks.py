"""What the tool that attacks the boundaries found, one of each kind."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import small_config

import hpd
from hpd.artifacts import DistilledSet
from hpd.data import Normalisation
from hpd.disk.files import write_tensors
from hpd.disk.locks import held
from hpd.errors import LONGEST, ConfigError, DataError, HpdError, RunError, ShapeError


def refused(kind, call, *words):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert len(message) <= LONGEST
    for word in words:
        assert word in message
    return caught.value


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    config = small_config(folder / "data", "digits16") | {"source": {"kind": "pixel", "steps": 2}}
    return hpd.distill(config, out=folder / "run").folder


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"3", b'{"seconds": null}', b'{"selection_share": []}',
                b'{"a": ' + b"[" * 100_000, b"\xff", b""],
)  # fmt: skip
def test_a_damaged_account_of_costs_is_named_by_the_report(copied, content):
    (copied / "cost.json").write_bytes(content)
    try:
        hpd.report(copied)
    except RunError as error:
        assert "cost.json" in str(error)
        assert len(str(error)) <= LONGEST
    else:
        assert content in (b"null",)


def test_metrics_nested_without_end_are_named_by_the_report(copied):
    (copied / "metrics.jsonl").write_text('{"a":' * 100_000, "utf-8")
    refused(RunError, lambda: hpd.report(copied), "metrics.jsonl", "nested too deep")


@pytest.mark.parametrize("name", ["floats", "bits"])
@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", "[]", "null"])
def test_amounts_that_are_none_are_refused(tmp_path, name, value):
    amount = {"floats": 1, "bits": 32} | {name: json.loads(value)}
    about = {"classes": ["a"], "mean": [0.5], "std": [0.25], "stored_floats": 1,
             "storage": {"images": amount, "labels": amount, "generator": amount}}  # fmt: skip
    path = tmp_path / "set.safetensors"
    tensors = {"images": torch.zeros(1, 1, 4, 4), "labels": torch.zeros(1, dtype=torch.int64)}
    write_tensors(path, tensors, about)
    refused(RunError, lambda: hpd.load_distilled(path), "set.safetensors")


def test_a_member_of_a_shard_without_a_name_is_passed_over(tmp_path):
    def add(shard, name, content):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        shard.addfile(member, io.BytesIO(content))

    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}-000000.tar", "w") as shard:
            add(shard, "", b"x")
            add(shard, "a/", b"x")
            for i in range(4):
                add(shard, f"{i}.png", picture.getvalue())
                add(shard, f"{i}.cls", b"%d" % (i % 2))
    assert len(hpd.load_dataset(str(tmp_path), channels=1).train) == 4


def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{i}.png")
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "GIF")
    gif = bytearray(content.getvalue())
    # of the screen, and of the one picture on it
    at = gif.index(b",", 13) + 5
    gif[6:10] = gif[at : at + 4] = (12_000).to_bytes(2, "little") * 2
    (tmp_path / "a" / "x.gif").write_bytes(gif)
    where = str(tmp_path)
    refused(DataError, lambda: hpd.load_dataset(where, resolution=8), "x.gif", "far more")


@pytest.fixture
def arrays(tmp_path):
    """Writes an npz whose member `train_labels` is of these bytes."""

    def write(labels=None, **others):
        path = tmp_path / "data.npz"
        given = {"train_images": np.zeros((4, 8, 8), np.uint8)} | others
        if labels is None:
            given["train_labels"] = np.array([0, 0, 1, 1])
        np.savez(path, **given)
        if labels is not None:
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
                file.writestr("train_labels.npy", labels)
        return path

    return write


@pytest.mark.parametrize(
    "labels", [b"\x93NUMPY\x01\x00\x14\x00{'descr': ('''a    ", b"\x93NUMPY\x01\x00", b"x" * 99,
               b"\x93NUMPY\x01\x00\x40\x00{'descr': '<i8', 'fortran_order': False, "
               b"'shape': (10**15,), }" + b" " * 9, b""],
)  # fmt: skip
def test_arrays_with_a_damaged_header_are_named(arrays, labels):
    path = arrays(labels)
    refused(DataError, lambda: hpd.load_dataset(str(path)), "data.npz")


def test_arrays_that_unpack_without_end_are_not_unpacked(arrays):
    path = arrays(bytes(2**28 + 1))
    assert path.stat().st_size < 2**20
    refused(DataError, lambda: hpd.load_dataset(str(path)), "data.npz", "far more")


def test_names_of_characters_that_there_are_not_are_refused(arrays):
    names = np.frombuffer(b"\xff" * 8, "<U1")
    path = arrays(classes=names)
    refused(DataError, lambda: hpd.load_dataset(str(path)), "classes")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\0\0\x08\x09" + bytes(40), b"\0\0\x08\x03" + b"\xff" * 12, b"x" * 99]
)
def test_damaged_idx_files_are_named(tmp_path, content):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
    refused(DataError, lambda: hpd.load_dataset("mnist", root=str(tmp_path)), "MNIST")


@pytest.mark.parametrize("path", ["x/" * 2000, "x" * 5000, "\ud800", "//", "a\0b"])
@pytest.mark.parametrize("name", ["export", "compare", "inspect_dataset", "report"])
def test_places_that_cannot_be_are_refused(run, path, name):
    calls = {
        "export": lambda: hpd.export(run, "npz", path),
        "compare": lambda: hpd.compare([run], out=path),
        "inspect_dataset": lambda: hpd.inspect_dataset(str(run.parent / "data"), grid=path),
        "report": lambda: hpd.report(run, None, out=path),
    }
    refused(HpdError, calls[name])


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    refused(HpdError, lambda: hpd.compare([tmp_path / "loop"]), "loop")


def test_observers_that_hear_nothing_are_refused():
    refused(ConfigError, lambda: hpd.distill("digits", observers=[None]), "observers")


@pytest.mark.parametrize("protocol", ["{kind: a}", "[]", "3", "null"])
def test_protocols_that_are_no_names_are_refused(protocol):
    option = f"evaluation.protocol={protocol}"
    refused(ConfigError, lambda: hpd.load_config("digits", [option]), "protocol")


@pytest.mark.parametrize(
    "where", [[9**6000], {"a": 9**6000}, 9**6000], ids=["list", "mapping", "number"]
)
def test_numbers_of_thousands_of_digits_are_not_shown(where):
    refused(ConfigError, lambda: hpd.load_config({"base": "digits", "data": where}))
    refused(ConfigError, lambda: hpd.load_config({"base": "digits", "seed": where}))


@pytest.mark.parametrize("value", [torch.zeros(2), np.zeros(2), None, 1])
def test_whether_a_set_is_optimised_is_yes_or_no(value):
    normalisation = Normalisation((0.5,), (0.25,))
    one = (torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), ("a",), normalisation, 1)
    refused(ShapeError, lambda: DistilledSet(*one, optimised=value), "optimised")


@pytest.mark.parametrize("classes", [np.array("a"), torch.tensor(3), 3, "a", b"a", {"a": 1}])
def test_names_of_classes_are_a_list(classes):
    normalisation = Normalisation((0.5,), (0.25,))
    one = (torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64))
    refused(ShapeError, lambda: DistilledSet(*one, classes, normalisation, 1), "classes")


def test_amounts_that_no_tensor_could_have_are_refused():
    generator, image = hpd.load_generator("digits16"), torch.zeros(1, 1, 16, 16)
    label = torch.tensor([1])
    refused(
        ConfigError,
        lambda: hpd.project(generator, image, label, distance="squared", steps=2**63),
        "steps",
    )


def test_a_pickle_of_cifar_is_not_opened_if_it_is_another(tmp_path):
    """It could run code: torchvision compares checksums first."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    trap = b"cos\nsystem\n(S'touch was-run'\ntR."
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(trap)
    refused(DataError, lambda: hpd.load_dataset("cifar10", root=str(tmp_path)), "CIFAR10")


@pytest.mark.parametrize("seed", ["x", "[]", "null", "1.5"])
def test_a_seed_that_is_none_is_named_by_compare(copied, seed):
    hpd.evaluate(copied)
    path = copied / "config.yaml"
    text = path.read_text("utf-8")
    path.write_text(text.replace("seed: 0", f"seed: {seed}"), "utf-8")
    refused(HpdError, lambda: hpd.compare([copied]), "config.yaml")


def test_what_a_killed_evaluation_left_goes_with_the_next(copied):
    left = copied / ".evaluation.partial.json.0123abcd.part"
    left.write_text("{", "utf-8")
    hpd.evaluate(copied)
    assert not left.exists()


def test_two_evaluations_of_one_run_do_not_meet(copied):
    with held(copied, "evaluate"):
        refused(RunError, lambda: hpd.evaluate(copied), "another process works in it")


@pytest.mark.parametrize("kind", ["x" * 5000, "a\0b", "\ud800", "~nobody/x", "x/" * 3000])
def test_a_kind_of_data_that_no_path_can_be_is_unknown(kind):
    refused(ConfigError, lambda: hpd.load_config({"base": "digits", "data": kind}))
    refused(ConfigError, lambda: hpd.load_config({"base": "digits", "data": {"kind": kind}}))


@pytest.mark.parametrize("images", [2**63, [2**63], [[2**64]], np.uint64(2**63)], ids=str)
def test_whole_numbers_that_no_tensor_holds_are_refused(images):
    normalisation = Normalisation((0.5,), (0.25,))
    labels = torch.zeros(1, dtype=torch.int64)
    refused(ShapeError, lambda: DistilledSet(images, labels, ("a",), normalisation, 1), "images")


@pytest.mark.parametrize("floats", [9**6000, [9**6000]], ids=["number", "list"])
def test_amounts_of_thousands_of_digits_are_not_shown(floats):
    normalisation = Normalisation((0.5,), (0.25,))
    one = (torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), ("a",), normalisation)
    refused(ShapeError, lambda: DistilledSet(*one, floats), "stored_floats")
