"""How well each score ranks the sets on the way of runs, and which set it would keep.

    python tools/rank_selectors.py digits --seeds 3 --out ranking.json
    python tools/rank_selectors.py results/fashion data.root=FOLDER --out ranking.json
    python tools/rank_selectors.py --out ranking.json

A walk is a run of CONFIG with one seed, without its selection: no state is restored, and the sets
on the way are seen as they come, from before the first step to after the last. On each, the
students of CONFIG's evaluation are trained and tested on the test images; their mean accuracy is
compared with every score, made of the defaults of its selector. A call adds the walks of one CONFIG
to the file, each as soon as it is measured: the same command goes on after the last one. The tables
are of all walks in the file; without CONFIG they are only printed. A negative rank correlation is
good: the lower the score, the better the set.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from measured_rows import read_measured
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.config import RunSettings, load_config
from hpd.data import Dataset
from hpd.disk.files import write_bytes, write_json
from hpd.engine import SELECTORS, StageReport, StepReport, optimise
from hpd.engine.rendered import render_all
from hpd.engine.selection import LastSettings
from hpd.engine.snapshot import margin_of, outdoes
from hpd.errors import RunError
from hpd.evaluation import compare, of_set
from hpd.evaluation.drawn.ranking import LevelResult, levels_png, rank_correlation
from hpd.machine.device import open_device
from hpd.rng import Streams
from hpd.typing import Objective, Score, Selector, Source, Stage

_LAST, _BY_LEVEL = "last", "class-relevant, trained"
_SECONDS = ("s a set", "s to make")
SELECTIONS: Mapping[str, Mapping[str, Any]] = {
    _BY_LEVEL: {"kind": "class_relevant"},
    "class-relevant, random": {"kind": "class_relevant", "extractor": "random"},
    "plain, trained": {"kind": "class_relevant", "weighting": "none"},
    "plain, random": {"kind": "class_relevant", "weighting": "none", "extractor": "random"},
    "ridge vote": {"kind": "ridge"},
    "ridge squared": {"kind": "ridge", "criterion": "squared", "margin": 0.0},
    "loss": {"kind": "loss", "draws": 3},
}
"""The options of each score; the last score, `last`, is the order of the steps."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sight:
    """A set on the way of a walk.

    Args:
        stage: name of the stage that it comes from; ``"start"`` before the first step.
        steps: of all stages, that led to it.
        images: [N, C, H, W] in [0, 1], on the CPU.
    """

    stage: str
    steps: int
    images: Tensor


class Album:
    """An observer that keeps the set before the first step, and those after some of the steps.

    Args:
        source: of the run, in no stage yet.
        chosen: numbers of steps, counted from 1 over all stages.
    """

    def __init__(self, source: Source, chosen: Collection[int]) -> None:
        self._source, self._chosen, self._steps = source, chosen, 0
        self.sights = [Sight("start", 0, render_all(source))]

    def on_step(self, report: StepReport) -> None:
        """Keep the set as the step has left it."""
        self._steps += 1
        if self._steps in self._chosen:
            self.sights.append(Sight(report.stage.name, self._steps, render_all(self._source)))

    def on_stage(self, report: StageReport) -> None:
        """Do nothing: without selection a stage ends as its last step leaves it."""


def chosen_steps(stages: Sequence[Stage], sets: int, *, ends: bool) -> list[int]:
    """Return after how many steps a set is kept: evenly from 0 to all, with `ends` each stage's.

    >>> chosen_steps([Stage("a", 4), Stage("b", 6)], 3, ends=False)
    [0, 5, 10]
    >>> chosen_steps([Stage("a", 4), Stage("b", 6)], 3, ends=True)
    [0, 4, 5, 10]
    """
    last = list(accumulate(stage.steps for stage in stages))
    chosen = {round(i * last[-1] / (sets - 1)) for i in range(sets)}
    return sorted(chosen | set(last) if ends else chosen)


def walk(
    settings: RunSettings, dataset: Dataset, sets: int, *, ends: bool = False
) -> tuple[list[Sight], Tensor, Objective]:
    """Return the sets on the way of a run without selection, their labels, and the objective."""
    device, streams, train = open_device(settings.device), Streams(settings.seed), dataset.train
    source = settings.source.build(train, device, streams.fork("source"))
    objective = settings.objective.build_whole(train, device, streams.fork("objective"))
    last = LastSettings().build(train, device, streams, objective)
    album = Album(source, chosen_steps(source.stages, sets, ends=ends))
    steps = sum(stage.steps for stage in source.stages)
    optimise(source, objective, last, settings.optimizer, album, select_every=steps)
    return album.sights, source.labels.cpu(), objective


