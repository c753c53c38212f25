"""The command `hpd generator score`: how well a generator stands in for its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import one_speaks


@click.command()
@click.argument("name")
@takes_own_code
@click.option(
    "--data", help="Folder with the data, or another kind or YAML mapping.  [as it was trained on]"
)
@click.option("--json", "target", type=PATH, help="Where to write figures.")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="One or more.  [0]")
@click.option("--samples", type=click.IntRange(10), help="Of the generator.  [10000]")
@click.option("--student", help="Kind, or a YAML mapping.  [{kind: convnet, width: 32}]")
@click.option("--student-images", type=click.IntRange(1), help="Seen by each student.  [50000]")
@click.option("--device", default="auto", show_default=True, help="Where to measure.")
@click.option(
    "--resnet20", type=PATH,
    help="Weights of the ResNet-20 for CIFAR-10, to measure with as well.",
)  # fmt: skip
def score(
    name: str,
    data: str | None,
    target: Path | None,
    seeds: tuple[int, ...],
    device: str,
    resnet20: Path | None,
    **options: Any,
) -> None:
    """Measure how well a generator stands in for the data it was trained on.

    Label agreement: share of samples that a student trained on real images gives the class asked
    for. Student ratio: test accuracy of a student trained on samples alone, as a share of that of
    one trained on real images. Diversity: spread within classes, as a share of the data's. FID:
    Frechet distance of features of a student, or of the ResNet-20 if its weights are given. Several
    processes share the seeds out.

    \b
    Example:
      hpd generator score digits16 --json scores.json
      hpd generator score cifar32 --data data --resnet20 cifar10_resnet20.safetensors
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say
    from hpd.disk.files import write_json
    from hpd.disk.yaml_text import parse_value
    from hpd.machine.device import Processes

    processes = Processes.started(cpu=device == "cpu")
    console = Console(quiet=not processes.is_first)
    given = {key: value for key, value in options.items() if value is not None}
    if "student" in given:
        given["student"] = parse_value(given["student"], "--student")

    def tell(seed: int, scores: Any) -> None:
        say(console, _sentence(f"seed {seed}", asdict(scores)))

    with one_speaks(processes), ProgressBar(console, None):
        found = api.score_generator(
            name, data, seeds=seeds or (0,), resnet20=resnet20, device=device,
            processes=processes, report=tell, **given,
        )  # fmt: skip
    processes.end()
    if not processes.is_first:
        return
    if len(found["seeds"]) > 1:
        say(console, _sentence("mean", found))
    if target is not None:
        write_json(target, found)


def _sentence(name: str, scores: Mapping[str, Any]) -> str:
    other = scores["network_agreement"]
    return (
        f"{name}: label agreement {scores['label_agreement']:.2%}"
        + ("" if other is None else f" (of the given network {other:.2%})")
        + f", trained on samples {scores['accuracy_samples']:.2%}, on real images "
        f"{scores['accuracy_real']:.2%}, ratio {scores['student_ratio']:.2%}, "
        f"diversity {scores['diversity']:.2f}, FID {scores['fid']:.1f}"
    )
