"""What a student comes to on the whole training set: the mark beside every table.

    python tools/whole_sets.py --data FOLDER --out hpd/evaluation/whole_sets.json

FOLDER holds CIFAR-10 and Fashion-MNIST in torchvision's layout. Each student is written as soon as
it is tested; the same command goes on after the last one. One thread computes, so that a figure
comes out again on any number of cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_rows import Table

from hpd.data import DATASETS, Dataset
from hpd.rng import Streams
from hpd.students import STUDENTS, TrainingSettings, accuracy, train_student

_TRAINING = {"lr": 0.02, "schedule": "cosine", "batch_size": 64, "augment": ["crop", "flip"]}


@dataclass(frozen=True)
class Mark:
    """One student on one whole set.

    Args:
        data: options of the data set, without its folder.
        width: of the ConvNet.
        seed: of weights, order and augmentation.
        epochs: of its training.
    """

    data: Mapping[str, Any]
    width: int
    seed: int
    epochs: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells this student from others in the file."""
        student = STUDENTS.parse({"kind": "convnet", "width": self.width})
        training = TrainingSettings.read({**_TRAINING, "epochs": self.epochs})
        return {
            "data": dict(self.data),
            "student": STUDENTS.dump(student),
            "training": training.model_dump(mode="json"),
            "seed": self.seed,
        }

    def measure(self, dataset: Dataset) -> dict[str, Any]:
        """Train the student, and return what it came to."""
        started, train, test = time.perf_counter(), dataset.train, dataset.test
        streams = Streams(self.seed).fork("whole set")
        settings = STUDENTS.parse(self.key["student"])
        student = settings.build(train.image_shape, train.num_classes, streams.generator("weights"))
        training = TrainingSettings.read(self.key["training"])
        train_student(student, train.seen_on(), train.labels, training, streams)
        return {
            **self.key,
            "train_sha256": train.sha256,
            "test_sha256": test.sha256,
            "accuracy": round(100 * accuracy(student, test.seen_on(), test.labels), 2),
            "seconds": round(time.perf_counter() - started),
            "versions": {name: version(name) for name in ("hpd", "torch")},
        }


def marks() -> Iterator[Mark]:
    """Yield all students: the width of most tables first, then the published one."""
    cifar10, fashion = {"kind": "cifar10"}, {"kind": "fashion_mnist", "pad": 2}
    yield from (Mark(cifar10, 32, 0, 20), Mark(fashion, 32, 0, 10))
    yield from (Mark(cifar10, 128, 0, 12), Mark(fashion, 128, 0, 4))


@tool(__doc__)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the data.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
def main(data: Path, out: Path) -> None:
    """Measure the students that are missing."""
    torch.set_num_threads(1)
    table = Table(out, {"training": _TRAINING})
    for mark in marks():
        if table.has(**mark.key):
            continue
        dataset = DATASETS.parse({**mark.data, "root": str(data)}).build()
        table.add(mark.measure(dataset))
        row = table.rows[-1]
        click.echo(f"{row['data']['kind']}, width {mark.width}, seed {mark.seed}: "
                   f"{row['accuracy']} in {row['seconds']} s")  # fmt: skip


if __name__ == "__main__":
    main()
