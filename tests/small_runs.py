"""A run that takes a fraction of a second, with levels, selection and an objective with memory."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import SMALL_STUDENT, random_images
from PIL import Image

from hpd.artifacts.checkpoints import CheckpointFolder
from hpd.engine.keeper import to_checkpoint, to_snapshot
from hpd.engine.snapshot import KeepsNothing
from hpd.machine.device import Processes

STEPS = 8
# whose whole training sets nobody trains on
SMALL_EVALUATION = {
    "students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2}, "full_training": None,
}  # fmt: skip


def small_config(root: Path, generator: str, **changes) -> dict:
    """Return a config on images below `root`, which are written if they are not there."""
    if not (root / "train").is_dir():
        write_images(root)
    config = {
        "data": {"kind": "folder", "root": str(root), "channels": 1},
        "device": "cpu",
        "source": {
            "kind": "gan", "generator": generator, "levels": [0, 2], "steps": STEPS // 2,
            "average_draws": 2,
        },
        "objective": {
            "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
            "network": {"steps": 3, "epochs": 1, "momentum": 0.9},
        },
        "selection": {"kind": "loss", "every": 2},
        "evaluation": SMALL_EVALUATION,
        "checkpoint_every": 3,
    }  # fmt: skip
    return config | changes


def write_images(root: Path) -> None:
    """Write twelve images of each of three classes, two of them to test."""
    images = random_images()
    for i, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        part = "test" if i % 12 < 2 else "train"
        folder = root / part / images.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{i:02d}.png")


class Hears:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.steps, self.stages = [], []

    def on_step(self, report):
        self.steps.append(report)

    def on_stage(self, report):
        self.stages.append(report)


class EndsAfter:
    """An observer that ends a run at a step, without a checkpoint."""

    def __init__(self, steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self.error = steps, error

    def on_step(self, report):
        self.left -= 1
        if not self.left:
            raise self.error

    def on_stage(self, report):
        pass


class KeepsSnapshots(KeepsNothing):
    """Keeps every snapshot as it comes back from files, of which each process writes its own."""

    def __init__(self, path: Path, processes: Processes | None = None) -> None:
        self.processes = processes or Processes()
        self.folder, self.snapshots = CheckpointFolder(path), []

    def after_step(self, steps, take, agreed):
        self._keep(take())

    def after_stage(self, take):
        self._keep(take())

    def _keep(self, snapshot):
        processes, checkpoint = self.processes, to_checkpoint(snapshot, {})
        digest = self.folder.write_part(checkpoint, processes.rank, processes.count)
        digests = processes.objects(digest)
        if processes.is_first:
            self.folder.write_index(checkpoint, digests)
        self.snapshots.append(processes.first(lambda: to_snapshot(self.folder.newest().loaded())))


def interrupt_at(call: int, monkeypatch, module) -> list:
    """Make a module's `train_epoch` be interrupted at one call, and return the list of calls."""
    calls, train_epoch = [], module.train_epoch

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(module, "train_epoch", interrupted)
    return calls


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def check_refused(result, message: str) -> None:
    """Check that a command said in one line why it did nothing, and ended with 2."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def metrics(folder: Path) -> list[dict]:
    """Return the metrics of a run without what differs from time to time."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if "seconds" not in key}
        for line in lines
    ]
