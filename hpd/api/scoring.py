"""How well a generator stands in for the data it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from generators import read_generator
from hpd.config import parse_yaml
from hpd.data import DATASETS, Dataset
from hpd.data.finding import at_place
from hpd.errors import DataError, GeneratorError
from hpd.evaluation import generators
from hpd.evaluation.generators import Network, Scores, ScoreSettings
from hpd.students.resnet20 import NAME, NORMALISATION, read_resnet20


def score_generator(
    name: str | Path,
    data: str | Path | Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    resnet20: str | Path | None = None,
    report: Callable[[int, Scores], None] = lambda seed, scores: None,
    **options: Any,
) -> dict[str, Any]:
    """Measure how well a generator stands in for its data.

    Args:
        name: bundled name, or folder of a generator.
        data: folder with the data that its provenance names, or another kind, YAML or mapping;
            None: as its provenance has them.
        seeds: one or more; each decides samples, students and the order of images.
        resnet20: weights of the ResNet-20 for CIFAR-10, to measure with as well.
        report: hears of each seed.
        **options: of `ScoreSettings`: samples, student, student_images, ...

    Returns:
        the means of `Scores` over seeds, with name and hash of the generator, the settings, and
        the figures of each seed; ready for JSON.

    Raises:
        GeneratorError: if the generator cannot be read, or does not fit the data.
        DataError: if the data are not there.
        ConfigError: for an unknown option.
    """
    settings = ScoreSettings.read(options)
    stored = read_generator(name)
    known = _read_data(stored.provenance, stored.name, data)
    network = None if resnet20 is None else _read_network(resnet20)
    found = {}
    for seed in seeds:
        found[seed] = generators.score_generator(
            stored.generator, known, settings, seed=seed, network=network
        )
        report(seed, found[seed])
    return {
        "generator": stored.name,
        "sha256": stored.sha256,
        **mean_scores(list(found.values())),
        "fid_features": network.name if network else "the student trained on real images",
        "settings": settings.model_dump(mode="json"),
        "seeds": [{"seed": seed, **asdict(scores)} for seed, scores in found.items()],
    }


def mean_scores(scores: Sequence[Scores]) -> dict[str, float | None]:
    """Return the mean over seeds of each figure; None for one that was not measured."""
    names = [field.name for field in fields(Scores)]
    columns = {name: [getattr(s, name) for s in scores] for name in names}
    return {name: None if None in c else sum(c) / len(c) for name, c in columns.items()}


def _read_data(
    provenance: Mapping[str, Any], name: str, given: str | Path | Mapping[str, Any] | None
) -> Dataset:
    """Return the data that the user named, or those in the generator's provenance."""
    kind = provenance.get("training", {}).get("data")
    if isinstance(given, (str, Path)) and Path(given).expanduser().exists():
        moved = None if kind is None else at_place(DATASETS.parse(kind), given)
        if moved is None:
            raise DataError(
                f"{name} was not trained on data from such a place",
                got=str(given),
                fix="Name the data set by its kind: {kind: KIND, root: FOLDER}.",
            )
        return moved.build()
    if given is not None:
        kind = given if isinstance(given, Mapping) else parse_yaml(str(given), "data")
    if kind is None:
        raise GeneratorError(
            f"{name} does not say which data it was trained on", fix="Name them: --data, or data=."
        )
    return DATASETS.parse(kind).build()


def _read_network(path: str | Path) -> Network:
    network = read_resnet20(Path(path))
    return Network(NAME, NORMALISATION, network.embed, network)
