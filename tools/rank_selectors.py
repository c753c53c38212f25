"""How well each score ranks the sets of a run, and what each level of it came to.

    python tools/rank_selectors.py digits --seeds 3 --out ranking.json --levels levels.png

CONFIG is run once for each seed, with its own selection, and the sets on the way are kept. On
each, students are trained and tested on the test images; then the scores are compared with the
accuracies: the class-relevant distance, the plain distance of features, and the loss. A negative
rank correlation is good: the lower the score, the better the set. A seed is written as soon as it
is measured; the same command goes on after the last one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.config import RunSettings, load_config
from hpd.data import Dataset
from hpd.device import open_device
from hpd.engine import SELECTORS, StageReport, StepReport, optimise
from hpd.errors import RunError
from hpd.evaluation import compare, of_set
from hpd.evaluation.ranking import LevelResult, levels_png, rank_correlation
from hpd.files import write_bytes, write_json
from hpd.rng import Streams
from hpd.typing import Objective, Selector

SCORES: Mapping[str, Mapping[str, Any]] = {
    "class-relevant distance": {"kind": "class_relevant"},
    "class-relevant distance, random extractor": {
        "kind": "class_relevant",
        "extractor": "random",
    },
    "plain distance": {"kind": "class_relevant", "weighting": "none"},
    "plain distance, random extractor": {
        "kind": "class_relevant",
        "weighting": "none",
        "extractor": "random",
    },
    "loss": {"kind": "loss", "draws": 3},
}


@dataclass
class Kept:
    """A set on the way of a run."""

    stage: str
    images: Tensor
    score: float | None
    best: bool = False


class Gallery:
    """A selector and observer that keeps every set that another selector scores.

    Args:
        selector: the run's.
    """

    def __init__(self, selector: Selector) -> None:
        self._selector, self.sets = selector, list[Kept]()
        self._done = 0
        self._ended_with: Kept | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> float | None:
        """Score and keep a set."""
        score = self._selector(images, labels)
        self.sets.append(Kept("", images.detach().cpu().clone(), score))
        return score

    def on_step(self, report: StepReport) -> None:
        """Keep what a stage starts with, which is not scored again if the last ended with it."""
        if self._ended_with is not None and len(self.sets) == self._done:
            self.sets.append(Kept("", self._ended_with.images, self._ended_with.score))

    def on_stage(self, report: StageReport) -> None:
        """Name the sets of a stage that is finished, and mark the one that was kept."""
        own = self.sets[self._done :]
        for kept in own:
            kept.stage = report.stage.name
        scored = [kept for kept in own if kept.score is not None]
        best = min(scored, key=lambda kept: kept.score) if scored else own[-1]  # type: ignore[arg-type, return-value]
        best.best = True
        self._ended_with = best
        self._done = len(self.sets)


def walk(settings: RunSettings, dataset: Dataset, sets: int) -> tuple[Gallery, Objective]:
    """Run a configuration and return the sets on its way: about `sets` of each stage."""
    device, streams = open_device(settings.device), Streams(settings.seed)
    train, held = settings.selection.split(dataset.train)
    source = settings.source.build(train, device, streams.fork("source"))
    objective = settings.objective.build_whole(train, device, streams.fork("objective"))
    own = settings.selection.build(held, device, streams.fork("selection"), objective)
    gallery = Gallery(own)
    every = max(1, min(stage.steps for stage in source.stages) // max(sets - 1, 1))
    optimise(source, objective, gallery, settings.optimizer, gallery, select_every=every)
    return gallery, objective


def measure(settings: RunSettings, sets: int) -> list[dict[str, Any]]:
    """Return accuracy and every score of each set on the way of a run."""
    dataset, device = settings.data.build(), open_device(settings.device)
    gallery, objective = walk(settings, dataset, sets)
    streams, train = Streams(settings.seed), dataset.train
    labels = labels_of(settings, gallery, train.num_classes)
    student = getattr(settings.selection, "student", None)
    scorers = {}
    for name, options in SCORES.items():
        extractor = {"student": student} if student and options["kind"] != "loss" else {}
        scorer = SELECTORS.parse({**options, **extractor})
        scorers[name] = scorer.build(train, device, streams.fork("scores"), objective)
    rows = []
    for kept in unique(gallery.sets):
        part = DistilledSet(kept.images, labels, train.classes, train.normalisation, 0)
        row = compare(
            [of_set("set", part, settings.evaluation.training)], dataset, settings.evaluation,
            device=device, streams=streams.fork("evaluation"),
        ).rows[0]  # fmt: skip
        scores = {
            name: scorer(kept.images.to(device), labels.to(device))
            for name, scorer in scorers.items()
        }
        rows.append(
            {"stage": kept.stage, "best": kept.best, "accuracy": row.accuracy_mean,
             "std": row.accuracy_std, "scores": scores}
        )  # fmt: skip
    return rows


def labels_of(settings: RunSettings, gallery: Gallery, classes: int) -> Tensor:
    """Return the labels of the sets: every source orders its images by class."""
    return torch.arange(classes).repeat_interleave(len(gallery.sets[0].images) // classes)


def unique(sets: Sequence[Kept]) -> list[Kept]:
    """Return the sets without repetitions: a stage starts where the one before it ended.

    A repetition of a set that was the best of its stage is kept.
    """
    found: list[Kept] = []
    for kept in sets:
        if kept.best or not any(torch.equal(kept.images, other.images) for other in found):
            found.append(kept)
    return found


def correlations(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return each score's rank correlation with the accuracy, over all sets and within runs."""
    result = {}
    for name in SCORES:
        within = [
            rank_correlation([r["scores"][name] for r in run], [r["accuracy"] for r in run])
            for run in runs
        ]
        everything = [row for run in runs for row in run]
        scores = [row["scores"][name] for row in everything]
        together = rank_correlation(scores, [row["accuracy"] for row in everything])
        result[name] = {
            "together": round(together, 4),
            "within": round(statistics.fmean(within), 4),
        }
    return result


