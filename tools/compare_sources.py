"""Compare all sources at the same budget of floats: one table, made row by row.

    python tools/compare_sources.py digits --out comparison.json --markdown comparison.md

CONFIG names a run of the `gan` source: its data, generator, objective, selection and evaluation
serve every row, and each row takes as many steps in all. A row is written as soon as it is
measured; the same command goes on after the last one, and refuses a file of other settings.

Budgets are floats, as the whole images a class that would take as many. The columns say how many
images each source makes of them. With several seeds, a row's mean and deviation are over the
students of all of them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import hpd
from generators import read_generator
from hpd.config import RunSettings, load_config
from hpd.device import open_device
from hpd.errors import ConfigError, HpdError, RunError
from hpd.evaluation import Contender, Row, compare, of_random_real, of_set
from hpd.files import write_bytes, write_json
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.gan import GanSettings


@dataclass(frozen=True)
class Plan:
    """One row: what is stored, and by which source.

    Args:
        name: of the row.
        source: settings of the source; None for random real images.
        selection: kind of selector in place of the configuration's.
        start: whether the source is judged before its first step.
    """

    name: str
    source: Mapping[str, Any] | None
    selection: str | None = None
    start: bool = False


def plans(base: RunSettings, images: int, steps: int) -> list[Plan]:
    """Return the rows of the table.

    Args:
        base: the configuration; its source is a generator's.
        images: the budget, in images a class.
        steps: of each row, in all.
    """
    assert isinstance(base.source, GanSettings)
    spec = read_generator(base.source.generator).generator.spec
    gan = {**SOURCES.dump(base.source), "images_per_class": images}
    gan["init"] = gan["init"] if images == 1 else "sample"
    levels = range(spec.last_level + 1)
    whole = {**gan, "levels": "all", "steps": spread(steps, len(levels))}
    pixel = {"kind": "pixel", "images_per_class": images, "lr": 0.05, "steps": steps}
    hmn = {"kind": "hmn", "budget_images": images, "steps": steps}
    inside = {"kind": "stylegan", "generator": gan["generator"]}
    rows = [
        Plan("random real", None),
        Plan("the prior alone", {**gan, "levels": [0], "steps": 0}, "last", start=True),
        Plan("pixel", pixel),
        Plan("low rank", {"kind": "low_rank", "budget_images": images, "steps": steps}),
        Plan("IDC", {"kind": "multi_formation", "factor": 2, "of": pixel}),
        *(
            Plan(f"GLaD, level {k} ({spec.levels[k].name})", {**gan, "levels": [k], "steps": steps})
            for k in levels
        ),
        Plan("H-PD", whole),
        Plan("H-PD, no selection", whole, "last"),
        Plan("HMN, own decoder", hmn),
        Plan("HMN, before the generator", {**hmn, "decoder": inside}),
    ]
    known = set(SOURCES)
    return [row for row in rows if row.source is None or row.source["kind"] in known]


def spread(steps: int, stages: int) -> list[int]:
    """Return the steps of each stage, as even as they can be, the sum being `steps`."""
    return [steps * (i + 1) // stages - steps * i // stages for i in range(stages)]


class Table:
    """The measured rows, on disk after each.

    Args:
        path: the JSON file.
        settings: of all rows; a file of others is refused.

    Raises:
        RunError: if the file is of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            held = json.loads(path.read_text())
            if held["settings"] != self.settings:
                raise RunError(f"{path} is of other settings", fix="Give another file.")
            self.rows = held["rows"]

    def has(self, **key: Any) -> bool:
        """Return whether a row is measured."""
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append(dict(row))
        write_json(self.path, {"settings": self.settings, "rows": self.rows})


def measure(base: RunSettings, plan: Plan, images: int, seed: int) -> dict[str, Any]:
    """Distil one row, and train students on it."""
    started = time.perf_counter()
    dataset, s = base.data.build(), base.evaluation
    streams = Streams(seed).fork("evaluation")
    cost: Mapping[str, float] = {}
    if plan.source is None:
        name = "random_real"
        contender: Contender = of_random_real(name, images, dataset.train, s.training, streams)
    else:
        values = {**base.model_dump(mode="json"), "source": dict(plan.source), "seed": seed}
        if plan.selection is not None:
            values["selection"] = plan.selection
        run = hpd.distill(values)
        cost = run.cost
        contender = of_set(plan.name, run.initial if plan.start else run.distilled, s.training)
    device = open_device(base.device)
    rows = compare([contender], dataset, s, device=device, streams=streams).rows
    return {
        "row": plan.name,
        "images": images,
        "seed": seed,
        "images_per_class": rows[0].images_per_class,
        "stored_floats": rows[0].stored_floats,
        "networks": {row.network: of_row(row) for row in rows},
        "cost": dict(cost),
        "seconds": round(time.perf_counter() - started, 1),
    }


