"""Train a class-conditional StyleGAN2 on the training part of a data set.

    python tools/train_generator.py --data digits --out runs/digits16 --images 200000

The run can be killed at any time: the same command goes on from the last checkpoint and ends in
the same bytes. Ctrl-C and SIGTERM write one first. The test part of the data is never looked at.

Several processes share each batch, and train what one process would up to rounding:

    accelerate launch --multi_gpu tools/train_generator.py --device auto ...
    torchrun --standalone --nproc_per_node 2 tools/train_generator.py ...   # on a CPU

The weights depend on the number of threads, because sums are taken in another order. Where other
programs use the same cores, OMP_WAIT_POLICY=PASSIVE in the environment keeps the threads from
waiting for each other at full load, and changes no bit.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import click
import torch
from commands import tool
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from generators import save_generator
from generators.training import Trainer, TrainingSettings, sample_grid
from hpd.artifacts.pictures import png_bytes
from hpd.checks import check_finite
from hpd.data import DATASETS, ImageSet
from hpd.device import Processes, open_device
from hpd.errors import RunError
from hpd.files import read_about, write_bytes, write_tensors
from hpd.interrupts import Interrupted, Interrupts, exit_code
from hpd.yaml_text import parse_yaml

_METRICS = "metrics.jsonl"
_STATES = "state-*.safetensors"
_KEPT_STATES = 2
_PLACES = frozenset({"root", "download"})


class RunFolder:
    """The state of a training on disk: one file, written whole, with the step in its name.

    The last two are kept. A run goes on from the newest that can be read.

    Args:
        folder: where; made if it is not there.
        settings: options of the run.
        writes: whether this process writes; of several, one does and all read.

    Raises:
        RunError: if the folder holds the state of a run with other options.
    """

    def __init__(self, folder: Path, settings: TrainingSettings, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.options = settings.model_dump(mode="json")
        folder.mkdir(parents=True, exist_ok=True)
        self.held: tuple[Path, dict[str, Any]] | None = self._newest()
        if self.held is not None:
            # an option that is newer than the run had its default
            theirs = TrainingSettings.read(self.held[1]["settings"]).model_dump(mode="json")
            keys = sorted(theirs.keys() | self.options.keys())
            differing = [k for k in keys if theirs.get(k) != self.options.get(k)]
            if differing:
                raise RunError(
                    f"{folder} holds a run with other options",
                    got=", ".join(f"{k}={self.options.get(k)!r}" for k in differing),
                    expected=", ".join(f"{k}={theirs.get(k)!r}" for k in differing),
                    fix="Give the same options, or another folder.",
                )

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for path in sorted(self.folder.glob(_STATES), reverse=True):
            try:
                with safe_open(path, "pt") as file:
                    return path, read_about(file.metadata())
            except (OSError, SafetensorError, KeyError) as error:
                reason = str(error).splitlines()[0]
                click.echo(f"{path} cannot be read and is left out ({reason}).", err=True)
        return None

    def restore(self, trainer: Trainer) -> float:
        """Load the state, if there is one, and return the seconds spent so far."""
        if self.held is None:
            if self.writes:
                (self.folder / _METRICS).unlink(missing_ok=True)
            return 0.0
        path, about = self.held
        trainer.load(load_file(path), about["steps"])
        if self.writes:
            self._tidy(path)
            # what was logged after the checkpoint will be logged again
            log = self.folder / _METRICS
            lines = log.read_text().splitlines() if log.is_file() else []
            kept = [line for line in lines if _images_in(line) <= trainer.images_seen]
            write_bytes(log, "".join(f"{line}\n" for line in kept).encode())
        return float(about["seconds"])

    def save(self, trainer: Trainer, seconds: float) -> None:
        """Write a picture of samples and the state; keep the state before it, drop others."""
        if not self.writes:
            return
        picture = sample_grid(trainer.average, trainer.streams)
        write_bytes(self.folder / f"samples-{trainer.images_seen:09d}.png", png_bytes(picture))
        path = self.folder / f"state-{trainer.steps:08d}.safetensors"
        about = {
            "settings": self.options,
            "steps": trainer.steps,
            "images": trainer.images_seen,
            "seconds": round(seconds, 1),
        }
        write_tensors(path, trainer.tensors(), about)
        self._tidy(path)

    def _tidy(self, newest: Path) -> None:
        """Drop all states but the newest and the one before it."""
        states = sorted(self.folder.glob(_STATES))
        kept = [p for p in states if p <= newest][-_KEPT_STATES:]
        for other in set(states) - set(kept):
            other.unlink()

    def log(self, line: Mapping[str, float]) -> None:
        """Append one line to the metrics."""
        if self.writes:
            with (self.folder / _METRICS).open("a") as file:
                file.write(json.dumps(line) + "\n")


def _images_in(line: str) -> float:
    """Return the images of a line of the log; infinite where a kill cut the line off."""
    try:
        return float(json.loads(line)["images"])
    except json.JSONDecodeError:
        return math.inf


class Window:
    """Means of the metrics since the last line of the log."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.steps, self.start = 0, time.monotonic()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one step."""
        self.steps += 1
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def flush(self, seconds: float, batch: int) -> dict[str, float]:
        """Return the means and the speed, and start afresh.

        Args:
            seconds: of the run so far.
            batch: images per step.

        Raises:
            NumericError: if a loss is not finite.
        """
        means = {name: sum(v) / len(v) for name, v in self.values.items()}
        check_finite(torch.tensor(list(means.values())), "training loss", "Lower the lr.")
        speed = self.steps * batch / max(time.monotonic() - self.start, 1e-9)
        self._restart()
        means = {name: round(mean, 5) for name, mean in means.items()}
        return means | {"seconds": round(seconds, 1), "images_per_second": round(speed, 2)}


