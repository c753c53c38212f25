"""Train a class-conditional StyleGAN2 on the training part of a data set.

    python tools/train_generator.py --data digits --out runs/digits16 --images 200000

The run can be killed at any time: the same command goes on from the last checkpoint and ends in
the same bytes. The test part of the data is never looked at.

The weights depend on the number of threads, because sums are taken in another order. Where other
programs use the same cores, OMP_WAIT_POLICY=PASSIVE in the environment keeps the threads from
waiting for each other at full load, and changes no bit.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file

from generators import save_generator
from generators.training import Trainer, TrainingSettings, sample_grid
from hpd.checks import check_finite
from hpd.data import DATASETS, ImageSet
from hpd.errors import HpdError, RunError
from hpd.files import write_bytes, write_json, write_tensors

_STATE, _METRICS = "state.json", "metrics.jsonl"


class RunFolder:
    """The state of a training on disk.

    The tensors have the step in their name and the JSON that names them is written last, so a
    kill between the two leaves the older pair in force.

    Args:
        folder: where; made if it is not there.
        settings: options of the run.

    Raises:
        RunError: if the folder holds the state of a run with other options.
    """

    def __init__(self, folder: Path, settings: TrainingSettings) -> None:
        self.folder, self.options = folder, settings.model_dump(mode="json")
        folder.mkdir(parents=True, exist_ok=True)
        self.held: dict[str, Any] | None = None
        if (folder / _STATE).is_file():
            self.held = json.loads((folder / _STATE).read_text())
            theirs = self.held["settings"]
            keys = sorted(theirs.keys() | self.options.keys())
            differing = [k for k in keys if theirs.get(k) != self.options.get(k)]
            if differing:
                raise RunError(
                    f"{folder} holds a run with other options",
                    got=", ".join(f"{k}={self.options.get(k)!r}" for k in differing),
                    expected=", ".join(f"{k}={theirs.get(k)!r}" for k in differing),
                    fix="Give the same options, or another folder.",
                )

    def restore(self, trainer: Trainer) -> float:
        """Load the state, if there is one, and return the seconds spent so far."""
        if self.held is None:
            (self.folder / _METRICS).unlink(missing_ok=True)
            return 0.0
        trainer.load(load_file(self.folder / self.held["tensors"]), self.held["steps"])
        # what was logged after the checkpoint will be logged again
        log = self.folder / _METRICS
        lines = log.read_text().splitlines() if log.is_file() else []
        kept = [line for line in lines if json.loads(line)["images"] <= trainer.images_seen]
        write_bytes(log, "".join(f"{line}\n" for line in kept).encode())
        return float(self.held["seconds"])

    def save(self, trainer: Trainer, seconds: float) -> None:
        """Write the state and a picture of samples, then drop the state before it."""
        tensors = f"state-{trainer.steps:08d}.safetensors"
        write_tensors(self.folder / tensors, trainer.tensors())
        state = {
            "settings": self.options,
            "steps": trainer.steps,
            "images": trainer.images_seen,
            "seconds": round(seconds, 1),
            "tensors": tensors,
        }
        write_json(self.folder / _STATE, state)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != tensors:
                old.unlink()
        picture = sample_grid(trainer.average, trainer.streams)
        picture.save(self.folder / f"samples-{trainer.images_seen:09d}.png")

    def log(self, line: Mapping[str, float]) -> None:
        """Append one line to the metrics."""
        with (self.folder / _METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")


class Window:
    """Means of the metrics since the last line of the log."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one step."""
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def flush(self) -> dict[str, float]:
        """Return the means and start afresh.

        Raises:
            NumericError: if a loss is not finite.
        """
        means = {name: sum(v) / len(v) for name, v in self.values.items()}
        check_finite(torch.tensor(list(means.values())), "training loss", "Lower the lr.")
        self.values = {}
        return {name: round(mean, 5) for name, mean in means.items()}


def train(
    trainer: Trainer, run: RunFolder, images: int, *, log_images: int, save_images: int
) -> float:
    """Train until `images` real images are seen, and return the seconds it took in all."""
    before, start, window = run.restore(trainer), time.monotonic(), Window()
    batch = trainer.settings.batch
    log_steps, save_steps = max(1, log_images // batch), max(1, save_images // batch)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress:
        task = progress.add_task("images", total=images, completed=trainer.images_seen)
        while trainer.images_seen < images:
            window.add(trainer.step())
            seen, seconds = trainer.images_seen, before + time.monotonic() - start
            progress.update(task, completed=seen, description=f"{seen:,} images")
            save = trainer.steps % save_steps == 0 or seen >= images
            if save or trainer.steps % log_steps == 0:
                run.log({"images": seen, **window.flush(), "seconds": round(seconds, 1)})
            if save:
                run.save(trainer, seconds)
    return before + time.monotonic() - start


def export(trainer: Trainer, folder: Path, *, licence: str, part: ImageSet, seconds: float) -> None:
    """Write the averaged generator with where it comes from."""
    provenance = {
        "training": trainer.settings.model_dump(mode="json"),
        "data_part": "train",
        "data_images": len(part),
        "images_seen": trainer.images_seen,
        "seconds": round(seconds),
        "versions": {
            "hpd": version("hpd"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    save_generator(
        trainer.average,
        trainer.generator_settings,
        folder,
        licence=licence,
        provenance=provenance,
    )


def _setting(name: str, *, flag: str | None = None) -> Any:
    """Return the command-line option for one field of the settings, with its default."""
    field = TrainingSettings.model_fields[name]
    return click.option(
        flag or f"--{name.replace('_', '-')}",
        name,
        type=field.annotation,
        default=field.default,
        show_default=True,
        help=field.description or "",
    )


def _settings(command: Any) -> Any:
    """Add an option for every setting but the data."""
    for name in reversed([n for n in TrainingSettings.model_fields if n != "data"]):
        command = _setting(name)(command)
    return command


@click.command()
@click.option("--data", default="digits", show_default=True, help="kind, or a YAML mapping")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of the run")
@click.option("--images", type=click.IntRange(1), default=200_000, show_default=True)
@click.option(
    "--export", "target", type=click.Path(path_type=Path), help="[default: OUT/generator]"
)
@click.option("--licence", default="unknown", show_default=True, help="of the weights")
@click.option("--log-images", type=click.IntRange(1), default=1_600, show_default=True)
@click.option("--save-images", type=click.IntRange(1), default=16_000, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="of the CPU [default: all]")
@_settings
def main(
    data: str,
    out: Path,
    images: int,
    target: Path | None,
    licence: str,
    log_images: int,
    save_images: int,
    threads: int | None,
    **options: Any,
) -> None:
    """Train a class-conditional StyleGAN2 and export its averaged weights."""
    if threads:
        torch.set_num_threads(threads)
    try:
        kind = DATASETS.parse(yaml.safe_load(data))
        settings = TrainingSettings.read({"data": DATASETS.dump(kind), **options})
        run = RunFolder(out, settings)
        part = kind.build().train
        trainer = Trainer(settings, part)
        seconds = train(trainer, run, images, log_images=log_images, save_images=save_images)
        export(trainer, target or out / "generator", licence=licence, part=part, seconds=seconds)
    except HpdError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
