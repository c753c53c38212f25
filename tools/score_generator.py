"""Measure how well a generator stands in for the data it was trained on.

    python tools/score_generator.py digits16 --json scores.json

Three figures, for each seed:

label agreement
    the share of samples to which a student trained on the real training images gives the class
    that was asked for;
train-on-samples ratio
    the test accuracy of a student trained on samples alone, divided by that of the same student
    trained on the real training images for as many steps. Samples that are all alike pass the
    first test and fail this one;
within-class spread
    the root of the total pixel variance inside a class, averaged over classes, of samples divided
    by that of the real training images: 1 for as varied as the data.

The test images serve for the accuracy alone.

Source: Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models,
NeurIPS 2019, for the second figure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from torch import Tensor

from generators import Generator, StoredGenerator, read_generator
from hpd.data import DATASETS, Dataset
from hpd.errors import GeneratorError, HpdError
from hpd.files import write_json
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Student,
    StudentSettings,
    TrainingSettings,
    accuracy,
    train_student,
)

_STUDENT = "{kind: convnet, width: 64}"
_BATCH = 64
_CHUNK = 500


@dataclass(frozen=True)
class Scores:
    """What one seed measured.

    Args:
        seed: of samples and students.
        label_agreement: share of samples that get the class asked for.
        accuracy_samples: test accuracy of the student trained on samples.
        accuracy_real: test accuracy of the student trained on the real training images.
        ratio: the first divided by the second.
        spread: within-class spread of samples divided by that of the training images.
    """

    seed: int
    label_agreement: float
    accuracy_samples: float
    accuracy_real: float
    ratio: float
    spread: float


@torch.no_grad()
def draw_samples(generator: Generator, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` samples in [0, 1], classes in turn, with the classes asked for.

    Returns:
        Images [count, C, H, W] and labels [count].
    """
    labels = torch.arange(count) % generator.spec.num_classes
    parts = []
    for part in labels.split(_CHUNK):
        z = torch.randn(len(part), generator.spec.z_dim, generator=rng)
        parts.append((generator(generator.map(z, part)) + 1) / 2)
    return torch.cat(parts).clamp(0, 1), labels


def within_class_spread(images: Tensor, labels: Tensor, num_classes: int) -> float:
    """Return ``mean_k sqrt(sum_chw var_{n in k} x[n, c, h, w])`` of images [N, C, H, W]."""
    own = (images[labels == k] for k in range(num_classes))
    return float(torch.stack([x.var(dim=0).sum().sqrt() for x in own]).mean())


def score(
    generator: Generator,
    data: Dataset,
    student: StudentSettings,
    *,
    samples: int,
    student_images: int,
    seed: int,
) -> Scores:
    """Measure one generator with one seed.

    Args:
        generator: class-conditional, with the classes of `data`.
        data: its training part is what the generator was trained on.
        student: the classifier of both figures.
        samples: number of samples, for both figures.
        student_images: images that each student sees in training, repetitions included.
        seed: of samples and students.
    """
    streams = Streams(seed).fork("score generator")
    real, test = data.train, data.test
    unit, labels = draw_samples(generator, samples, streams.generator("samples"))
    normalised = real.normalisation.apply(unit)

    def trained(images: Tensor, labels: Tensor) -> Student:
        # both students start alike and take as many steps, whatever the size of their set
        settings = TrainingSettings(
            epochs=max(1, round(student_images / len(images))),
            batch_size=_BATCH,
            schedule="cosine",
        )
        fresh = student.build(real.image_shape, real.num_classes, streams.generator("student"))
        return train_student(fresh, images, labels, settings, streams.fork("training"))

    from_real = trained(real.normalised(), real.labels)
    from_samples = trained(normalised, labels)
    accuracy_real = accuracy(from_real, test.normalised(), test.labels)
    accuracy_samples = accuracy(from_samples, test.normalised(), test.labels)
    spreads = [
        within_class_spread(*part, real.num_classes)
        for part in ((unit, labels), (real.unit(), real.labels))
    ]
    return Scores(
        seed=seed,
        label_agreement=accuracy(from_real, normalised, labels),
        accuracy_samples=accuracy_samples,
        accuracy_real=accuracy_real,
        ratio=accuracy_samples / accuracy_real,
        spread=spreads[0] / spreads[1],
    )


def read_data(stored: StoredGenerator, named: str | None) -> Dataset:
    """Return the data set that the user named, or the one in the generator's provenance.

    Raises:
        GeneratorError: if neither is there, or the generator does not fit the data.
    """
    kind: Any = stored.provenance.get("training", {}).get("data")
    if named is not None:
        kind = yaml.safe_load(named)
    if kind is None:
        raise GeneratorError(
            f"{stored.name} does not say which data it was trained on", fix="Name them by --data."
        )
    data, spec = DATASETS.parse(kind).build(), stored.generator.spec
    got = (spec.num_classes, spec.channels, spec.resolution, spec.resolution)
    wanted = (data.train.num_classes, *data.train.image_shape)
    if got != wanted:
        raise GeneratorError(
            "the generator does not fit the data (classes, channels, height, width)",
            got=got,
            expected=wanted,
        )
    return data


@click.command()
@click.argument("name_or_folder")
@click.option("--data", help="kind, or a YAML mapping [default: as the generator says]")
@click.option("--student", default=_STUDENT, show_default=True, help="kind, or a YAML mapping")
@click.option("--samples", type=click.IntRange(10), default=5_000, show_default=True)
@click.option("--student-images", type=click.IntRange(1), default=50_000, show_default=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--threads", type=click.IntRange(1), help="of the CPU [default: all]")
@click.option("--json", "target", type=click.Path(path_type=Path), help="where to write them")
def main(
    name_or_folder: str,
    data: str | None,
    student: str,
    samples: int,
    student_images: int,
    seeds: tuple[int, ...],
    threads: int | None,
    target: Path | None,
) -> None:
    """Measure label agreement, train-on-samples ratio and spread of a generator."""
    if threads:
        torch.set_num_threads(threads)
    try:
        stored = read_generator(name_or_folder)
        known, classifier = read_data(stored, data), STUDENTS.parse(yaml.safe_load(student))
        options = {"samples": samples, "student_images": student_images}
        found = []
        for seed in seeds:
            found.append(score(stored.generator, known, classifier, seed=seed, **options))
            print(_sentence(found[-1]))
    except HpdError as error:
        raise click.ClickException(str(error)) from None
    names = ("label_agreement", "accuracy_samples", "accuracy_real", "ratio", "spread")
    means = {name: sum(getattr(s, name) for s in found) / len(found) for name in names}
    print(_sentence(Scores(seed=-1, **means), "mean"))
    if target is not None:
        report = {"generator": stored.name, "sha256": stored.sha256, **options}
        report |= {"student": STUDENTS.dump(classifier), "mean": means}
        write_json(target, report | {"seeds": [asdict(s) for s in found]})


def _sentence(scores: Scores, name: str | None = None) -> str:
    s = scores
    return (
        f"{name or f'seed {s.seed}'}: label agreement {s.label_agreement:.2%}, "
        f"trained on samples {s.accuracy_samples:.2%}, on real images {s.accuracy_real:.2%}, "
        f"ratio {s.ratio:.2%}, spread {s.spread:.2f}"
    )


if __name__ == "__main__":
    main()