def measure(settings: RunSettings, sets: int, *, ends: bool) -> dict[str, Any]:
    """Return accuracy and every score of each set of a walk, and the seconds they took."""
    dataset, device = settings.data.build(), open_device(settings.device)
    sights, labels, objective = walk(settings, dataset, sets, ends=ends)
    streams, train = Streams(settings.seed), dataset.train
    scorers: dict[str, Selector] = {}
    making: dict[str, float] = {_LAST: 0.0}
    for name, options in SELECTIONS.items():
        selection = SELECTORS.parse(options)
        started = time.perf_counter()
        scorers[name] = selection.build(train, device, streams.fork("scores"), objective)
        making[name] = round(time.perf_counter() - started, 4)
    rows = []
    for sight in sights:
        part = DistilledSet(
            sight.images, labels, train.classes, train.normalisation, 0, optimised=True
        )
        accuracy = accuracy_of(part, settings, dataset, device)
        scores = scores_of(sight, labels, scorers, device)
        rows.append({"stage": sight.stage, "steps": sight.steps, **accuracy, **scores})
    return {"sets": rows, "making_seconds": making, **judged(rows)}


def accuracy_of(
    part: DistilledSet, settings: RunSettings, dataset: Dataset, device: torch.device
) -> dict[str, float]:
    """Return mean and deviation in percent over all students; the same weights for every set."""
    evaluation, streams = settings.evaluation, Streams(settings.seed).fork("evaluation")
    contender = of_set("set", part, evaluation.training)
    rows = compare([contender], dataset, evaluation, device=device, streams=streams).rows
    values = [value for row in rows for value in row.accuracies]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"accuracy": round(statistics.fmean(values), 4), "std": round(deviation, 4)}


def scores_of(
    sight: Sight, labels: Tensor, scorers: Mapping[str, Selector], device: torch.device
) -> dict[str, dict[str, float]]:
    """Return what each score says of a set, the seconds that it took, and margins, if any."""
    images, there = sight.images.to(device), labels.to(device)
    scores, seconds, margins = dict[str, float](), dict[str, float](), dict[str, float]()
    for name, scorer in scorers.items():
        started = time.perf_counter()
        score = scorer(images, there)
        seconds[name] = round(time.perf_counter() - started, 5)
        assert score is not None, name
        scores[name] = float(score)
        if margin_of(score):
            margins[name] = margin_of(score)
    # the more steps, the better
    scores, seconds = {**scores, _LAST: -sight.steps}, {**seconds, _LAST: 0.0}
    return {"scores": scores, "seconds": seconds, "margins": margins}


def kept_of(scores: Sequence[float], margins: Sequence[float]) -> int:
    """Return which of some sets a run keeps, by their scores and margins, in order."""
    best, kept, lowest = math.inf, 0, math.inf
    for number, (score, margin) in enumerate(zip(scores, margins, strict=True)):
        if outdoes(Score(score, margin), best, lowest):
            best, kept = score, number
        lowest = min(lowest, score)
    return kept


