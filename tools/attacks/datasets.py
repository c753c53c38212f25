"""Damaged data sets: trees of pictures, arrays, lists, shards, and the files of torchvision."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hpd
from attacks import damage
from attacks.checkpoints import damage_opcodes, hostile_opcodes
from attacks.folders import put
from attacks.target import Input, Target
from attacks.watch import WrongResultError
from hpd.data import Dataset

Files = dict[str, bytes]
_NAMES = (
    "a\nb.png", " .png", ".hidden.png", "é.png", "\udcff.png", "a" * 200 + ".png", "-x.png",
    "x.PNG", "x.png.part", "x", "x.svg", "con.png", "[x].png", "\x1b[31m.png", "%s.png",
    "\u2028.png",
)  # fmt: skip


def pixels(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(kind: str, seed: int) -> bytes:
    """Return a picture of 8 px as a file of a kind of Pillow's."""
    buffer, mode = io.BytesIO(), "P" if kind == "GIF" else "RGB"
    image = Image.fromarray(pixels(seed, 8, 8, 3)).convert(mode)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF" and seed % 2:
        options["compression"] = "tiff_lzw"
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and seed % 3 == 0:
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check_data(dataset: Dataset) -> None:
    """Check that a data set is one: bytes [N, C, H, W], and labels of its classes.

    Raises:
        WrongResultError: where it is not.
    """
    for part in (dataset.train, dataset.test):
        shape = tuple(part.image_shape)
        if len(part) != len(part.labels) or not len(part) or len(shape) != 3:
            raise WrongResultError(f"a part that is none: {len(part)} of {shape}")
        got = part.pixels(torch.arange(min(2, len(part))))
        if got.dtype != torch.uint8 or tuple(got.shape[1:]) != shape:
            raise WrongResultError(f"images of no bytes: {got.dtype} {list(got.shape)}")
        if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(part.classes):
            raise WrongResultError("labels of no class")


class _Data(Target):
    """What all of them share: reading a place, or looking at it."""

    def read(self, where: Path | str, look: bool, options: Mapping[str, Any]) -> str:
        """Give a place to hpd."""
        if look:
            hpd.inspect_dataset(where, **options)
            return "inspected"
        check_data(hpd.load_dataset(where, **options))
        return "loaded"

    def options(self, rng: random.Random) -> dict[str, Any]:
        """Return options of a data set, most of them none."""
        if rng.random() < 0.8:
            return {}
        name = rng.choice(("resolution", "channels", "classes", "root", "crop", "kind", "test"))
        return {name: rng.choice((4, 8, 1, 3, ["a"], ["a", "b"], damage.odd(rng)))}


class Pictures(_Data):
    """Trees of pictures."""

    name = "pictures"
    share = 6.0
    about = (
        "folders with a folder per class: pictures of 8 px as PNG, JPEG, GIF, BMP, TIFF, WebP and "
        "PPM, damaged; odd names, links, pipes, empty files; `load_dataset` and `inspect_dataset`"
    )
    _KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

    def prepare(self) -> None:
        """Make the pictures."""
        self._pictures = {k: [picture(k, seed) for seed in range(6)] for k in self._KINDS}
        self._folder = self.place.inputs / "photos"
        for kind in self._KINDS:
            put(self._folder, self._tree(kind))
            self.read(self._folder, False, {})
            self.read(self._folder, True, {})

    def _tree(self, kind: str) -> Files:
        one, other = self._pictures[kind], self._pictures["PNG"]
        return {f"{c}/{i}.{kind.lower()}": (one if i else other)[i + n]
                for n, c in enumerate("ab") for i in range(2)}  # fmt: skip

    def make(self, rng: random.Random) -> Input:
        """Damage a picture of a tree, or the tree."""
        kind = rng.choice(self._KINDS)
        files = self._tree(kind)
        name = rng.choice(sorted(files))
        content = damage.damage_bytes(files[name], rng, [rng.choice(self._pictures["TIFF"])])
        what, how = f"a damaged {kind}", rng.random()
        if how < 0.85:
            files[name] = content
        elif how < 0.95:
            odd = f"{name[:2]}{rng.choice(_NAMES)}" if rng.random() < 0.7 else rng.choice(_NAMES)
            files[odd] = content if rng.random() < 0.5 else files[name]
            what = f"a file of the name {odd!a}"
        put(self._folder, files)
        if how >= 0.95:
            what = _odd_entry(self._folder, name, rng)
        options, look = self.options(rng), rng.random() < 0.25
        return Input(
            f"{what} in a tree, {options}", lambda: self.read(self._folder, look, options), content
        )


