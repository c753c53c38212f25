"""How well a generator stands in for the data it was trained on.

Sources: Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models,
NeurIPS 2019, for students trained on samples; Heusel et al., GANs Trained by a Two Time-Scale
Update Rule, NeurIPS 2017, for the Frechet distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from generators import Generator
from hpd.data import Dataset, Images, ImageSet, Normalisation
from hpd.errors import GeneratorError
from hpd.progress import told
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students import (
    STUDENTS,
    Student,
    StudentSettings,
    TrainingSettings,
    accuracy,
    in_batches,
    train_student,
)
from hpd.students.networks.convnet import ConvNetSettings

_CPU = torch.device("cpu")
_CHUNK = 500
_VARIANCE_VALUES = 1 << 22


class ScoreSettings(Settings):
    """What is measured with: the figures of two generators compare only at the same settings."""

    samples: int = Field(10_000, ge=10, description="of the generator, classes in turn")
    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(width=32), description="the classifier"
    )
    student_images: int = Field(
        50_000, ge=1, description="that each student sees in training, repetitions included"
    )
    batch_size: int = Field(64, ge=1, description="of a student's training")
    features_of: int = Field(10_000, ge=10, description="real images for the Frechet distance")


@dataclass(frozen=True)
class Scores:
    """What one seed measured; the seed decides samples, students and the order of images.

    Args:
        label_agreement: share of samples to which a student trained on the real training images
            gives the class that was asked for.
        student_ratio: test accuracy of a student trained on samples alone, divided by that of the
            same student trained on the real training images for as many steps. Samples that are
            all alike pass the first test and fail this one.
        accuracy_samples: the first of the two.
        accuracy_real: the second.
        diversity: spread of the pixels within a class, of samples divided by that of the real
            training images; 1 for as varied as the data.
        fid: Frechet distance of samples to real training images, on features of a network that
            is named where the figure is; of the student trained on real images if none is given.
        network_agreement: as `label_agreement`, by the network that was given; None without.
    """

    label_agreement: float
    student_ratio: float
    accuracy_samples: float
    accuracy_real: float
    diversity: float
    fid: float
    network_agreement: float | None = None


@dataclass(frozen=True)
class Network:
    """A trained classifier to measure with, beside the students.

    Args:
        name: what to call it where its figures stand.
        normalisation: what it wants of images in [0, 1].
        embed: normalised images [N, C, H, W] to features [N, E].
        classify: normalised images to logits [N, K].
        device: where it lies.
    """

    name: str
    normalisation: Normalisation
    embed: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor]
    device: torch.device = _CPU


@torch.no_grad()
def draw_samples(generator: Generator, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` samples in [0, 1], classes in turn, with the classes asked for.

    Returns:
        Images [count, C, H, W] and labels [count], on the CPU wherever the generator is.
    """
    labels = torch.arange(count) % generator.spec.num_classes
    device = next(generator.parameters()).device
    parts = []
    for part in told("drawing samples", labels.split(_CHUNK)):
        z = torch.randn(len(part), generator.spec.z_dim, generator=rng).to(device)
        parts.append(((generator(generator.map(z, part.to(device))) + 1) / 2).cpu())
    return torch.cat(parts).clamp(0, 1), labels


def within_class_spread(variances: Iterable[Tensor]) -> float:
    """Return ``mean_k sqrt(sum_chw var_{n in k} x[n, c, h, w])``.

    Args:
        variances: of each class k, over its images, [C, H, W].
    """
    return float(torch.stack([own.sum().sqrt() for own in variances]).mean())


