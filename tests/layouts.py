"""Small data sets on disk, in the layout of each kind that is read from a folder."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Writer = Callable[[Path, str, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Layout:
    """How a kind of data set lies on disk.

    Args:
        write: puts images [N, C, H, W] and labels of a part, "train" or "test", below a folder.
        shape: [C, H, W] of its images.
        classes: how many it has.
        file: what `root` is below the folder; "" for the folder itself.
    """

    write: Writer
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    file: str = ""

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images that tell channels, rows, columns and places apart, and their labels."""
        labels = np.arange(self.classes).repeat(2 if name == "train" else 1)
        channel, row, column = np.indices(self.shape)
        first = 0 if name == "train" else 100
        values = [
            first + 11 * i + 90 * channel + 3 * row + column + 7 * label
            for i, label in enumerate(labels)
        ]
        return (np.stack(values) % 256).astype(np.uint8), labels


def write_folder(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / part / f"class{label}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)


def write_npz(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    path = root / "data.npz"
    arrays = dict(np.load(path)) if path.exists() else {}
    arrays |= {f"{part}_images": images.transpose(0, 2, 3, 1), f"{part}_labels": labels[:, None]}
    np.savez(path, **arrays)


def write_csv(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    path = root / "list.csv"
    lines = path.read_text() if path.exists() else "file,label,split\n"
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"{part}{i:03}.png"
        Image.fromarray(image.transpose(1, 2, 0)).save(root / name)
        lines += f"{name},class{label},{part}\n"
    path.write_text(lines)


def write_webdataset(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    with tarfile.open(root / f"{part}-000000.tar", "w") as shard:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            for ending, content in (("png", png(image)), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:06}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def write_hugging_face(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    hugging_face(images, labels).save_to_disk(root / part)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def hugging_face(images: np.ndarray, labels: np.ndarray) -> Any:
    """Returns a data set of PNGs [N, C, H, W] and labels, as the library `datasets` has it."""
    import datasets

    names = [f"class{label}" for label in range(max(labels) + 1)]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    rows = [{"bytes": png(image), "path": None} for image in images]
    return datasets.Dataset.from_dict({"img": rows, "label": list(labels)}, features)


def png(image: np.ndarray) -> bytes:
    """Returns the PNG of an image [C, H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def write_mnist(name: str) -> Writer:
    def write(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
        raw = root / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        prefix = raw / ("train" if part == "train" else "t10k")
        grey, classes = images[:, 0], labels.astype(np.uint8)
        Path(f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, *grey.shape) + grey.tobytes()
        )
        Path(f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, len(classes)) + classes.tobytes()
        )

    return write


def write_cifar10(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    names = [f"data_batch_{n}" for n in range(1, 6)] if part == "train" else ["test_batch"]
    folder = root / "cifar-10-batches-py"
    for name, batch in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
        _write_rows(folder / name, images[batch], labels=labels[batch].tolist())
    _write_pickle(folder / "batches.meta", {"label_names": [f"class{c}" for c in range(10)]})


def write_cifar100(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "cifar-100-python"
    _write_rows(folder / part, images, fine_labels=labels.tolist())
    _write_pickle(folder / "meta", {"fine_label_names": [f"class{c}" for c in range(100)]})


def write_svhn(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    # the file has the images last, and says 10 for the digit 0
    values = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    savemat(root / f"{part}_32x32.mat", values)


def _write_rows(path: Path, images: np.ndarray, **labels: list[int]) -> None:
    _write_pickle(path, {"data": images.reshape(len(images), -1), **labels})


def _write_pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


LAYOUTS = {
    "folder": Layout(write_folder, classes=3),
    "npz": Layout(write_npz, classes=3, file="data.npz"),
    "csv": Layout(write_csv, classes=3, file="list.csv"),
    "webdataset": Layout(write_webdataset, classes=3),
    "hugging_face": Layout(write_hugging_face, classes=3),
    "cifar10": Layout(write_cifar10),
    "cifar100": Layout(write_cifar100, classes=100),
    "svhn": Layout(write_svhn),
    "mnist": Layout(write_mnist("MNIST"), shape=(1, 28, 28)),
    "fashion_mnist": Layout(write_mnist("FashionMNIST"), shape=(1, 28, 28)),
}
"""By kind; a kind that brings its own data, without `root`, needs none."""
