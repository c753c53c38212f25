"""Measure recovery without and with adjustment of its teacher: one table, made row by row.

    python tools/measure_recovery.py cifar10-dwa data.root=FOLDER objective.teacher=FILE \
        --beside cifar10-sre2l --labels stored --labels online \
        --size 1:120 --size 10:40 --out recovery.json --markdown recovery.md

CONFIG names a run of the objective `recovery`. For each size, images a class and steps, every
source is distilled with adjustment none, random and directed. `--beside` names another such run,
with the same overrides, whose pixels are distilled as it says: `cifar10-sre2l` also starts from
noise and weighs the statistics otherwise, which the adjustment none alone does not.

Students learn from what the teacher says: of each image once (`--labels stored`), or of each
augmented, mixed batch (`--labels online`), as the authors of DWA do. A row is written as soon as it
is measured; the same command goes on after the last one, and refuses a file of other settings. The
table goes into a page that has ``<!-- RECOVERY -->`` and ``<!-- end -->``, or is a file of its own.

The distance is the mean over classes of the mean Euclidean distance between the teacher's features
of two images of a class, divided by that of as many real images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_rows import Table, pooled
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.config import RunSettings, load_config
from hpd.data import Dataset
from hpd.disk.files import write_bytes
from hpd.engine import Observer, StageReport, StepReport, optimise
from hpd.errors import ConfigError
from hpd.evaluation import compare
from hpd.evaluation.contenders import Contender, of_relabelled, of_set
from hpd.machine.device import open_device
from hpd.objectives import OBJECTIVES
from hpd.objectives.adjustment import AdjustmentSettings
from hpd.objectives.recovery import RecoverySettings
from hpd.rng import Streams
from hpd.students import TrainingSettings, in_batches
from hpd.students.teachers import Teacher, read_teacher

MODES = ("none", "random", "directed")
START = "start"
NAMES = {START: "real images"} | {mode: mode for mode in MODES}
STORED = "stored"
LABELS = (STORED, "online")
PLACE, END = "<!-- RECOVERY -->\n", "<!-- end -->\n"
Config = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One row.

    Args:
        source: kind of source.
        images: of each class.
        steps: of the recovery.
        mode: of the adjustment, or ``start``: the real images that pixels start from; or the name
            of a config beside.
        seed: of the distillation.
    """

    source: str
    images: int
    steps: int
    mode: str
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells a row from others."""
        named = {"source": self.source, "images": self.images, "mode": self.mode}
        return {**named, "steps": 0 if self.mode == START else self.steps, "seed": self.seed}


@dataclass(frozen=True)
class Given:
    """What all rows are made of.

    Args:
        base: the run whose adjustment is varied; its evaluation is that of all rows.
        beside: runs that are measured as they are, by name.
        data: real images.
        lr: of low rank.
        rank: likewise.
    """

    base: RunSettings
    beside: Mapping[str, RunSettings]
    data: Dataset
    lr: float
    rank: int


def plans(
    sizes: Sequence[tuple[int, int]], seeds: int, sources: Sequence[str], beside: Sequence[str] = ()
) -> list[Plan]:
    """Return all rows: what a seed gives comes before the next one, small sizes first."""
    return [
        Plan(source, images, steps, mode, seed)
        for seed in range(seeds)
        for images, steps in sizes
        for source in sources
        for mode in ((START, *MODES, *beside) if source == "pixel" else MODES)
    ]


def source_of(plan: Plan, config: RunSettings, lr: float, rank: int) -> dict[str, Any]:
    """Return the settings of a row's source."""
    steps = 0 if plan.mode == START else plan.steps
    if plan.source == "pixel":
        given = config.model_dump(mode="json")["source"]
        return {**given, "images_per_class": plan.images, "steps": steps}
    return {
        "kind": "low_rank", "rank": rank, "budget_images": plan.images,
        "images_per_class": plan.images, "steps": steps, "lr": lr,
    }  # fmt: skip


def spread(features: Tensor, labels: Tensor) -> float | None:
    """Return the mean over classes of the mean distance of two images of a class.

    Args:
        features: [N, F].
        labels: [N].

    Returns:
        None if no class has two images.
    """
    means = []
    for label in labels.unique():
        own = features[labels == label]
        if len(own) > 1:
            means.append(float(torch.pdist(own.double()).mean()))
    return statistics.fmean(means) if means else None


