"""The command `hpd generator score`: how well a generator stands in for its data."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from hpd.errors import DataError, GeneratorError


@click.command()
@click.argument("name")
@click.option(
    "--data", help="Folder with the data, or another kind or YAML mapping.  [as it was trained on]"
)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write figures.")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="One or more.  [0]")
@click.option("--samples", type=click.IntRange(10), help="Of the generator.  [10000]")
@click.option("--student", help="Kind, or a YAML mapping.  [{kind: convnet, width: 32}]")
@click.option("--student-images", type=click.IntRange(1), help="Seen by each student.  [50000]")
@click.option(
    "--resnet20", type=click.Path(path_type=Path),
    help="Weights of the ResNet-20 for CIFAR-10, to measure with as well.",
)  # fmt: skip
def score(
    name: str,
    data: str | None,
    target: Path | None,
    seeds: tuple[int, ...],
    resnet20: Path | None,
    **options: Any,
) -> None:
    """Measure how well a generator stands in for the data it was trained on.

    Label agreement: share of samples that a student trained on real images gives the class asked
    for. Student ratio: test accuracy of a student trained on samples alone, as a share of that of
    one trained on real images. Diversity: spread within classes, as a share of the data's. FID:
    Frechet distance of features of a student, or of the ResNet-20 if its weights are given.

    \b
    Example:
      hpd generator score digits16 --json scores.json
      hpd generator score cifar32 --data data --resnet20 cifar10_resnet20.safetensors
    """
    import yaml

    from generators import read_generator
    from hpd.evaluation.generators import ScoreSettings, score_generator
    from hpd.files import write_json

    given = {key: value for key, value in options.items() if value is not None}
    if "student" in given:
        given["student"] = yaml.safe_load(given["student"])
    settings = ScoreSettings.read(given)
    stored = read_generator(name)
    known, network = _read_data(stored.provenance, stored.name, data), _read_network(resnet20)
    found = {}
    for seed in seeds or (0,):
        found[seed] = score_generator(stored.generator, known, settings, seed=seed, network=network)
        click.echo(_sentence(f"seed {seed}", asdict(found[seed])))
    means = _mean(list(found.values()))
    if len(found) > 1:
        click.echo(_sentence("mean", means))
    if target is not None:
        report = {
            "generator": stored.name,
            "sha256": stored.sha256,
            **means,
            "fid_features": network.name if network else "the student trained on real images",
            "settings": settings.model_dump(mode="json"),
            "seeds": [{"seed": seed, **asdict(scores)} for seed, scores in found.items()],
        }
        write_json(target, report)


def _read_data(provenance: dict[str, Any], name: str, given: str | None) -> Any:
    """Return the data that the user named, or those in the generator's provenance.

    Raises:
        GeneratorError: if neither is there.
        DataError: if a folder is named, and the data lie in none.
    """
    import yaml

    from hpd.data import DATASETS

    kind = provenance.get("training", {}).get("data")
    if given is not None and Path(given).expanduser().is_dir():
        if kind is None or "root" not in DATASETS[kind["kind"]].model_fields:
            raise DataError(
                f"{name} was not trained on data from a folder",
                got=f"--data {given}",
                fix="Name the data set by --data '{kind: KIND, root: FOLDER}'.",
            )
        kind = {**kind, "root": given}
    elif given is not None:
        kind = yaml.safe_load(given)
    if kind is None:
        raise GeneratorError(
            f"{name} does not say which data it was trained on", fix="Name them by --data."
        )
    return DATASETS.parse(kind).build()


def _read_network(path: Path | None) -> Any:
    if path is None:
        return None
    from hpd.evaluation.generators import Network
    from hpd.students.resnet20 import NAME, NORMALISATION, read_resnet20

    network = read_resnet20(path)
    return Network(NAME, NORMALISATION, network.embed, network)


def _mean(scores: list[Any]) -> dict[str, float | None]:
    """Return the mean over seeds of each figure; None for one that was not measured."""
    names = [field.name for field in fields(scores[0])]
    columns = {name: [getattr(s, name) for s in scores] for name in names}
    return {name: None if None in c else sum(c) / len(c) for name, c in columns.items()}


def _sentence(name: str, scores: dict[str, Any]) -> str:
    other = scores["network_agreement"]
    return (
        f"{name}: label agreement {scores['label_agreement']:.2%}"
        + ("" if other is None else f" (of the given network {other:.2%})")
        + f", trained on samples {scores['accuracy_samples']:.2%}, on real images "
        f"{scores['accuracy_real']:.2%}, ratio {scores['student_ratio']:.2%}, "
        f"diversity {scores['diversity']:.2f}, FID {scores['fid']:.1f}"
    )