def _odd_entry(folder: Path, name: str, rng: random.Random) -> str:
    """Put something into a tree that is no file."""
    place, kind = folder / rng.choice(("a", "b", "c", "")), rng.randrange(8)
    place.mkdir(exist_ok=True)
    odd = place / rng.choice(("odd.png", "0.png", "z"))
    odd.unlink(missing_ok=True)
    if kind == 0:
        odd.symlink_to(folder)
    elif kind == 1:
        odd.symlink_to(odd)
    elif kind == 2:
        os.mkfifo(odd)
    elif kind == 3:
        odd.mkdir()
    elif kind == 4:
        odd.symlink_to("/proc/self/mem")
    elif kind == 5:
        odd.symlink_to("nowhere")
    elif kind == 6:
        odd.symlink_to(folder / name)
    else:
        odd.write_bytes(b"")
    return f"entry {kind} at {odd.relative_to(folder)}"


class Arrays(_Data):
    """Files of many images."""

    name = "arrays"
    share = 6.0
    about = (
        "`.npz` (members, headers, objects, bombs), `.csv`, `.tar` shards, the idx files of MNIST, "
        "the pickles of CIFAR and the `.mat` of SVHN, damaged; `load_dataset` and `inspect_dataset`"
    )

    def prepare(self) -> None:
        """Make the files."""
        self._seeds = {
            "npz": _npz(), "csv": _csv(), "webdataset": _shards(), "cifar10": _cifar(),
            "mnist": _mnist(), "svhn": _svhn(),
        }  # fmt: skip
        self._kinds = ("npz", "npz", "npz", "csv", "csv", "webdataset", "webdataset", "cifar10",
                       "mnist", "svhn")  # fmt: skip
        self._folder = self.place.inputs / "arrays"
        self._bombs = {"zeros": damage.bomb(3 * 2**29)}
        # torchvision knows the hash of each true file of CIFAR and SVHN, and refuses all others
        for kind in ("npz", "csv", "webdataset", "mnist"):
            self._put(kind, self._seeds[kind])
            self.read(self._where(kind), False, {})
            self.read(self._where(kind), True, {})

    def _where(self, kind: str) -> Any:
        file = {"npz": "data.npz", "csv": "list.csv"}.get(kind)
        if file is not None:
            return self._folder / file
        return self._folder if kind == "webdataset" else {"kind": kind, "root": str(self._folder)}

    def _put(self, kind: str, files: Files) -> None:
        put(self._folder, files)

    def make(self, rng: random.Random) -> Input:
        """Damage a file."""
        kind = rng.choice(self._kinds)
        files = dict(self._seeds[kind])
        name = rng.choice(sorted(files))
        content = self._damaged(kind, files[name], rng)
        self._put(kind, {**files, name: content})
        options, look = self.options(rng), rng.random() < 0.25
        where = self._where(kind)
        return Input(
            f"{name} of {kind}, {options}", lambda: self.read(where, look, options), content
        )

    def _damaged(self, kind: str, content: bytes, rng: random.Random) -> bytes:
        if kind == "npz" and rng.random() < 0.5:
            few = rng.random() < 0.02
            return damage.damage_zip(content, rng, self._bombs if few else _SMALL)
        if kind == "npz":
            return _damage_arrays(content, rng)
        if kind == "csv" and content[:1] != b"\x89" and rng.random() < 0.8:
            said = damage.damage_text(content.decode(), rng, ("../x.png", "/etc/passwd", "train"))
            return said.encode("utf-8", "surrogatepass")
        if kind == "cifar10" and rng.random() < 0.6:
            return damage_opcodes(content, rng)
        return damage.damage_bytes(content, rng, [hostile_opcodes(rng)])


_SMALL = {"small": damage.bomb(2**20)}
_DTYPES = ("u1", "<u2", ">u2", "i1", "<i8", "<f4", "<f8", "?", "<U4", "S3", "<c8", "<M8[s]", "V3")