def features_of(teacher: Teacher, images: Tensor) -> Tensor:
    """Return the teacher's features of images [N, C, H, W] in [0, 1]."""
    return in_batches(lambda part: teacher.network.embed(teacher.normalise(part)), images)


def relative_spread(
    teacher: Teacher, images: Tensor, labels: Tensor, data: Dataset
) -> float | None:
    """Return `spread` divided by that of as many real images, drawn once for all rows."""
    per_class = int(labels.bincount().min())
    chosen = data.train.draw_per_class(per_class, Streams(0).generator("real spread"))
    real = spread(features_of(teacher, data.train.unit(chosen)), data.train.labels[chosen])
    own = spread(features_of(teacher, images), labels)
    return None if own is None or not real else own / real


def distil(settings: RunSettings, data: Dataset, observer: Observer | None = None) -> DistilledSet:
    """Return what `hpd.distill` gives, of data that were read already."""
    device, streams, train = open_device(settings.device), Streams(settings.seed), data.train
    source = settings.source.build(train, device, streams.fork("source"))
    objective = settings.objective.build_whole(train, device, streams.fork("objective"))
    selector = settings.selection.build(train, device, streams.fork("selection"), objective)
    outcome = optimise(
        source, objective, selector, settings.optimizer, observer or Silent(),
        select_every=settings.selection.every,
    )  # fmt: skip
    return DistilledSet(
        outcome.images.float(), outcome.labels, train.classes, train.normalisation,
        source.stored_floats, optimised=True,
    )  # fmt: skip


class Silent:
    """An observer that hears nothing."""

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""


def settings_of(plan: Plan, given: Given) -> RunSettings:
    """Return the run of a row: as a config beside has it, or the first with another adjustment."""
    config = given.beside.get(plan.mode, given.base)
    values = config.model_dump(mode="json")
    values |= {"source": source_of(plan, config, given.lr, given.rank), "seed": plan.seed}
    if plan.mode not in given.beside:
        own = {"mode": "none" if plan.mode == START else plan.mode}
        objective = dict(values["objective"])
        objective["adjustment"] = AdjustmentSettings.applicable(objective["adjustment"], own) | own
        values["objective"] = objective
    return RunSettings.read(values)


