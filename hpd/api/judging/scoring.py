"""How well a generator stands in for the data it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from generators import read_generator
from hpd.api.naming import data_again
from hpd.boundary import public
from hpd.data import Dataset
from hpd.data.finding import data_settings
from hpd.errors import ConfigError, GeneratorError
from hpd.evaluation import generators
from hpd.evaluation.generators import Network, Scores, ScoreSettings
from hpd.machine.device import Processes, open_device
from hpd.students.networks.resnet20 import NAME, NORMALISATION, read_resnet20


@public
def score_generator(
    name: str | Path,
    data: str | Path | Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    resnet20: str | Path | None = None,
    device: str = "auto",
    processes: Processes | None = None,
    report: Callable[[int, Scores], None] = lambda seed, scores: None,
    **options: Any,
) -> dict[str, Any]:
    """Measure how well a generator stands in for its data.

    Args:
        name: bundled name, or folder of a generator.
        data: as for `load_dataset`, where the folder of the data that its provenance names needs
            none of their options; None: as its provenance has them.
        seeds: one or more; each decides samples, students and the order of images.
        resnet20: weights of the ResNet-20 for CIFAR-10, to measure with as well.
        device: where to measure.
        processes: that a launcher started, to share the seeds out: all of them call this at once,
            and get the same. None: this one alone.
        report: hears of each seed, in the first process.
        **options: of `ScoreSettings`: samples, student, student_images, ...

    Returns:
        the means of `Scores` over seeds, with name and hash of the generator, the settings, and
        the figures of each seed; ready for JSON.

    Raises:
        GeneratorError: if the generator cannot be read, or does not fit the data.
        DataError: if the data are not there.
        ConfigError: for an unknown option, or no seed.
    """
    settings = ScoreSettings.read(options)
    if not seeds or min(seeds) < 0:
        raise ConfigError(
            "seeds are not valid", got=list(seeds), expected="one or more, each 0 or more"
        )
    processes = processes or Processes()
    with processes.together():
        where, stored = open_device(device), read_generator(name)
        known = _read_data(stored.provenance, stored.name, data)
        network = None if resnet20 is None else _read_network(resnet20, where)
    found: dict[int, Scores] = {}
    for start in range(0, len(seeds), processes.count):
        own: dict[int, Scores] = {}
        with processes.together():
            for seed in seeds[start:][processes.rank : processes.rank + 1]:
                own[seed] = generators.score_generator(
                    stored.generator, known, settings, seed=seed, network=network, device=where
                )
        for theirs in processes.objects(own):
            found |= theirs
            for seed, scores in theirs.items():
                if processes.is_first:
                    report(seed, scores)
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
    if kind is None and given is None:
        raise GeneratorError(
            f"{name} does not say which data it was trained on", fix="Name them: --data, or data=."
        )
    settings = data_settings(given) if kind is None else data_again(data_settings(kind), given)
    return settings.build()


def _read_network(path: str | Path, device: torch.device) -> Network:
    network = read_resnet20(Path(path)).to(device)
    return Network(NAME, NORMALISATION, network.embed, network, device)
