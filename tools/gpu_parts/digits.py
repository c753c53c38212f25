"""The digits distilled on both devices, in a short run, and what students learn of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import hpd
from gpu_parts.part import Place, Row, guarded, judged
from hpd.config import load_config
from hpd.machine.allocator import keep_freed_memory
from hpd.machine.device import open_device
from hpd.rng import Streams
from hpd.students import STUDENTS, Lesson, TrainingSettings, train_students
from hpd.students.training import accuracy

_AUGMENT = ["color", "crop", "cutout", "scale", "rotate"]


@dataclass(frozen=True)
class Size:
    """How long everything takes.

    Args:
        levels: of the generator.
        steps: on all levels.
        epochs: of students.
        width: of networks.
        seeds: of runs on each device.
        students: of each run.
    """

    levels: tuple[int, ...] = (0, 2)
    steps: int = 30
    epochs: int = 200
    width: int = 32
    seeds: int = 3
    students: int = 2


TINY = Size(levels=(0,), steps=1, epochs=1, width=4, seeds=2, students=1)


def digits(place: Place) -> Iterator[Row]:
    """Distil with several seeds on the CPU and on the device, and compare accuracies."""
    keep_freed_memory()
    size = TINY if place.tiny else Size()
    scores: dict[str, list[float]] = {}
    for device in dict.fromkeys((place.device, "cpu")):
        scores[device] = []
        for seed in range(size.seeds):

            def look(device: str = device, seed: int = seed) -> Row:
                figures = taught(device, seed, size)
                scores[device].append(figures["accuracy"])
                says = (
                    f"{figures['accuracy']:.1f} % ({figures['distil_seconds']:.1f} s to distil, "
                    f"{figures['teach_seconds']:.1f} s to teach {size.students} students)"
                )
                return Row(f"{device}, seed {seed}", "told", says, figures)

            yield from guarded(f"{device}, seed {seed}", look)
    yield from _compared(place.device, scores)


def _compared(device: str, scores: dict[str, list[float]]) -> Iterator[Row]:
    if min(len(own) for own in scores.values()) < 2:
        return
    spread = statistics.stdev(scores["cpu"])
    means = {name: statistics.fmean(own) for name, own in scores.items()}
    says = ", ".join(f"{name} {mean:.1f} %" for name, mean in means.items())
    says += f", standard deviation of the CPU over seeds {spread:.1f}"
    figures: dict[str, Any] = {"means": means, "spread": spread}
    if device == "cpu":
        yield Row("accuracy", "told", says, figures)
        return
    gap = abs(means[device] - means["cpu"])
    most = max(2.0, 3 * spread)
    says += f"; they differ by {gap:.1f}, at most {most:.1f}"
    yield Row("accuracy", judged(gap <= most), says, figures | {"gap": gap, "most": most})


def taught(device: str, seed: int, size: Size) -> dict[str, float]:
    """Distil, teach students, and return their mean accuracy in percent, and seconds."""
    overrides = [
        f"device={device}", f"seed={seed}", "selection=last", f"source.steps={size.steps}",
        f"source.levels={list(size.levels)}", f"objective.student.width={size.width}",
    ]  # fmt: skip
    config = load_config("digits", overrides)
    started = time.perf_counter()
    run = hpd.distill(config)
    distilled = time.perf_counter()
    score = _mean_accuracy(run.distilled, config.data.build().test, open_device(device), size)
    return {
        "accuracy": score, "distil_seconds": distilled - started,
        "teach_seconds": time.perf_counter() - distilled,
    }  # fmt: skip


def _mean_accuracy(distilled: Any, test: Any, device: torch.device, size: Size) -> float:
    settings = STUDENTS.parse({"kind": "convnet", "width": size.width})
    images, labels = distilled.normalised().to(device), distilled.labels.to(device)
    lessons = []
    for number in range(size.students):
        streams = Streams(number)
        shape, classes = tuple(images.shape[1:]), int(labels.max()) + 1
        student = settings.build(shape, classes, streams.generator("weights")).to(device)
        lessons.append(Lesson(student, images, labels, streams))
    train_students(lessons, TrainingSettings.read({"epochs": size.epochs, "augment": _AUGMENT}))
    return _percent(lessons, test, device)


def _percent(lessons: Sequence[Lesson], test: Any, device: torch.device) -> float:
    seen, wanted = test.seen_on(device), test.labels.to(device)
    return 100 * statistics.fmean(accuracy(own.student, seen, wanted) for own in lessons)