def measure(plan: Plan, given: Given, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Distil a set, and train students on it with labels of each kind: a row each."""
    started, settings = time.perf_counter(), settings_of(plan, given)
    assert isinstance(settings.objective, RecoverySettings), "checked when it was read"
    distilled = distil(settings, given.data)
    folder = settings.objective.teacher
    teacher, device = read_teacher(folder), open_device(settings.device)
    soft = teacher.probabilities(distilled.images)
    distilled = replace(distilled, soft_labels=soft)
    own = soft.gather(1, distilled.labels[:, None]).clamp(min=1e-30)
    about = {
        "distance": relative_spread(teacher, distilled.images, distilled.labels, given.data),
        "teacher_cross_entropy": float(-own.log().mean()),
    }
    # of the first config alone, so that rows differ by their sets; its teacher is asked online
    s = given.base.evaluation.model_copy(update={"teacher": folder})
    for kind in labels:
        contender = contender_of(plan.mode, distilled, s.training, kind)
        streams = Streams(plan.seed).fork("evaluation")
        (row,) = compare([contender], given.data, s, device=device, streams=streams).rows
        yield {
            **plan.key,
            "labels": kind,
            "stored_floats": row.storage.images.floats,
            "label_floats": row.storage.labels.floats,
            "mean": row.accuracy_mean,
            "std": row.accuracy_std,
            "students": len(row.seeds),
            **about,
            "seconds": round(time.perf_counter() - started, 1),
        }
        started = time.perf_counter()


def contender_of(
    name: str, distilled: DistilledSet, training: TrainingSettings, labels: str
) -> Contender:
    """Return a set whose students learn from labels of a kind."""
    if labels == "stored":
        return of_relabelled(name, distilled, training)
    return replace(of_set(name, distilled, training), labels="online")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: a line for each source, size, kind of labels and adjustment."""
    lines = [
        "| source | images a class | adjustment | steps | labels | floats + labels | accuracy % "
        "| distance | sets x students |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        kind = row.get("labels", STORED)
        place = (row["images"], row["source"] != "pixel", LABELS.index(kind), row["steps"])
        groups.setdefault((*place, row["source"], row["mode"]), []).append(row)
    for (images, _, kind, steps, source, mode), group in sorted(
        groups.items(), key=lambda g: g[0][:4]
    ):
        mean, std = pooled(group)
        distances = [row["distance"] for row in group if row["distance"] is not None]
        distance = f"{statistics.fmean(distances):.3f}" if distances else ""
        floats = " + ".join(f"{group[0].get(k, 0):,}" for k in ("stored_floats", "label_floats"))
        lines.append(
            f"| {source} | {images} | {NAMES.get(mode, f'as `{mode}`')} | {steps} | {LABELS[kind]} "
            f"| {floats} | {mean:.1f} ± {std:.1f} | {distance} "
            f"| {len(group)} x {group[0]['students']} |"
        )
    return "\n".join(lines) + "\n"


def write_table(path: Path, text: str) -> None:
    """Write the table to a file of its own, or into the place that a page has for it."""
    whole = path.read_text() if path.is_file() else ""
    before, found, rest = whole.partition(PLACE)
    if found:
        text = f"{before}{found}\n{text}\n{END}{rest.partition(END)[2]}"
    write_bytes(path, text.encode())


def size(text: str) -> tuple[int, int]:
    """Return images a class and steps of ``"10:40"``.

    Raises:
        ConfigError: for anything else.
    """
    images, _, steps = text.partition(":")
    if not (images.isdigit() and steps.isdigit() and int(images)):
        raise ConfigError("cannot read size", got=repr(text), expected="IMAGES:STEPS")
    return int(images), int(steps)


@tool(__doc__)
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table, or a page.")
@click.option("--size", "sizes", multiple=True, default=("1:120", "10:40"), show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--source", "sources", multiple=True, default=("pixel", "low_rank"))
@click.option("--beside", multiple=True, help="A config whose pixels are measured as it is.")
@click.option("--labels", type=click.Choice(LABELS), multiple=True, default=(STORED,))
@click.option("--rank", type=click.IntRange(1), default=8, help="Of low_rank.", show_default=True)
@click.option("--lr", type=float, default=0.1, help="Of low_rank.", show_default=True)
@click.option("--test-images", type=click.IntRange(10), default=10_000, help="Evenly chosen.")
def main(
    config: str, overrides: tuple[str, ...], out: Path, page: Path | None,
    beside: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Measure what is missing, and write the table."""
    named = {Path(own).stem: own for own in beside}
    make_table(config, overrides, out, page, beside=named, **options)


def make_table(
    config: Config, overrides: Sequence[str], out: Path, page: Path | None, *,
    sizes: Sequence[str], seeds: int, sources: Sequence[str], rank: int, lr: float,
    test_images: int, beside: Mapping[str, Config] | None = None, labels: Sequence[str] = (STORED,),
    say: Callable[[str], None] = click.echo,
) -> None:  # fmt: skip
    """Measure the rows that are missing, and write the table after each; see `main`."""
    base = read(config, overrides)
    others = {name: read(own, overrides) for name, own in (beside or {}).items()}
    held = {"config": base.model_dump(mode="json"), "rank": rank, "lr": lr}
    more = {name: own.model_dump(mode="json") for name, own in others.items()}
    held |= {"beside": more} if more else {}
    table = Table(out, {**held, "test_images": test_images})
    # earlier files do not say what they could not vary
    table.rows = [{"labels": STORED, **row} for row in table.rows]
    given = Given(base, others, some_of(base.data.build(), test_images), lr, rank)
    todo = plans([size(text) for text in sizes], seeds, sources, list(others))
    for i, plan in enumerate(todo):
        missing = [kind for kind in labels if not table.has(**plan.key, labels=kind)]
        if missing:
            say(f"{i + 1}/{len(todo)} {plan} {' '.join(missing)}")
            for row in measure(plan, given, missing):
                table.add(row)
        if page is not None:
            write_table(page, markdown(table.rows))


def read(config: Config, overrides: Sequence[str]) -> RunSettings:
    """Return a run of recovery.

    Raises:
        ConfigError: if it is of another objective.
    """
    settings = load_config(config, overrides)
    if not isinstance(settings.objective, RecoverySettings):
        kind = OBJECTIVES.kind_of(settings.objective)
        raise ConfigError("the config must be of a recovery", got=kind, expected="recovery")
    return settings


def some_of(data: Dataset, test_images: int) -> Dataset:
    """Return a data set with so many test images, evenly spaced."""
    test = data.test
    every = torch.arange(0, len(test), max(len(test) // test_images, 1))[:test_images]
    return replace(data, test=test.at(every))


if __name__ == "__main__":
    main()