def _npz() -> Files:
    return {"data.npz": _zipped({
        "train_images": pixels(0, 4, 8, 8), "train_labels": np.array([0, 1, 0, 1]),
        "test_images": pixels(1, 2, 8, 8), "test_labels": np.array([0, 1]),
        "classes": np.array(["a", "b"]),
    })}  # fmt: skip


def _zipped(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return what NumPy writes, but for the time at which it does."""
    members = []
    for name, value in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, value, allow_pickle=True)
        members.append((f"{name}.npy", buffer.getvalue()))
    return damage.write_zip(members)


def _damage_arrays(content: bytes, rng: random.Random) -> bytes:
    """Replace an array of a file by one of another type or shape, or of odd values."""
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    name, kind = rng.choice(sorted(arrays)), rng.randrange(6)
    value = arrays[name]
    with np.errstate(all="ignore"):
        if kind == 0:
            dtype = rng.choice(_DTYPES)
            arrays[name] = np.zeros(value.shape, dtype) if dtype == "V3" else _cast(value, dtype)
        elif kind == 1:
            shape = rng.choice(((0,), (), (1,), (*value.shape[:1], 1, *value.shape[1:]),
                                value.shape[::-1], (*value.shape, 0), (3, 0, 8, 8)))  # fmt: skip
            arrays[name] = np.resize(value, shape)
        elif kind == 2:
            arrays[name] = value[: rng.randrange(len(value) + 1)]
        elif kind == 3 and value.dtype.kind != "U":
            dtype, number = rng.choice(("<f4", "<f8", "<i8")), rng.choice((-1, 2, 300, 2**31, 1e30))
            odd = value.astype(dtype)
            odd[(0,) * odd.ndim] = min(number, 2**62)
            arrays[name] = odd
        elif kind == 4:
            arrays[name] = np.array([{"a": 1}] * len(value), dtype=object)
        else:
            arrays[
                rng.choice((damage.text(rng)[:50].replace("\0", ""), "x_train", "labels", "x"))
            ] = arrays.pop(name)
    return _zipped(arrays)


def _cast(value: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    try:
        return value.astype(dtype)
    # names are no numbers
    except (ValueError, TypeError):
        return np.zeros(value.shape, dtype)


def _csv() -> Files:
    files, lines = Files(), ["file,label,split"]
    for i in range(6):
        files[f"{i}.png"] = picture("PNG", i)
        lines.append(f"{i}.png,{'ab'[i % 2]},{'train' if i < 4 else 'test'}")
    return {**files, "list.csv": ("\n".join(lines) + "\n").encode()}


def _shards() -> Files:
    files = Files()
    for part, count in (("train", 4), ("test", 2)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as shard:
            for i in range(count):
                for ending, content in (("png", picture("PNG", i)), ("cls", b"%d" % (i % 2))):
                    member = tarfile.TarInfo(f"{i:06}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        files[f"{part}-000000.tar"] = buffer.getvalue()
    return files


def _cifar() -> Files:
    folder, files = "cifar-10-batches-py", Files()
    for n, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        rows = {"data": pixels(n, 2, 3072), "labels": [2 * n % 10, (2 * n + 1) % 10]}
        files[f"{folder}/{name}"] = pickle.dumps(rows)
    meta = {"label_names": [f"class{c}" for c in range(10)]}
    return {**files, f"{folder}/batches.meta": pickle.dumps(meta)}


def _mnist() -> Files:
    files = Files()
    for prefix in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, 10, 28, 28) + pixels(2, 10, 28, 28).tobytes()
        files[f"MNIST/raw/{prefix}-images-idx3-ubyte"] = images
        labels = struct.pack(">II", 2049, 10) + bytes(range(10))
        files[f"MNIST/raw/{prefix}-labels-idx1-ubyte"] = labels
    return files


def _svhn() -> Files:
    from scipy.io import savemat

    files = Files()
    for part in ("train", "test"):
        buffer = io.BytesIO()
        values = {"X": pixels(3, 32, 32, 3, 10), "y": np.arange(1, 11)[:, None]}
        savemat(buffer, values)
        # without the time at which it was written
        files[f"{part}_32x32.mat"] = b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]
    return files


DATA = (Pictures, Arrays)
