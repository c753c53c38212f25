"""Files of strangers are data: nothing in them runs, and their claims take no memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import foreign_sets as fs
import numpy as np
import pytest
import torch
from PIL import Image

from hpd.audits import AuditFolder, is_audit
from hpd.audits.layouts import read_stored
from hpd.audits.stored import Wanted
from hpd.errors import DataError, HpdError, RunError

SHAPE, CLASSES = (1, 8, 8), ("a", "b")
IMAGES, LABELS = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
HUGE = 2**40


class Runs:
    """An object that leaves a trace as soon as its pickle is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


class Evaluates(Runs):
    def __reduce__(self):
        return eval, (f"open({str(self.trace)!r}, 'w').close()",)


class Imports(Runs):
    """A class by a name that only an import would make."""

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


TRAPS = {"system": Runs, "eval": Evaluates, "method": Imports}


def read(path, **more):
    return read_stored(path, Wanted(SHAPE, CLASSES, **more))


def saved(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def mtt(folder, trap, where):
    parts = {"images": IMAGES, "labels": LABELS, "lr": torch.tensor(0.1)}
    for name in parts:
        saved(folder / f"{name}_best.pt", trap if name == where else parts[name])
    return folder


def res(folder, trap, where):
    parts = [trap if where == "images" else IMAGES, trap if where == "labels" else LABELS]
    beside = trap if where == "beside" else {"ConvNet": [0.5]}
    saved(folder / "res_DM.pt", {"data": [parts], "accs_all_exps": beside})
    return folder


def idc(folder, trap, where):
    saved(folder / "data_best.pt", [trap if where == "images" else IMAGES,
                                    trap if where == "labels" else LABELS])  # fmt: skip
    return folder


def pair(folder, trap, where):
    saved(folder / "images.pt", trap if where == "images" else IMAGES)
    saved(folder / "labels.pt", trap if where == "labels" else LABELS)
    return folder


def batches(folder, trap, where):
    fs.write_pictures(folder, IMAGES, LABELS, lambda label: CLASSES[label])
    logits = torch.zeros(4, 2)
    crops = torch.rand(4, 4, generator=torch.Generator())
    share, answers = (trap if where == part else own for part, own in
                      (("share", None), ("labels", logits)))  # fmt: skip
    content = [crops, torch.zeros(4).bool(), None, share, None, answers]
    saved(folder / "fkd" / "epoch_0" / "batch_0.tar", content)
    return folder


PLACES = [
    (mtt, "images"), (mtt, "labels"), (mtt, "lr"), (res, "images"), (res, "labels"),
    (res, "beside"), (idc, "images"), (idc, "labels"), (pair, "images"), (pair, "labels"),
    (batches, "share"), (batches, "labels"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "where"), PLACES, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("kind", list(TRAPS))
def test_nothing_in_a_torch_file_runs(write, where, kind, tmp_path):
    trace = tmp_path / "sprung"
    path = write(tmp_path / "set", TRAPS[kind](trace), where)
    needed = where in ("images", "labels") or kind != "method"
    # a name that nobody knows as hostile stays a note, and is an error where data are needed
    with pytest.raises(HpdError) if needed else nullcontext():
        read(path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", list(TRAPS))
def test_the_traps_are_real(kind, tmp_path):
    """Python's own reader springs them."""
    trace = tmp_path / "sprung"
    pickle.loads(pickle.dumps(TRAPS[kind](trace)))
    assert trace.exists()


def test_an_honest_file_of_each_kind_is_read(tmp_path):
    for write in (mtt, res, idc, pair, batches):
        assert len(read(write(tmp_path / write.__name__, None, "nowhere"))) == 4


@pytest.mark.parametrize("name", ["images", "labels", "k"])
def test_objects_in_arrays_are_refused(name, tmp_path):
    """NumPy keeps them as a pickle inside of the array."""
    trace, path = tmp_path / "sprung", tmp_path / "best.npz"
    arrays = {"images": IMAGES.numpy(), "labels": LABELS.numpy(), "k": 1.0, "jit": 0.1}
    arrays[name] = np.array([Runs(trace)], dtype=object)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=f"array '{name}'.*Objects are refused"):
        read(path)
    assert not trace.exists()


def npz_with(path, header, data=b"", name="images.npy", size=None):
    """An npz whose array has any header and any size in the list of files."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    content = buffer.getvalue() + data
    labels = io.BytesIO()
    np.save(labels, LABELS.numpy())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("labels.npy", labels.getvalue())
    if size is not None:
        raw = bytearray(path.read_bytes())
        place = raw.find(b"PK\x01\x02")
        raw[place + 20 : place + 28] = struct.pack("<II", size, size)
        path.write_bytes(raw)
    return path


HEADER = {"descr": "<f4", "fortran_order": False, "shape": (4, 1, 8, 8)}
CLAIMS = {
    "shape": lambda p: npz_with(p, {**HEADER, "shape": (HUGE, 1, 8, 8)}, b"\0" * 64),
    "item": lambda p: npz_with(p, {**HEADER, "descr": "<f8"}, b"\0" * 1024),
    "negative": lambda p: npz_with(p, {**HEADER, "shape": (-4, 1, 8, 8)}, b"\0" * 1024),
    "listed": lambda p: npz_with(p, {**HEADER, "shape": (2**29,)}, b"\0" * 64, size=2**31),
    "structure": lambda p: npz_with(p, {**HEADER, "descr": [("a", "<f4", (2**20,))]}, b"\0" * 64),
}


@pytest.mark.parametrize("claim", list(CLAIMS))
def test_a_claim_of_an_array_takes_no_memory(claim, tmp_path):
    path = CLAIMS[claim](tmp_path / "best.npz")
    tracemalloc.start()
    try:
        with pytest.raises(HpdError):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_an_array_that_unpacks_to_far_more_than_it_is(tmp_path):
    path = tmp_path / "best.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {**HEADER, "shape": (2**20, 1, 8, 8)})
        for _ in range(2**28 // 2**20 + 1):
            file.write(b"\0" * 2**20)
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="unpacks to far more than it is"):
        read(path)


class Outside:
    """A storage that a pickle names and does not hold."""

    def __init__(self, count):
        self.count = count


class Persistent(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Outside):
            return ("storage", torch.FloatStorage, "0", "cpu", obj.count)
        return None


class Rebuilt:
    def __init__(self, count, size):
        self.count, self.size = count, size

    def __reduce__(self):
        stride = tuple(np.cumprod((1, *self.size[:0:-1]))[::-1].tolist())
        arguments = (Outside(self.count), 0, self.size, stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


def torch_zip(path, content, storage=b"", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    Persistent(buffer, 2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("set/data.pkl", buffer.getvalue(), zipfile.ZIP_STORED)
        archive.writestr("set/data/0", storage)
    return path


@pytest.mark.parametrize("claim", ["storage", "size", "compressed"])
def test_a_claim_of_a_tensor_takes_no_memory(claim, tmp_path):
    path, count = tmp_path / "images_best.pt", 4 * 64
    if claim == "storage":
        torch_zip(path, Rebuilt(HUGE, (HUGE // 64, 1, 8, 8)), b"\0" * 64)
    elif claim == "size":
        torch_zip(path, Rebuilt(count, (2**30, 1, 8, 8)), b"\0" * 4 * count)
    else:
        zeros = b"\0" * 2**26
        torch_zip(path, Rebuilt(2**24, (2**18, 1, 8, 8)), zeros, zipfile.ZIP_DEFLATED)
    saved(tmp_path / "labels_best.pt", LABELS)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="cannot read"):
            read(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_the_zip_of_the_claims_is_read_where_it_is_honest(tmp_path):
    torch_zip(tmp_path / "images_best.pt", Rebuilt(256, (4, 1, 8, 8)), b"\0" * 1024)
    saved(tmp_path / "labels_best.pt", LABELS)
    assert torch.equal(read(tmp_path).values, IMAGES)


def test_a_picture_that_unpacks_to_far_more_than_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a" / "0.png")
    with pytest.raises(HpdError):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", "{}", '{"classes": 3}', '{"classes": ["a"], "storage": {}}', "nonsense"],
)
def test_facts_of_an_export_that_are_none(text, tmp_path):
    (tmp_path / "about.json").write_text(text)
    with pytest.raises(DataError, match=r"about\.json"):
        read(tmp_path)


def test_damaged_files_of_every_kind_end_in_one_line(tmp_path):
    """A byte more, a byte less, a byte changed."""
    rng = np.random.default_rng(0)
    fs.write_npz(tmp_path, IMAGES, LABELS)
    fs.write_safetensors(tmp_path, IMAGES, LABELS)
    mtt(tmp_path, None, "nowhere")
    for name in ("set.npz", "set.safetensors", "images_best.pt"):
        whole = (tmp_path / name).read_bytes()
        for number in range(60):
            content = bytearray(whole)
            place = int(rng.integers(len(whole)))
            content[place] = int(rng.integers(256))
            if number % 3 == 1:
                content = content[:place]
            (tmp_path / name).write_bytes(content)
            try:
                found = read(tmp_path / name)
            except HpdError as error:
                assert "\n" not in str(error)
            else:
                assert len(found) == len(found.labels)
        (tmp_path / name).write_bytes(whole)


def test_an_audit_of_a_newer_version_or_a_broken_one_is_no_result(tmp_path):
    assert not is_audit(tmp_path)
    (tmp_path / "audit.json").write_text(json.dumps({"kind": "hpd audit", "format": 99}))
    assert is_audit(tmp_path)
    with pytest.raises(RunError, match="newer version"):
        AuditFolder(tmp_path).about()
    for text in ("", "[]", '{"kind": "other"}', "[" * 100_000):
        (tmp_path / "audit.json").write_text(text)
        assert not is_audit(tmp_path)
        with pytest.raises(RunError):
            AuditFolder(tmp_path).about()
    with pytest.raises(RunError, match="no audit"):
        AuditFolder(tmp_path).result()