def levels(run: Sequence[Mapping[str, Any]]) -> list[LevelResult]:
    """Return what each level of a run came to, after where it started."""
    rows = [("start", run[0]), *((row["stage"], row) for row in run if row["best"])]
    return [
        LevelResult(name, row["accuracy"], row["std"], row["scores"]["class-relevant distance"])
        for name, row in rows
    ]


def rank(config: str | Path | Mapping[str, Any], overrides: Sequence[str], out: Path,
         picture: Path | None, *, seeds: int, sets: int) -> dict[str, Any]:  # fmt: skip
    """Measure the seeds that are missing, and write what is known after each; see `main`."""
    told = {"config": load_config(config, overrides).model_dump(mode="json"), "sets": sets}
    held = json.loads(out.read_text()) if out.is_file() else {"settings": told, "runs": []}
    if held["settings"] != told:
        raise RunError(f"{out} is of other settings", fix="Give another file.")
    for seed in range(len(held["runs"]), seeds):
        held["runs"].append(measure(load_config(config, overrides, seed), sets))
        held["correlations"] = correlations(held["runs"])
        write_json(out, held)
    if picture is not None:
        write_bytes(picture, levels_png(levels(held["runs"][0])))
    return held


@tool(__doc__)
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option(
    "--levels", "picture", type=click.Path(path_type=Path), help="The picture, of seed 0."
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--sets",
    type=click.IntRange(2),
    default=3,
    show_default=True,
    help="Sets of each stage, about.",
)
def main(config: str, overrides: tuple[str, ...], out: Path, picture: Path | None,
         seeds: int, sets: int) -> None:  # fmt: skip
    """Print the rank correlations."""
    held = rank(config, overrides, out, picture, seeds=seeds, sets=sets)
    count = sum(len(run) for run in held["runs"])
    click.echo(
        f"| score | rank correlation, {count} sets of {len(held['runs'])} runs | within runs |"
    )
    click.echo("|---|---|---|")
    for name, value in held["correlations"].items():
        click.echo(f"| {name} | {value['together']:+.2f} | {value['within']:+.2f} |")


if __name__ == "__main__":
    main()