def train(
    trainer: Trainer, run: RunFolder, images: int, *, log_images: int, save_images: int
) -> float:
    """Train until `images` real images are seen, and return the seconds it took in all.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the state written.
    """
    before, start, window = run.restore(trainer), time.monotonic(), Window()
    batch = trainer.settings.batch
    log_steps, save_steps = max(1, log_images // batch), max(1, save_images // batch)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        Interrupts() as interrupts,
        interrupts.deferred(),
        Progress(
            *columns, TextColumn("left"), TimeRemainingColumn(), disable=not run.writes
        ) as progress,
    ):
        task = progress.add_task("images", total=images, completed=trainer.images_seen)
        while trainer.images_seen < images:
            window.add(trainer.step())
            seen, seconds = trainer.images_seen, before + time.monotonic() - start
            progress.update(task, completed=seen, description=f"{seen:,} images")
            stopped = trainer.processes.any(interrupts.number > 0)
            save = stopped or trainer.steps % save_steps == 0 or seen >= images
            if save or trainer.steps % log_steps == 0:
                run.log({"images": seen, **window.flush(seconds, batch)})
            if save:
                run.save(trainer, seconds)
            if stopped:
                interrupts.check()
                # another process heard it
                raise Interrupted(signal.SIGTERM)
    return before + time.monotonic() - start


def export(
    trainer: Trainer, folder: Path, licence: str, *, part: ImageSet, seconds: float, half: bool
) -> None:
    """Write the averaged generator with where it comes from, in float16 if `half`."""
    training = trainer.settings.model_dump(mode="json")
    # where the data lay is of no use to others
    training["data"] = {k: v for k, v in training["data"].items() if k not in _PLACES}
    provenance = {
        "training": training,
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
        dtype=torch.float16 if half else torch.float32,
    )


def _setting(name: str) -> Any:
    """Return the command-line option for one field of the settings, with its default."""
    field = TrainingSettings.model_fields[name]
    flag, kind = f"--{name.replace('_', '-')}", field.annotation
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    choices = get_args(kind)
    return click.option(
        flag,
        name,
        # either the words of a Literal, or a type and None
        type=click.Choice(choices) if "float32" in choices else choices[0] if choices else kind,
        default=field.default,
        show_default=True,
        help=field.description or "",
    )


def _settings(command: Any) -> Any:
    """Add an option for every setting but the data."""
    for name in reversed([n for n in TrainingSettings.model_fields if n != "data"]):
        command = _setting(name)(command)
    return command


@tool()
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
@click.option("--device", default="cpu", show_default=True, help="auto, or one of torch's")
@click.option("--half/--no-half", default=False, show_default=True, help="export in float16")
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
    device: str,
    half: bool,
    **options: Any,
) -> None:
    """Train a class-conditional StyleGAN2 and export its averaged weights."""
    if threads:
        torch.set_num_threads(threads)
    processes = Processes.started(cpu=device == "cpu")
    try:
        kind = DATASETS.parse(parse_yaml(data, "--data"))
        settings = TrainingSettings.read({"data": DATASETS.dump(kind), **options})
        where = open_device(device)
        run = RunFolder(out, settings, writes=processes.rank == 0)
        part = kind.build().train
        trainer = Trainer(settings, part, device=where, processes=processes)
        seconds = train(trainer, run, images, log_images=log_images, save_images=save_images)
        if run.writes:
            export(
                trainer, target or out / "generator", licence, part=part, seconds=seconds, half=half
            )
    except KeyboardInterrupt as interrupt:
        if processes.rank == 0:
            click.echo("Stopped; the same command goes on from the last state.", err=True)
        sys.exit(exit_code(interrupt))
    finally:
        processes.end()


if __name__ == "__main__":
    main()