def judged(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what a walk says of each score, and the best accuracy on its way.

    ``correlation``: Spearman's, of score and accuracy; None if all values of either are equal.
    ``kept``: the accuracy of the set that a run keeps. ``lowest``: that of the set with the lowest
    score, the first of several, whatever its margin. ``seconds``: the mean of a set.
    """
    accuracies = [row["accuracy"] for row in rows]
    verdicts = {}
    for name in rows[0]["scores"]:
        scores = [row["scores"][name] for row in rows]
        correlation = rank_correlation(scores, accuracies)
        verdicts[name] = {
            "correlation": None if math.isnan(correlation) else round(correlation, 4),
            "kept": accuracies[
                kept_of(scores, [row.get("margins", {}).get(name, 0.0) for row in rows])
            ],
            "lowest": accuracies[scores.index(min(scores))],
            "seconds": round(statistics.fmean(row["seconds"][name] for row in rows), 5),
        }
    return {"best": max(accuracies), "verdicts": verdicts}


def summary(walks: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the mean over walks of what each says of a score; see `judged`.

    ``making_seconds``: of what a score needs before the first set. ``lost``: the mean of best and
    ``kept``'s difference.
    """
    result = {}
    for name in walks[0]["verdicts"]:
        own = [walk["verdicts"][name] for walk in walks]
        known = [verdict["correlation"] for verdict in own if verdict["correlation"] is not None]
        kept = statistics.fmean(verdict["kept"] for verdict in own)
        result[name] = {
            "correlation": round(statistics.fmean(known), 4) if known else None,
            "kept": round(kept, 4),
            "lowest": round(statistics.fmean(verdict["lowest"] for verdict in own), 4),
            "lost": round(statistics.fmean(walk["best"] for walk in walks) - kept, 4),
            "seconds": round(statistics.fmean(verdict["seconds"] for verdict in own), 5),
            "making_seconds": round(
                statistics.fmean(walk["making_seconds"][name] for walk in walks), 4
            ),
        }
    return result


class Study:
    """The walks that were measured, on disk after each.

    Args:
        path: the JSON file.
        settings: of all walks; a file of others is refused. None: whatever the file's are.

    Raises:
        RunError: if the file is of other settings or broken, or there is none without settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        if settings is None and not path.is_file():
            raise RunError(f"there is no {path}", fix="Give a CONFIG to measure.")
        self.settings = dict(settings or read_measured(path, "settings")["settings"])
        if path.is_file() and read_measured(path, "settings")["settings"] != self.settings:
            raise RunError(f"{path} is of other settings", fix="Give another file.")

    @property
    def walks(self) -> list[dict[str, Any]]:
        """The walks in the file as it is now, in the order in which they were measured."""
        return read_measured(self.path, "walks")["walks"] if self.path.is_file() else []

    def add(self, name: str, settings: RunSettings) -> None:
        """Measure a walk and write it, unless it is there.

        Raises:
            RunError: if there is one of this name and seed with another configuration.
        """
        key = {"name": name, "seed": settings.seed}
        config = json.loads(json.dumps(settings.model_dump(mode="json")))
        for there in self.walks:
            if {k: there[k] for k in key} == key:
                if there["config"] != config:
                    raise RunError(
                        f"{self.path} has another walk {name!r} of seed {settings.seed}",
                        fix="Give another --name, or another file.",
                    )
                return
        measured = measure(settings, **self.settings)
        # read anew: another command may have added walks meanwhile
        walks = [*self.walks, {**key, "config": config, **measured}]
        content = {"settings": self.settings, "walks": walks, "summary": summary(walks)}
        write_json(self.path, content)


def levels(rows: Sequence[Row]) -> list[LevelResult]:
    """Return where a walk started and what it had come to at the end of each level."""
    ends = {row["stage"]: row for row in rows}
    return [
        LevelResult(name, row["accuracy"], row["std"], row["scores"][_BY_LEVEL])
        for name, row in ends.items()
    ]


def tables(walks: Sequence[Row]) -> str:
    """Return what all walks say as Markdown: the means, the correlations, and what is kept."""
    means = [
        [name, _signed(v["correlation"]), f"{v['kept']:.1f}", f"{v['lost']:.1f}",
         f"{v['lowest']:.1f}",
         f"{v['seconds']:.3f}", f"{v['making_seconds']:.1f}"]
        for name, v in summary(walks).items()
    ]  # fmt: skip
    names = list(walks[0]["verdicts"])
    head = ["walk", "seed", "sets"]
    correlations = [[*_title(w), *_verdicts(w, "correlation", _signed)] for w in walks]
    kept = [
        [*_title(w), f"{w['best']:.1f}", *_verdicts(w, "kept", lambda v: f"{v:.1f}")] for w in walks
    ]
    count = sum(len(w["sets"]) for w in walks)
    parts = [
        f"Means over {len(walks)} walks, {count} sets:",
        table(
            ["score", "correlation", "kept", "lost", "lowest alone", "s a set", "s to make"], means
        ),
        "Spearman's correlation of score and accuracy:",
        table([*head, *names], correlations),
        "Accuracy of the set that a score would keep:",
        table([*head, "best", *names], kept),
    ]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _title(walk: Row) -> list[str]:
    return [walk["name"], str(walk["seed"]), str(len(walk["sets"]))]


def _verdicts(walk: Row, key: str, say: Callable[[Any], str]) -> list[str]:
    return [say(verdict[key]) for verdict in walk["verdicts"].values()]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def study(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str], out: Path, *,
    name: str, seeds: int, sets: int, picture: Path | None = None,
) -> Study:  # fmt: skip
    """Add the walks of a configuration that are missing; see `main`."""
    held = Study(out, {"sets": sets, "ends": picture is not None})
    for seed in range(seeds):
        held.add(name, load_config(config, overrides, seed))
    if picture is not None:
        first = next(w for w in held.walks if (w["name"], w["seed"]) == (name, 0))
        write_bytes(picture, levels_png(levels(first["sets"])))
    return held


@tool(__doc__)
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--name", help="Of the walks; by default CONFIG and what is set beside it.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--sets", type=click.IntRange(2), default=8, show_default=True, help="Sets of a walk."
)
@click.option(
    "--levels",
    "picture",
    type=click.Path(path_type=Path),
    help="A picture of the levels of seed 0, whose ends are sets of the walk, too.",
)
def main(config: str | None, overrides: tuple[str, ...], out: Path, name: str | None,
         seeds: int, sets: int, picture: Path | None) -> None:  # fmt: skip
    """Print the tables of all walks."""
    if config is None:
        held = Study(out)
    else:
        name = name or " ".join([config, *overrides])
        held = study(config, overrides, out, name=name, seeds=seeds, sets=sets, picture=picture)
    click.echo(tables(held.walks))


if __name__ == "__main__":
    main()