def _variance(real: ImageSet, indices: Tensor) -> Tensor:
    """Return the variance over some images [C, H, W], some rows of pixels at a time."""
    channels, height, width = real.image_shape
    some = max(1, _VARIANCE_VALUES // (len(indices) * channels * width))
    parts = [
        replace(real, rows=real.rows[:, :, start : start + some], known_sha256=None)
        for start in range(0, height, some)
    ]
    return torch.cat([part.unit(indices).var(dim=0) for part in parts], dim=1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features [N, E] and [M, E].

    ``|m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2)`` with means m and n and covariances C and D,
    in float64. It depends on the number of features, so compare at equal ones.

    Source: Heusel et al., 2017, equation 6 (Dowson and Landau, 1982).
    """
    (m, c), (n, d) = (_moments(x.double()) for x in (a, b))
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp(min=0).sqrt().sum()
    return float((m - n).square().sum() + c.trace() + d.trace() - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [E] and covariance [E, E] of features [N, E]."""
    # of one feature torch.cov makes a number
    return features.mean(dim=0), torch.atleast_2d(torch.cov(features.t()))


def check_fit(generator: Generator, data: Dataset) -> None:
    """Check that a generator makes images like those of a data set.

    Raises:
        GeneratorError: if classes, channels or size differ.
    """
    spec = generator.spec
    got = (spec.num_classes, spec.channels, spec.resolution, spec.resolution)
    wanted = (data.train.num_classes, *data.train.image_shape)
    if got != wanted:
        raise GeneratorError(
            "the generator does not fit the data (classes, channels, height, width)",
            got=got,
            expected=wanted,
        )


def score_generator(
    generator: Generator,
    data: Dataset,
    settings: ScoreSettings,
    *,
    seed: int = 0,
    network: Network | None = None,
    device: torch.device = _CPU,
) -> Scores:
    """Measure one generator with one seed.

    The test images serve for accuracies alone.

    Args:
        generator: class-conditional, with the classes of `data`.
        data: its training part is what the generator was trained on.
        settings: what to measure with.
        seed: of samples and students.
        network: whose features the Frechet distance is taken on; it may lie anywhere.
        device: where samples are made and students trained; the generator is moved there.

    Raises:
        GeneratorError: if the generator does not fit the data.
    """
    check_fit(generator, data)
    streams = Streams(seed).fork("score generator")
    real, test = data.train, data.test
    unit, labels = draw_samples(
        generator.to(device), settings.samples, streams.generator("samples")
    )
    normalised, asked = real.normalisation.apply(unit).to(device), labels.to(device)
    from_real = _train(real.seen_on(device), real.labels.to(device), real, settings, streams)
    from_samples = _train(normalised, asked, real, settings, streams)
    seen, known = test.seen_on(device), test.labels.to(device)
    accuracy_real = accuracy(from_real, seen, known)
    accuracy_samples = accuracy(from_samples, seen, known)
    spreads = [
        within_class_spread(unit[labels == k].var(dim=0) for k in range(real.num_classes)),
        within_class_spread(_variance(real, own) for own in real.by_class),
    ]
    measure = network or Network("", real.normalisation, from_real.embed, from_real, device)
    order = torch.randperm(len(real), generator=streams.generator("real features"))
    chosen = order[: settings.features_of].split(_CHUNK)
    some = (real.unit(part) for part in told("asking a network", chosen))
    features = [
        _run(measure, measure.embed, unit),
        torch.cat([_run(measure, measure.embed, part) for part in some]),
    ]
    guesses = None if network is None else _run(network, network.classify, unit).argmax(dim=1)
    return Scores(
        label_agreement=accuracy(from_real, normalised, asked),
        student_ratio=accuracy_samples / accuracy_real,
        accuracy_samples=accuracy_samples,
        accuracy_real=accuracy_real,
        diversity=spreads[0] / spreads[1],
        fid=frechet_distance(*features),
        network_agreement=None if guesses is None else (guesses == labels).double().mean().item(),
    )


def _train(
    images: Images, labels: Tensor, real: ImageSet, settings: ScoreSettings, streams: Streams
) -> Student:
    """Train a student that starts alike and takes as many steps, whatever the size of its set."""
    epochs = math.ceil(settings.student_images / len(images))
    rng = streams.generator("training images")
    chosen = torch.randperm(len(images), generator=rng)[: settings.student_images // epochs]
    training = TrainingSettings(epochs=epochs, batch_size=settings.batch_size, schedule="cosine")
    rng = streams.generator("student")
    student = settings.student.build(real.image_shape, real.num_classes, rng).to(labels.device)
    part = images[chosen] if isinstance(images, Tensor) else images.at(chosen)
    return train_student(student, part, labels[chosen], training, streams.fork("training"))


def _run(network: Network, function: Callable[[Tensor], Tensor], unit: Tensor) -> Tensor:
    """Apply a part of the network to images [N, C, H, W] in [0, 1]."""

    def asked(part: Tensor) -> Tensor:
        return function(network.normalisation.apply(part).to(network.device)).cpu()

    return in_batches(asked, unit, _CHUNK)