def measured(base: RunSettings, plan: Plan, images: int, seed: int) -> dict[str, Any]:
    """Return the row of `measure`, or why there is none: a source may not fit its budget."""
    try:
        return measure(base, plan, images, seed)
    except ConfigError as error:
        refusal = " ".join(str(error).split())
        return {"row": plan.name, "images": images, "seed": seed, "refused": refusal}


def of_row(row: Row) -> dict[str, Any]:
    """Return what the table keeps of an evaluation's row."""
    return {"mean": row.accuracy_mean, "std": row.accuracy_std, "students": len(row.seeds)}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: a line per row, budget and network."""
    lines = [
        "| source | budget | images a class | floats | accuracy % | sets x students | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = list(dict.fromkeys((row["images"], row["row"]) for row in rows))
    for images, name in sorted(keys, key=lambda key: key[0]):
        group = [row for row in rows if (row["images"], row["row"]) == (images, name)]
        if "refused" in group[0]:
            lines.append(f"| {name} | {images} | {group[0]['refused']} | | | | |")
            continue
        for network in group[0]["networks"]:
            parts = [row["networks"][network] for row in group]
            mean, std = pooled(parts)
            label = name if len(group[0]["networks"]) == 1 else f"{name} ({network})"
            seconds = statistics.fmean(row["seconds"] for row in group)
            lines.append(
                f"| {label} | {images} | {group[0]['images_per_class']:g} | "
                f"{group[0]['stored_floats']:,} | {mean:.1f} ± {std:.1f} | "
                f"{len(group)} x {parts[0]['students']} | {seconds:.0f} |"
            )
    return "\n".join(lines) + "\n"


def pooled(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return mean and sample standard deviation over the students of sets of equal size."""
    n = parts[0]["students"]
    mean = statistics.fmean(part["mean"] for part in parts)
    squares = sum((n - 1) * p["std"] ** 2 + n * (p["mean"] - mean) ** 2 for p in parts)
    return mean, (squares / max(n * len(parts) - 1, 1)) ** 0.5


def chosen(available: Sequence[Plan], words: Sequence[str]) -> list[Plan]:
    """Return the rows whose name holds one of `words`; all of them for no word.

    Raises:
        ConfigError: for a word that no row has.
    """
    for word in words:
        if not any(word in plan.name for plan in available):
            raise ConfigError(
                f"no row {word!r}", expected=", ".join(plan.name for plan in available)
            )
    return [p for p in available if not words or any(word in p.name for word in words)]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table.")
@click.option(
    "--images",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 10),
    show_default=True,
    help="Budgets, in images a class; give it again for more.",
)
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=280,
    show_default=True,
    help="Steps of each row, in all.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Sets distilled for each row.",
)
@click.option("--row", "words", multiple=True, help="Only rows whose name holds this.")
def main(
    config: str, overrides: tuple[str, ...], out: Path, page: Path | None,
    images: tuple[int, ...], steps: int, seeds: int, words: tuple[str, ...],
) -> None:  # fmt: skip
    """Measure what is missing, and write the table."""
    try:
        make_table(
            config, overrides, out, page, images=images, steps=steps, seeds=seeds, words=words
        )
    except HpdError as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from None


def make_table(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str], out: Path, page: Path | None,
    *, images: Sequence[int], steps: int, seeds: int, words: Sequence[str] = (),
    say: Callable[[str], None] = click.echo,
) -> None:  # fmt: skip
    """Measure the rows that are missing, and write the table after each; see `main`."""
    base = load_config(config, overrides)
    if not isinstance(base.source, GanSettings):
        raise ConfigError(
            "the config must be of a generator", got=SOURCES.kind_of(base.source), expected="gan"
        )
    table = Table(out, {"config": base.model_dump(mode="json"), "steps": steps})
    todo = [
        (plan, budget, seed)
        for budget in images
        for plan in chosen(plans(base, budget, steps), words)
        for seed in range(seeds)
    ]
    for i, (plan, budget, seed) in enumerate(todo):
        if not table.has(row=plan.name, images=budget, seed=seed):
            say(f"{i + 1}/{len(todo)} {plan.name}, {budget} images, seed {seed}")
            table.add(measured(base, plan, budget, seed))
        if page is not None:
            write_bytes(page, markdown(table.rows).encode())


if __name__ == "__main__":
    main()
